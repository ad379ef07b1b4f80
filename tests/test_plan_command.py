"""`kuaka plan` and `kuaka migrate --dry-run`: the same plan, three ways to print it, exit codes, and no Ray."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.errors import ExitCode, SpecError
from pipeline.output import Output
from pipeline.plan_command import run_plan
from tests.fleet.plan.specs import document, guest, image

ROOT = Path(__file__).parents[1]
TOO_FAST = {"codec": "none", "bandwidthPerMigration": "50MB"}


def spec_file(tmp_path: Path, *machines: dict[str, Any], **fields: Any) -> Path:
    path = tmp_path / "fleet.yaml"
    hosts = [{"name": "a", "node": "10.0.0.1"}, {"name": "b", "node": "10.0.0.2"}]
    path.write_text(yaml.safe_dump(document(hosts, machines, "drain", **fields)))
    return path


def test_the_table_has_order_concurrency_times_and_reasons(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = spec_file(tmp_path, guest("mad", dirtyRate="900MB"), image("small"), image("big", memory="2GiB"), **TOO_FAST)
    assert run_plan(path, Output.TABLE, 2) == ExitCode.PARTIAL
    out, err = capsys.readouterr()
    lines = [line.split() for line in out.splitlines() if line.strip()]
    assert out.startswith("drain: 2 migrations in about 26.2 s, 2 at the same time")
    assert lines[3] == ["big", "a", "b", "default", "-", "2", "GiB", "0.0", "s", "26.2", "s"]
    assert lines[4][0] == "small"
    assert "mad cannot go: it writes 900 MB/s" in out
    assert err == ""


def test_what_is_assumed_goes_to_stderr(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_plan(spec_file(tmp_path, image("i", memory=None)), Output.TABLE, 2) == ExitCode.OK
    assert capsys.readouterr().err == "kuaka: i: memory is not known, taken as 1 GiB: say memory\n"


def test_json_and_yaml_say_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = spec_file(tmp_path, image("one"), guest("mad", dirtyRate="900MB"), **TOO_FAST)
    run_plan(path, Output.JSON, 2)
    found = json.loads(capsys.readouterr().out)
    run_plan(path, Output.YAML, 2)
    assert yaml.safe_load(capsys.readouterr().out) == found
    assert (found["fleet"], found["most_at_once"], list(found["cannot_go"])) == ("drain", 1, ["mad"])
    assert found["migrations"][0] == {
        "vm": "one",
        "kind": "image",
        "source": "a",
        "destination": "b",
        "priority": 0,
        "policy": None,
        "memory_bytes": 1 << 30,
        "memory_known_by": "spec",
        "begins_s": 0.0,
        "ends_s": found["whole_s"],
        "waits_for": None,
        "late_s": None,
    }


def test_a_fleet_of_which_nobody_can_go_is_rejected(tmp_path: Path) -> None:
    assert run_plan(spec_file(tmp_path, guest("mad", dirtyRate="900MB"), **TOO_FAST), Output.JSON, 2) == 4


def test_a_spec_that_is_wrong_has_no_plan(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="there is no host 'nowhere'"):
        run_plan(spec_file(tmp_path, guest("g", source="nowhere")), Output.TABLE, 2)


def test_a_dry_run_is_the_plan_and_needs_no_ray(tmp_path: Path) -> None:
    path = spec_file(tmp_path, image("one"))
    outputs = []
    for arguments in (["plan", str(path)], ["migrate", str(path), "--dry-run"]):
        code = (
            "import sys; sys.modules['ray'] = None; from pipeline.cli import main;"
            f" sys.argv = ['kuaka', *{[*arguments, '-o', 'json']!r}]; main()"
        )
        outputs.append(subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=True).stdout)
    assert outputs[0] == outputs[1]
    assert json.loads(outputs[0])["migrations"][0]["vm"] == "one"


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*fleet*.yaml")), ids=lambda path: path.name)
def test_every_example_plans(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_plan(path, Output.JSON, 2) == ExitCode.OK
    assert json.loads(capsys.readouterr().out)["migrations"]


def test_a_long_table_is_cut_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_plan(spec_file(tmp_path, *(image(f"i{n}", memory="1MiB") for n in range(503))), Output.TABLE, 2) == 0
    assert "and 3 more, later: -o json has all" in capsys.readouterr().out
