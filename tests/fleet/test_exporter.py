"""Exporters: what an agent's page says of its host, what a controller's says of its fleets, and what they never do."""

import asyncio
import threading
import urllib.request
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.fleet import exporter as exporter_module
from pipeline.fleet.controller import Controller
from pipeline.fleet.events import Event
from pipeline.fleet.exporter import agent_exporter
from pipeline.fleet.fleet_collector import FleetWatch
from pipeline.fleet.host_accelerators import AcceleratorStatistics
from pipeline.fleet.host_collector import HostFigures
from pipeline.fleet.host_statistics import HostStatistics
from pipeline.fleet.lifecycle import FINAL, State
from pipeline.fleet.migration_tally import MOST_NAMED, MigrationTally
from scheduler.flow_state import WHY_NONE
from scheduler.page import page as text_of
from scheduler.readings import Exposition
from tests.fleet.fleet_specs import machine, spec_of
from tests.fleet.fleet_story import Story, Wish
from tests.fleet.fleet_world import SECOND_NS
from tests.fleet.host_snapshots import POOL, guest, host, image, series, values
from tests.metrics_table import EVERY

VM = ("a", "drain", "db-1")


def page_of(snapshot: HostStatistics) -> Exposition:
    return Exposition("agent", "a", (HostFigures("a", lambda: snapshot),))


def test_a_guest_that_leaves_is_told_by_host_fleet_and_machine() -> None:
    page = page_of(host([guest("db-1")]))
    assert values(page, "kuaka_vmi_migration_data_bytes_total") == {VM: 1 << 30}
    assert values(page, "kuaka_vmi_migration_data_processed_bytes") == {VM: 4_096_000}
    assert values(page, "kuaka_vmi_migration_data_remaining_bytes") == {VM: 5_000_000}
    assert values(page, "kuaka_vmi_migration_dirty_memory_rate_bytes") == {VM: 1_000_000}
    assert values(page, "kuaka_vmi_migration_memory_transfer_rate_bytes") == {VM: 90_000_000}
    assert values(page, "kuaka_vmi_migration_rounds") == {VM: 3}
    assert values(page, "kuaka_vmi_migration_pages_total") == {
        (*VM, "zero"): 300, (*VM, "same"): 50, (*VM, "normal"): 650,
    }  # fmt: skip
    assert values(page, "kuaka_vmi_migration_coded_pages_total") == {(*VM, "accelerator"): 400, (*VM, "cpu"): 250}
    assert values(page, "kuaka_vmi_migration_credit_wait_seconds_total") == {VM: 0.03}
    assert values(page, "kuaka_vmi_migration_ticket_wait_seconds") == {VM: 0.0125}


def test_an_image_has_no_rounds_and_what_remains_is_what_was_not_read() -> None:
    page = page_of(host([image("suspended-7")], accelerated=False))
    assert values(page, "kuaka_vmi_migration_data_remaining_bytes") == {("a", "drain", "suspended-7"): 4_096_000}
    assert values(page, "kuaka_vmi_migration_rounds") == {}
    assert values(page, "kuaka_host_migrations")["a", "send", "image"] == 1


def test_a_host_tells_bytes_by_codec_and_pages_by_kind_since_it_is_there() -> None:
    page = page_of(host())
    assert values(page, "kuaka_host_raw_bytes_total") == {("a", "zstd"): 600 * 4096, ("a", "none"): 50 * 4096}
    assert values(page, "kuaka_host_wire_bytes_total") == {("a", "zstd"): 1_795_200, ("a", "none"): 204_800}
    assert values(page, "kuaka_host_pages_total") == {
        ("a", "announced_zero"): 100, ("a", "zero"): 200, ("a", "same"): 50, ("a", "normal"): 650,
    }  # fmt: skip
    assert values(page, "kuaka_host_received_wire_bytes_total") == {("a",): 100}
    assert values(page, "kuaka_host_failed_sessions_total") == {("a", "send"): 1, ("a", "receive"): 0}


def test_fallbacks_are_told_by_pool_and_reason_and_a_scan_codes_no_pages() -> None:
    page = page_of(host())
    told = values(page, "kuaka_host_fallbacks_total")
    assert {key: value for key, value in told.items() if value} == {
        ("a", POOL, "queued"): 7, ("a", POOL, "used-up"): 2,
    }  # fmt: skip
    assert values(page, "kuaka_host_coded_pages_total") == {("a", "cpu"): 250, ("a", "iaa"): 400}
    assert values(page, "kuaka_host_scheduler_silence_seconds") == {("a",): 0.15}
    assert values(page, "kuaka_host_pool_overloaded")["a", POOL] == 1


def test_counters_of_a_pool_are_there_before_anything_is_counted() -> None:
    idle = AcceleratorStatistics(150_000_000, {}, {POOL: "iaa"}, {})
    page = page_of(replace(host(), accelerators=idle))
    assert values(page, "kuaka_host_fallbacks_total") == {("a", POOL, reason): 0 for reason in WHY_NONE}
    assert values(page, "kuaka_host_device_seconds_total") == {("a", POOL): 0}
    assert values(page, "kuaka_host_coded_pages_total") == {("a", "cpu"): 0, ("a", "iaa"): 0}


def test_series_of_a_machine_vanish_with_its_migration() -> None:
    before = series(page_of(host()))
    during = series(page_of(host([guest(f"vm-{number}") for number in range(50)])))
    after = series(page_of(host()))
    assert {name for name, labels in during if "vm" in dict(labels)} == {
        metric.name for metric in EVERY if metric.labels[:3] == ("host", "fleet", "vm")
    }
    assert after == before
    assert not any("vm" in dict(labels) for _, labels in after)


def test_of_two_attempts_of_one_machine_the_newer_one_is_told() -> None:
    page = page_of(host([guest("db-1", wire_bytes=1), guest("db-1", wire_bytes=2)]))
    series(page)
    assert values(page, "kuaka_vmi_migration_wire_bytes_total") == {VM: 2}


def test_labels_are_those_declared_and_a_thousand_migrations_fit_into_two_mib() -> None:
    declared = {metric.name: metric for metric in EVERY}
    page = page_of(host([guest(f"database-{number:04}") for number in range(1000)]))
    for name, labels in series(page):
        assert tuple(dict(labels)) == declared[name].labels
    assert len(text_of(page.registry)) < 2 << 20


# The agent's, over HTTP.


class SlowHost:
    """Answers, or not."""

    def __init__(self) -> None:
        self.snapshot = host([guest("db-1")])
        self.stuck = False

    async def statistics(self) -> HostStatistics:
        if self.stuck:
            await asyncio.sleep(3600)
        return self.snapshot


def fetch(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        return str(answer.read().decode())


def test_an_agents_page_is_read_on_its_loop_and_ends_with_it(tmp_path: Path) -> None:
    async def story() -> None:
        watched, threads = SlowHost(), threading.active_count()
        exporter = agent_exporter("a", "127.0.0.1", watched, tmp_path / "metrics")
        assert exporter.port is not None
        page = await asyncio.to_thread(fetch, exporter.port)
        assert 'kuaka_vmi_migration_rounds{host="a",fleet="drain",vm="db-1"} 3.0' in page
        assert 'kuaka_process_event_loop_lag_seconds{role="agent",host="a"}' in page
        watched.snapshot = host()
        assert 'vm="' not in await asyncio.to_thread(fetch, exporter.port)
        assert len(list((tmp_path / "metrics").iterdir())) == 1
        await exporter.stop()
        assert not list((tmp_path / "metrics").iterdir())
        assert not [thread.name for thread in threading.enumerate() if thread.name == "metrics"]
        assert exporter.port is None
        assert threading.active_count() <= threads + 5, "only asyncio's own"

    asyncio.run(story())


def test_a_host_that_does_not_answer_costs_its_figures_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporter_module, "SCRAPE_TIMEOUT_S", 0.05)

    async def story() -> None:
        watched = SlowHost()
        watched.stuck = True
        exporter = agent_exporter("a", "127.0.0.1", watched, tmp_path / "metrics")
        assert exporter.port is not None
        page = await asyncio.to_thread(fetch, exporter.port)
        assert "kuaka_host_" not in page
        assert 'kuaka_exporter_failed_collections_total{role="agent",host="a"} 1.0' in page
        assert "kuaka_process_resident_memory_bytes" in page
        await exporter.stop()

    asyncio.run(story())


def test_off_or_nonsense_in_the_environment_is_no_exporter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def story() -> None:
        for variable, value in (("KUAKA_METRICS", "off"), ("KUAKA_METRICS_PORT", "many")):
            with monkeypatch.context() as context:
                context.setenv(variable, value)
                exporter = agent_exporter("a", "127.0.0.1", SlowHost(), tmp_path / "metrics")
                assert exporter.port is None
                await exporter.stop()

    asyncio.run(story())
    assert [record.getMessage() for record in caplog.records] == [
        "no metrics of agent a: KUAKA_METRICS_PORT is 'many': give a port, 0 for any"
    ]


# The controller's.


THREE = spec_of(*(machine(f"vm-{number}", "a", "b") for number in (1, 2, 3)))


class Watching:
    """A watch over a story's controller from its beginning on."""

    def __init__(self, *wishes: Wish, spec: dict[str, Any] = THREE) -> None:
        self.watch: FleetWatch | None = None
        self.story = Story([("drain", spec)], wishes=[(0.0, self._begin), *wishes])

    def _begin(self, controller: Controller) -> None:
        loop = asyncio.get_running_loop()
        self.watch = FleetWatch(controller, lambda: int(loop.time() * SECOND_NS))

        async def keep_watching(watch: FleetWatch) -> None:
            await watch.begin()
            await watch.run()

        self.task = loop.create_task(keep_watching(self.watch))

    @property
    def page(self) -> Exposition:
        assert self.watch is not None
        return Exposition("controller", "head", (self.watch, self.watch.tally))

    def tell(self) -> None:
        self.story.tell()
        assert self.story.world.broken == []
        assert self.watch is not None
        asyncio.run(self.watch.look())


def test_a_fleet_under_way_is_told_by_phase_progress_and_what_waits() -> None:
    seen: list[tuple[dict[tuple[str, ...], float], ...]] = []
    names = (
        "kuaka_vmi_migrations_in_pending_phase",
        "kuaka_vmi_migrations_in_running_phase",
        "kuaka_fleet_longest_wait_seconds",
        "kuaka_fleet_progress_ratio",
        "kuaka_fleet_eta_seconds",
        "kuaka_vmi_migration_info",
    )

    def look(_controller: Controller) -> None:
        series(watching.page)
        seen.append(tuple(values(watching.page, name) for name in names))

    # Two at a time, some seconds each.
    watching = Watching((5.0, look), spec=spec_of(*(machine(f"vm-{number}", "a", "b") for number in range(6))))
    watching.tell()
    ((pending, running, longest, progress, eta, info),) = seen
    assert (pending, running) == ({("drain",): 4}, {("drain",): 2})
    assert longest["drain",] == pytest.approx(5.0, abs=1.5)
    assert 0 < progress["drain",] < 1
    assert 0 < eta["drain",] < 600
    assert set(info) == {("drain", f"vm-{number}", "Running", "qemu", "a", "b") for number in (0, 1)}


def test_what_has_ended_is_counted_and_no_series_of_its_machines_is_left() -> None:
    watching = Watching()
    watching.tell()
    page = watching.page
    assert values(page, "kuaka_migrations_finished_total") == {
        ("drain", "succeeded"): 3, ("drain", "failed"): 0, ("drain", "cancelled"): 0,
    }  # fmt: skip
    assert values(page, "kuaka_migration_phase_transitions_total")["Running",] == 3
    assert values(page, "kuaka_migration_queue_wait_seconds_count") == {(): 3}
    assert values(page, "kuaka_migration_retries_total") == {(): 0}
    lasted = values(page, "kuaka_migration_phase_duration_seconds_sum")
    since = {state: sum(event.time_ns for event in watching.story.events() if event.state == state) for state in State}
    assert lasted["Running",] == pytest.approx((since[State.SWITCHOVER] - since[State.RUNNING]) / 1e9)
    results = watching.story.results().values()
    assert values(page, "kuaka_migration_duration_seconds_count") == {
        (): sum(result.total_ms is not None for result in results)
    }
    assert values(page, "kuaka_migrated_bytes_total") == {(): sum(result.raw_bytes for result in results)}
    assert not any({"vm"} & dict(labels).keys() for _, labels in series(page))
    assert values(page, "kuaka_fleet_progress_ratio") == {}


def test_a_controller_that_comes_later_counts_only_what_it_sees() -> None:
    watching = Watching()
    watching.tell()
    assert watching.watch is not None
    later = FleetWatch(watching.watch._watched, lambda: 0)

    async def story() -> None:
        await later.begin()
        await later.look()

    asyncio.run(story())
    page = Exposition("controller", "head", (later, later.tally))
    assert values(page, "kuaka_migrations_finished_total") == {}
    assert values(page, "kuaka_migration_queue_wait_seconds_count") == {(): 0}


def test_only_so_many_fleets_have_outcomes_of_their_own() -> None:
    tally = MigrationTally()
    events = []
    for number in range(MOST_NAMED + 5):
        events.append(Event(2 * number + 1, 0, f"fleet-{number}", "", "Submitted", ""))
        events.append(Event(2 * number + 2, 10**9, f"fleet-{number}", "vm", "Cancelled", ""))
    assert tally.count(events) == {}
    found = values(Exposition("controller", "head", (tally,)), "kuaka_migrations_finished_total")
    assert len({fleet for fleet, _ in found}) == MOST_NAMED + 1
    assert found["other", "cancelled"] == 5


def test_a_fleets_outcomes_and_all_phases_are_there_before_anything_is_counted() -> None:
    tally = MigrationTally()
    tally.learn([Event(1, 0, "drain", "", "Submitted", "")])
    page = Exposition("controller", "head", (tally,))
    outcomes = ("succeeded", "failed", "cancelled")
    assert values(page, "kuaka_migrations_finished_total") == {("drain", outcome): 0 for outcome in outcomes}
    assert values(page, "kuaka_migration_phase_transitions_total") == {(state,): 0 for state in State}
    ending = "kuaka_vmi_migration_phase_transition_time_from_creation_seconds_count"
    assert values(page, ending) == {(state,): 0 for state in State}
    lasting = {(state,): 0 for state in State if state not in FINAL}
    assert values(page, "kuaka_migration_phase_duration_seconds_count") == lasting


def test_a_pause_is_no_retry_and_an_attempt_that_failed_is_one() -> None:
    tally = MigrationTally()
    states = ["Paused", "Pending", "Admitted", "Preparing", "Pending", "Admitted", "Admitted", "Preparing"]
    events = [Event(1, 0, "drain", "", "Submitted", "")]
    events += [Event(2 + at, at * 10**9, "drain", "vm", state, "") for at, state in enumerate(states, start=1)]
    tally.count(events)
    page = Exposition("controller", "head", (tally,))
    assert values(page, "kuaka_migration_retries_total") == {(): 1}
    assert values(page, "kuaka_migration_queue_wait_seconds_sum") == {(): 3}
    assert values(page, "kuaka_migration_phase_duration_seconds_sum")["Pending",] == 1 + 1 + 1
    assert values(page, "kuaka_migration_phase_transitions_total")["Admitted",] == 2
