"""What metrics cost: a scrape of each exporter at its largest, by the wall and its size; of an agent at work by CPU.

The largest: an agent that sends a thousand guests over 64 pools, a controller that has them all under way, a scheduler
with 64 pools and a thousand flows. Pages come by HTTP from the server that exporters have. An agent at work has ten
migrations and is scraped every five seconds; a migration that moves keeps one core busy at the least, so the share is
of one core, as if there were one migration only.
"""

import asyncio
import time
import urllib.request
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from benchmarks.report import Figure, Report
from pipeline.fleet.events import Event
from pipeline.fleet.fleet_collector import FleetWatch
from pipeline.fleet.fleet_statistics import FleetFacts, MigrationFacts
from pipeline.fleet.host_accelerators import AcceleratorStatistics
from pipeline.fleet.host_collector import HostFigures
from pipeline.fleet.host_statistics import HostStatistics, SentKind, SentSession
from pipeline.fleet.lifecycle import State
from pipeline.fleet.results import MigrationResult
from pipeline.offload import OffloadCounters
from pipeline.qemu.switchover import RamProgress
from pipeline.shard import ShardCounters
from scheduler.core.events import DeviceSample, PoolSettings
from scheduler.core.machine import Scheduler
from scheduler.core.units import AcceleratorKind
from scheduler.metrics_server import MetricsPlace, MetricsServer
from scheduler.page import page
from scheduler.pool_collector import ServiceFigures
from scheduler.pool_work import PoolWork
from scheduler.readings import Exposition, Part
from scheduler.service import SchedulerService
from scheduler.ticks import OpenFlow, OpenPool, Tick

_MIGRATIONS, _POOLS = 1000, 64
_SCRAPE_BOUND_MS, _PAGE_BOUND_MIB = 100.0, 2.0
_AT_WORK, _PERIOD_S, _SHARE_BOUND = 10, 5.0, 1.0
_SCRAPES_PER_RUN = 5


def run(report: Report, folder: Path, runs: int) -> None:
    """Medians of `runs` times five scrapes."""
    scrapes = runs * _SCRAPES_PER_RUN
    figures = []
    largest, at_work = _host(_MIGRATIONS), _host(_AT_WORK)
    for role, part in (
        ("agent", HostFigures("a", lambda: largest)),
        ("controller", _controller()),
        ("scheduler", ServiceFigures(_scheduler().statistics)),
    ):
        took_ms, size_mib = _scrape(role, part, folder, scrapes)
        figures += [
            Figure("metrics", f"scrape of the {role}", took_ms, " ms", at_most=_SCRAPE_BOUND_MS),
            Figure("metrics", f"page of the {role}", size_mib, " MiB", at_most=_PAGE_BOUND_MIB),
        ]
    exposition = Exposition("agent", "a", (HostFigures("a", lambda: at_work),))
    page(exposition.registry)
    began_ns = time.thread_time_ns()
    for _ in range(scrapes):
        page(exposition.registry)
    share = (time.thread_time_ns() - began_ns) / scrapes / 1e9 / _PERIOD_S * 100
    what = f"CPU of an agent's metrics, {_AT_WORK} migrations, a scrape every {_PERIOD_S:g} s, of one core"
    report.add("metrics", (), [*figures, Figure("metrics", what, share, " %", at_most=_SHARE_BOUND)])


def _scrape(role: str, part: Part, folder: Path, scrapes: int) -> tuple[float, float]:
    """Milliseconds and MiB of one."""
    place = MetricsPlace.of(role, "bench", folder / "metrics", environ={})
    if place is None:
        raise AssertionError("nothing turns metrics off here")
    server = MetricsServer.start(place, Exposition(role, "bench", (part,)).registry)
    try:
        took_ms, size = [], 0
        for _ in range(scrapes):
            began_ns = time.monotonic_ns()
            with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/metrics", timeout=60) as answer:
                size = len(answer.read())
            took_ms.append((time.monotonic_ns() - began_ns) / 1e6)
        return median(took_ms), size / (1 << 20)
    finally:
        server.stop()


def _host(migrations: int) -> HostStatistics:
    counters = ShardCounters(
        pages=1000,
        zero_pages=200,
        raw_bytes=1000 * 4096,
        wire_bytes=2_000_000,
        codec_pages={"zstd": 600, "none": 50},
        codec_wire_bytes={"zstd": 1_795_200, "none": 204_800},
    )
    ram = RamProgress("active", 3, 5_000_000, 90_000_000, 1_000_000)
    offload = OffloadCounters(400, 250, 0, 30_000_000, "bulk", {"iaa": 400})
    sent = (
        SentSession(f"vm-{number}", "drain", SentKind.QEMU, 1.7e9, 1 << 30, counters, ram, offload, 12.5)
        for number in range(migrations)
    )
    work = {
        f"run/a/iaa/{number}": PoolWork(10**9, 2 * 10**9, 3, 400, 250, Counter({"queued": 7, "used-up": 2}))
        for number in range(_POOLS)
    }
    accelerators = AcceleratorStatistics(150_000_000, work, dict.fromkeys(work, "iaa"), dict.fromkeys(work, False))
    return HostStatistics(tuple(sent), {SentKind.QEMU: 0, SentKind.IMAGE: 0}, counters, counters, {}, accelerators)


class _Watched:
    """A controller with one fleet, all of it under way."""

    def statistics(self) -> list[FleetFacts]:
        machines = (
            MigrationFacts(f"vm-{number}", "qemu", State.RUNNING, f"a-{number % 32}", "b", 1 << 30, 1 << 29)
            for number in range(_MIGRATIONS)
        )
        return [FleetFacts("drain", False, 0, 1, tuple(machines))]

    def last_event(self) -> int:
        return 0

    def events(self, fleet_id: str | None = None, after: int = 0) -> list[Event]:
        return []

    def results(self, fleet_id: str) -> Sequence[MigrationResult]:
        return ()


def _controller() -> FleetWatch:
    watch = FleetWatch(_Watched(), time.time_ns)
    asyncio.run(watch.look())
    return watch


class _Epochs:
    """An `EpochStore` of one process."""

    def load(self) -> int:
        return 0

    def compare_and_swap(self, expected: int, new: int) -> bool:
        return True

    def load_tenants(self) -> dict[str, int]:
        return {"drain": 1}

    def save_tenants(self, tenants: dict[str, int]) -> None:
        """Nothing is kept."""


def _scheduler() -> SchedulerService:
    service = SchedulerService(_Epochs(), Scheduler, time.monotonic_ns)
    for number in range(_POOLS):
        host = f"run/h{number}"
        pool = PoolSettings(f"{host}/iaa/0", host, AcceleratorKind.IAA, 128, 16, 8)
        flows = (OpenFlow(f"vm-{flow}/send", pool.pool, "drain", 1) for flow in range(number, _MIGRATIONS, _POOLS))
        sample = DeviceSample(pool.pool, 10**9, 500, 3, 17, 2_000_000)
        service.tick(Tick(host, 1, 1, 0, (OpenPool(pool), *flows), 1, True, (), (sample,), 0))
    return service
