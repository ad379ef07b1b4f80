"""The scheduler's metrics: declarations, what a scrape says of a service, and the server that is scraped."""

import json
import os
import socket
import urllib.request
from collections.abc import Mapping
from pathlib import Path

import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from scheduler.core.events import DeviceSample, PoolSettings
from scheduler.core.machine import Scheduler
from scheduler.core.statistics import TenantStatistics
from scheduler.core.units import AcceleratorKind
from scheduler.metric import counter, gauge, histogram
from scheduler.metrics import EPOCH
from scheduler.metrics_server import MetricsPlace, MetricsServer
from scheduler.page import page
from scheduler.pool_collector import ServiceFigures, Tenants
from scheduler.process_collector import LoopLag, ProcessFigures
from scheduler.readings import Exposition, Readings
from scheduler.service import SILENT_NS, SchedulerService
from scheduler.ticks import OpenFlow, OpenPool, Tick
from tests.scheduler.epoch_memory import Clock, EpochMemory

MS = 1_000_000


def samples_of(exposition: Exposition) -> list[Sample]:
    return [sample for family in exposition.collect() for sample in family.samples]


def values(exposition: Exposition, name: str) -> dict[tuple[str, ...], float]:
    """Of one metric: the values of its labels, in the order of their names' declaration, and the sample's."""
    return {tuple(sample.labels.values()): sample.value for sample in samples_of(exposition) if sample.name == name}


class World:
    """A service with one host that has one pool."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.service = SchedulerService(EpochMemory(), Scheduler, self.clock)
        self.exposition = Exposition("scheduler", "head", (ServiceFigures(self.service.statistics),))
        self.sequence = 0

    def tick(self, *news: object, samples: tuple[DeviceSample, ...] = ()) -> None:
        self.sequence += 1
        first = self.sequence == 1
        tick = Tick("run/a", 1, self.sequence, 0, news, 1 if first else 2, first, (), samples, 0)  # type: ignore[arg-type]
        self.service.tick(tick)


SETTINGS = PoolSettings("run/a/iaa/0", "run/a", AcceleratorKind.IAA, 128, 16, 8)
LABELS = ("run/a/iaa/0", "a", "iaa")


def test_a_pool_is_told_by_its_own_the_hosts_and_its_kinds_name() -> None:
    world = World()
    flows = (OpenFlow("one/send", SETTINGS.pool, "drain", 1), OpenFlow("two/send", SETTINGS.pool, "drain", 1))
    world.tick(OpenPool(SETTINGS), *flows, samples=(DeviceSample(SETTINGS.pool, 10**9, 500, 3, 17, 2 * MS),))
    assert values(world.exposition, "kuaka_pool_capacity_slots") == {LABELS: 112}
    assert values(world.exposition, "kuaka_pool_observed_slots") == {LABELS: 17}
    assert values(world.exposition, "kuaka_pool_busy_device_seconds_total") == {LABELS: 1.0}
    assert values(world.exposition, "kuaka_pool_latency_p99_seconds") == {LABELS: 0.002}
    assert values(world.exposition, "kuaka_pool_control_state") == {
        (*LABELS, state): float(state == "steady") for state in ("down", "busy", "starved", "steady")
    }
    assert values(world.exposition, "kuaka_tenant_flows") == {(*LABELS, "drain"): 2}
    assert values(world.exposition, "kuaka_pool_flows")[(*LABELS, "bulk")] == 2
    assert values(world.exposition, "kuaka_scheduler_epoch") == {(): 1}
    assert values(world.exposition, "kuaka_scheduler_ticks_total") == {(): 1}


def test_a_pool_vanishes_with_its_host() -> None:
    world = World()
    world.tick(OpenPool(SETTINGS))
    assert values(world.exposition, "kuaka_pool_up") == {LABELS: 1}
    world.clock.now_ns += 2 * SILENT_NS
    other = Tick("run/b", 2, 1, 0, (), 1, True, (), (), 0)
    world.service.tick(other)
    assert values(world.exposition, "kuaka_pool_up") == {}
    assert values(world.exposition, "kuaka_scheduler_hosts") == {(): 1}


def tenants(used: Mapping[str, int], flows: int = 1) -> list[TenantStatistics]:
    return [TenantStatistics(name, 2, flows, used_ns) for name, used_ns in used.items()]


def test_so_many_tenants_have_a_name_and_the_rest_is_other() -> None:
    book = Tenants(most_named=2)
    told = book.follow(tenants({"a": 1, "b": 2, "c": 3, "d": 4}))
    assert {name: share.used_ns for name, share in told.items()} == {"a": 1, "b": 2, "other": 7}
    assert (told["other"].flows, told["other"].weight) == (2, 4)


def test_no_counter_of_a_tenant_falls_when_another_one_goes() -> None:
    book = Tenants(most_named=1)
    book.follow(tenants({"a": 10, "b": 5}))
    gone = [TenantStatistics("a", 2, 0, 10), *tenants({"b": 6, "c": 9})]
    told = {name: share.used_ns for name, share in book.follow(gone).items()}
    assert told["b"] == 6, "the name that was free is b's now"
    assert told["other"] >= 5, "what b had used without a name stays there"
    later = {name: share.used_ns for name, share in book.follow(gone).items()}
    assert later == told


def test_what_a_tenant_used_last_is_told_under_its_own_name() -> None:
    book = Tenants(most_named=2)
    book.follow(tenants({"a": 10}))
    ended = [TenantStatistics("a", 2, 0, 12), TenantStatistics("b", 2, 0, 3)]
    assert {name: share.used_ns for name, share in book.follow(ended).items()} == {"a": 12, "b": 3}
    assert book.follow(ended) == {}


def test_a_part_that_fails_costs_its_own_figures_only() -> None:
    def broken(readings: Readings) -> None:
        readings.put(EPOCH, 1)
        raise TimeoutError("busy")

    exposition = Exposition("agent", "a", (broken, ProcessFigures("agent", "a", LoopLag())))
    for scrape in (1, 2):
        assert values(exposition, "kuaka_exporter_failed_collections_total") == {("agent", "a"): scrape}
    found = {sample.name for sample in samples_of(exposition)}
    assert "kuaka_scheduler_epoch" not in found
    assert {"kuaka_process_resident_memory_bytes", "kuaka_process_event_loop_lag_seconds"} <= found


def test_a_histogram_counts_up_to_each_bound() -> None:
    metric = histogram("kuaka_wait_seconds", "How long.", (0.5, 2.5))
    readings = Readings()
    readings.put_distribution(metric, [1, 2, 3], 12.5)
    (family,) = readings.families()
    assert [(sample.name, sample.labels.get("le"), sample.value) for sample in family.samples] == [
        ("kuaka_wait_seconds_bucket", "0.5", 1),
        ("kuaka_wait_seconds_bucket", "2.5", 3),
        ("kuaka_wait_seconds_bucket", "+Inf", 6),
        ("kuaka_wait_seconds_count", None, 6),
        ("kuaka_wait_seconds_sum", None, 12.5),
    ]


def test_a_page_says_what_the_clients_own_writer_says() -> None:
    odd = gauge("kuaka_odd_bytes", "Has a \\ and a\nnewline.", ("name",))

    def part(readings: Readings) -> None:
        for number, name in enumerate(("plain", 'quoted " name', "back\\slash", "new\nline", "kuākā")):
            readings.put(odd, number * 1e18 + 0.5, name)
        readings.put_distribution(histogram("kuaka_wait_seconds", "How long.", (0.5,)), [1, 2], 2.5)
        readings.put(counter("kuaka_things_total", "Things."), True)

    registry = Exposition("agent", "a", (part,)).registry
    ours, theirs = (
        [
            (family.name, family.type, family.documentation, family.samples)
            for family in text_string_to_metric_families(text)
        ]
        for text in (page(registry).decode(), generate_latest(registry).decode())
    )
    assert ours == theirs


def test_a_sample_needs_each_of_its_labels() -> None:
    with pytest.raises(ValueError, match="zip"):
        Readings().put(gauge("kuaka_slots", "Slots.", ("pool",)), 1)


# The server.


def place(folder: Path, role: str = "agent", **environ: str) -> MetricsPlace | None:
    return MetricsPlace.of(role, "a", folder / "metrics", "10.1.0.1", environ)


def scrape(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        return str(answer.read().decode())


def exposition_of_one() -> Exposition:
    def one(readings: Readings) -> None:
        readings.put(counter("kuaka_things_total", "Things."), 42)

    return Exposition("agent", "a", (one,))


def test_a_server_announces_its_port_and_takes_that_back(tmp_path: Path) -> None:
    server = MetricsServer.start(place(tmp_path), exposition_of_one().registry)
    assert server is not None
    (file,) = (tmp_path / "metrics").iterdir()
    assert file.suffix == ".json"
    assert json.loads(file.read_text()) == [
        {"targets": [f"127.0.0.1:{server.port}"], "labels": {"exporter": "agent", "exporter_host": "a"}}
    ]
    families = list(text_string_to_metric_families(scrape(server.port)))
    assert [
        sample.value for family in families for sample in family.samples if sample.name == "kuaka_things_total"
    ] == [42]
    assert {sample.name for family in families for sample in family.samples} == {
        "kuaka_things_total",
        "kuaka_exporter_failed_collections_total",
    }
    server.stop()
    assert not file.exists()
    with pytest.raises(OSError, match="refused"):
        scrape(server.port)


def test_a_port_that_is_taken_is_one_line_and_another_one_is_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        server = MetricsServer.start(place(tmp_path, KUAKA_METRICS_PORT=str(port)), exposition_of_one().registry)
    assert server is not None
    assert server.port != port
    assert "kuaka_things_total 42.0" in scrape(server.port)
    server.stop()
    (record,) = caplog.records
    assert f"port {port} of 127.0.0.1 is taken" in record.getMessage()


def test_an_address_that_is_none_of_ours_is_one_line_and_no_exporter(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert MetricsServer.start(place(tmp_path, KUAKA_METRICS_ADDRESS="192.0.2.1"), exposition_of_one().registry) is None
    assert len(caplog.records) == 1
    assert not (tmp_path / "metrics").exists()


def test_a_directory_that_cannot_be_written_is_one_line_and_the_exporter_is_there(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "metrics").write_text("in the way")
    server = MetricsServer.start(place(tmp_path), exposition_of_one().registry)
    assert server is not None
    assert "kuaka_things_total 42.0" in scrape(server.port)
    server.stop()
    assert "is not announced" in caplog.text


def test_files_of_dead_processes_are_removed_by_the_next_exporter(tmp_path: Path) -> None:
    folder = tmp_path / "metrics"
    folder.mkdir()
    dead, foreign = folder / f"agent-{os.getpid()}-1-9000.json", folder / "mine.json"
    dead.write_text("[]")
    foreign.write_text("[]")
    server = MetricsServer.start(place(tmp_path), exposition_of_one().registry)
    assert server is not None
    assert not dead.exists()
    assert foreign.exists()
    server.stop()


@pytest.mark.parametrize(
    ("role", "environ", "expected"),
    [
        ("agent", {}, ("127.0.0.1", 0, "127.0.0.1")),
        ("agent", {"KUAKA_METRICS_PORT": "9700"}, ("127.0.0.1", 9700, "127.0.0.1")),
        ("controller", {"KUAKA_METRICS_PORT": "9700"}, ("127.0.0.1", 9701, "127.0.0.1")),
        ("scheduler", {"KUAKA_METRICS_PORT": "9700"}, ("127.0.0.1", 9702, "127.0.0.1")),
        ("agent", {"KUAKA_METRICS_ADDRESS": "0.0.0.0"}, ("0.0.0.0", 0, "10.1.0.1")),
        ("agent", {"KUAKA_METRICS_ADDRESS": "10.9.0.1"}, ("10.9.0.1", 0, "10.9.0.1")),
    ],
)
def test_the_environment_says_where(
    role: str, environ: dict[str, str], expected: tuple[str, int, str], tmp_path: Path
) -> None:
    found = place(tmp_path, role, **environ)
    assert found is not None
    assert (found.address, found.port, found.reachable) == expected


def test_off_is_off_and_nonsense_is_refused(tmp_path: Path) -> None:
    assert place(tmp_path, KUAKA_METRICS="off") is None
    assert MetricsServer.start(None, exposition_of_one().registry) is None
    for port in ("many", "-1", "65535"):
        with pytest.raises(ValueError, match="give a port"):
            place(tmp_path, KUAKA_METRICS_PORT=port)
