"""Declarations of metrics, and their reference: what docs/metrics.md says is what there is."""

import re
import subprocess
from pathlib import Path

import pytest

from pipeline.fleet.host_collector import HostFigures
from pipeline.fleet.migration_tally import MigrationTally
from scheduler.core.events import DeviceSample
from scheduler.metric import Metric, MetricKind
from scheduler.page import page as text_of
from scheduler.process_collector import LoopLag, ProcessFigures
from scheduler.readings import Exposition
from scheduler.ticks import OpenFlow, OpenPool
from tests.fleet.host_snapshots import guest, host
from tests.metrics_table import EVERY, tables
from tests.needs import need
from tests.scheduler.test_metrics import SETTINGS, World

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs" / "metrics.md"


@pytest.mark.parametrize("metric", EVERY, ids=lambda metric: metric.name)
def test_a_metric_is_named_as_prometheus_wants_it(metric: Metric) -> None:
    assert re.fullmatch(r"kuaka_[a-z][a-z0-9_]*[a-z0-9]", metric.name)
    assert (metric.kind is MetricKind.COUNTER) == metric.name.endswith("_total")
    assert metric.help.endswith(".")
    assert len(metric.labels) == len(set(metric.labels))
    assert not {"le", "quantile", "job", "instance"} & set(metric.labels)
    assert list(metric.buckets) == sorted(set(metric.buckets))
    assert bool(metric.buckets) == (metric.kind is MetricKind.HISTOGRAM)
    for unit in ("ns", "ms", "mib", "pages_bytes"):
        assert not re.search(rf"_{unit}(_|$)", metric.name), "base units only"


def test_no_metric_is_declared_twice() -> None:
    names = [metric.name for metric in EVERY]
    assert len(names) == len(set(names))


def test_the_reference_is_made_of_the_declarations() -> None:
    text = DOCS.read_text()
    assert text.partition("## All of them\n\n")[2].strip() == tables(), "python -m tests.metrics_table prints it anew"


def test_every_metric_that_the_reference_names_exists() -> None:
    named = set(re.findall(r"`(kuaka_[a-z0-9_]*[a-z0-9])`", DOCS.read_text()))
    assert named == {metric.name for metric in EVERY}


def test_every_metric_that_any_page_names_exists() -> None:
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "helm" / "kuaka" / "README.md"]
    # A family, as in `kuaka_vmi_migration_*`, ends in an underscore here.
    named = {name for page in pages for name in re.findall(r"\bkuaka_[a-z0-9_]+", page.read_text())}
    metrics = {metric.name for metric in EVERY}
    unknown = {
        name for name in named if not any(each == name or each.startswith(f"{name.rstrip('_')}_") for each in metrics)
    }
    assert unknown == set()


def test_promtool_has_nothing_to_say_against_a_page() -> None:
    promtool = need("promtool")
    world = World()
    sample = DeviceSample(SETTINGS.pool, 10**9, 500, 3, 17, 2_000_000)
    world.tick(OpenPool(SETTINGS), OpenFlow("one/send", SETTINGS.pool, "drain", 1), samples=(sample,))
    snapshot = host([guest("db-1")])
    agent = Exposition(
        "agent", "a", (HostFigures("a", lambda: snapshot), MigrationTally(), ProcessFigures("agent", "a", LoopLag()))
    )
    for page in (world.exposition, agent):
        checked = subprocess.run(
            [promtool, "check", "metrics"],
            input=text_of(page.registry),
            capture_output=True,
            timeout=30,
            check=False,
        )
        assert (checked.returncode, checked.stdout.decode(), checked.stderr.decode()) == (0, "", "")
