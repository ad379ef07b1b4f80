"""Prometheus' rules: promtool takes them, every alert has been seen firing and silent, and has its runbook."""

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.dashboards.declared import SERIES
from tests.dashboards.promql import grouped_labels, matched_labels, metrics
from tests.needs import need

ROOT = Path(__file__).parent.parent.parent
#: The chart has copies of the first two, and one of its own.
RULE_FILES = [*sorted((ROOT / "dashboards/rules").glob("*.yaml")), ROOT / "helm/kuaka/files/rules.yaml"]
UNIT_TESTS = sorted((ROOT / "tests/dashboards/rules").glob("*.yaml"))
TESTS: list[dict[str, Any]] = [test for path in UNIT_TESTS for test in yaml.safe_load(path.read_text())["tests"]]
RULES: list[dict[str, Any]] = [
    rule for path in RULE_FILES for group in yaml.safe_load(path.read_text())["groups"] for rule in group["rules"]
]
ALERTS = {rule["alert"]: rule for rule in RULES if "alert" in rule}
RECORDS = {rule["record"]: rule for rule in RULES if "record" in rule}
RUNBOOK = ROOT / "docs/runbook.md"
#: What Prometheus itself says of a target, and labels that our exporters' files or the chart's PodMonitor give theirs.
TARGETS = {"up": {"exporter", "exporter_host", "job", "endpoint", "ray_io_node_type"}}

each_alert = pytest.mark.parametrize("name", ALERTS)


def _promtool(*arguments: str | Path, memory: Path = Path("/dev/shm")) -> subprocess.CompletedProcess[str]:
    """Run it; its data base need not reach a disk."""
    environment = {**os.environ, "TMPDIR": str(memory)}
    return subprocess.run(
        [need("promtool"), *arguments], env=environment, capture_output=True, text=True, check=False, timeout=60
    )


def _outcomes(kind: str) -> list[dict[str, Any]]:
    return [outcome for test in TESTS for outcome in test.get(kind, ())]


def test_promtool_takes_the_rules() -> None:
    found = _promtool("check", "rules", *RULE_FILES)
    assert found.returncode == 0, found.stdout + found.stderr


@pytest.mark.parametrize("path", UNIT_TESTS, ids=lambda path: str(path.stem))
def test_rules_do_what_their_unit_tests_say(path: Path) -> None:
    found = _promtool("test", "rules", path)
    assert found.returncode == 0, found.stdout + found.stderr


def test_promtool_says_no_where_an_alert_is_not_what_its_test_says(tmp_path: Path) -> None:
    for path in RULE_FILES:
        (tmp_path / path.name).write_text(path.read_text().replace("== 0", "== 7"))
    text = next(path for path in UNIT_TESTS if path.stem == "exporters").read_text()
    (tmp_path / "test.yaml").write_text(text.replace("../../../dashboards/rules/", ""))
    found = _promtool("test", "rules", tmp_path / "test.yaml")
    assert found.returncode == 1
    assert "KuakaExporterGone" in found.stdout + found.stderr


@each_alert
def test_an_alert_has_been_seen_firing_and_silent(name: str) -> None:
    tests = [outcome for outcome in _outcomes("alert_rule_test") if outcome["alertname"] == name]
    assert any(outcome["exp_alerts"] for outcome in tests), "no test in which it fires"
    assert any(not outcome["exp_alerts"] for outcome in tests), "no test in which it is silent"


@pytest.mark.parametrize("name", RECORDS)
def test_a_recording_rule_has_been_seen_recording(name: str) -> None:
    assert any(outcome["expr"] == name and outcome["exp_samples"] for outcome in _outcomes("promql_expr_test"))


@each_alert
def test_an_alert_says_how_urgent_it_is_and_what_has_happened(name: str) -> None:
    alert = ALERTS[name]
    assert name.startswith("Kuaka")
    assert alert["labels"]["severity"] in ("critical", "warning")
    assert {"summary", "description", "runbook"} == alert["annotations"].keys()
    assert alert["annotations"]["description"].endswith(".")


@each_alert
def test_an_alert_has_a_section_of_the_runbook_that_says_what_to_do(name: str) -> None:
    file, _, anchor = ALERTS[name]["annotations"]["runbook"].partition("#")
    assert (ROOT / file, anchor) == (RUNBOOK, name.lower())
    section = re.search(rf"^## {name}$(.*?)(?=^## |\Z)", RUNBOOK.read_text(), re.MULTILINE | re.DOTALL)
    assert section is not None
    for heading in ("**What it means.**", "**How to look.**", "**What to do.**"):
        assert heading in section[1], heading


def test_the_runbook_has_no_section_of_an_alert_that_is_gone() -> None:
    assert set(re.findall(r"^## (Kuaka\w+)$", RUNBOOK.read_text(), re.MULTILINE)) == ALERTS.keys()


def test_panels_that_the_runbook_speaks_of_exist() -> None:
    boards = [json.loads(path.read_text()) for path in (ROOT / "dashboards/json").glob("*.json")]
    titles = {panel["title"] for board in boards for panel in board["panels"]}
    named = {" ".join(title.split()) for title in re.findall(r'"([^"]+)"', RUNBOOK.read_text())}
    assert named
    assert named <= titles


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.get("alert") or rule.get("record"))
def test_every_name_in_a_rule_exists(rule: dict[str, Any]) -> None:
    known = {**SERIES, **TARGETS}
    names = metrics(rule["expr"])
    assert names
    assert names <= known.keys() | RECORDS.keys()
    assert all(asked <= known[name] for name, asked in matched_labels(rule["expr"]))
    labels = set().union(*(known.get(name, set()) for name in names), *_labels_of_records(names))
    # These two are made of source and destination.
    assert grouped_labels(rule["expr"]) - {"host"} <= labels


@each_alert
def test_the_words_of_an_alert_name_labels_that_it_has(name: str) -> None:
    alert = ALERTS[name]
    used = set(re.findall(r"\$labels\.(\w+)", " ".join(alert["annotations"].values())))
    fired = [outcome for outcome in _outcomes("alert_rule_test") if outcome["alertname"] == name]
    for alarm in (alarm for outcome in fired for alarm in outcome["exp_alerts"]):
        assert used <= alarm["exp_labels"].keys()


def test_groups_and_rules_have_names_of_their_own() -> None:
    groups = [group["name"] for path in RULE_FILES for group in yaml.safe_load(path.read_text())["groups"]]
    assert len(groups) == len(set(groups))
    assert len(RULES) == len(ALERTS) + len(RECORDS)


def _labels_of_records(names: set[str]) -> list[set[str]]:
    return [grouped_labels(RECORDS[name]["expr"]) for name in names & RECORDS.keys()]
