"""A host drained of live guests through the controller: limits, all memory compared, the plan's time.

Eight demo guests on one host, half of them halted and half writing 5 MB/s, leave for two others.
"""

import contextlib
import statistics
from pathlib import Path
from typing import Any

from benchmarks.case_fleet import estimate_figures, limit_figures, warm
from benchmarks.controllers import BenchmarkController, FinishedFleet, controller, fleet
from benchmarks.report import Figure, Report
from pipeline.api import Fleet
from pipeline.demo.guest import ODD_MEMORY_BYTES, GuestParameters
from pipeline.demo.guests import DemoGuest, RunningSource, make_guest, map_ram, wait_until_ready
from pipeline.demo.observation import outcome, watched
from pipeline.demo.place import demo_place
from pipeline.demo.qemu_binary import QemuBinary, available_qemus, choose_qemu, newest_machine
from pipeline.demo.ram_check import compare
from pipeline.fleet.command import DEFAULT_WORKERS

_MIB = 1 << 20
_GUESTS, _GUEST_BYTES = 8, 256 * _MIB
_DIRTY_BYTES_S = 5_000_000
#: A destination has gone on this long after the fleet has ended, or it does not.
_GO_ON_S = 15.0
_LIMITS = {
    "parallelMigrationsPerCluster": 4,
    "parallelOutboundMigrationsPerNode": 3,
    "parallelInboundMigrationsPerNode": 2,
}


def run(report: Report, folder: Path, runs: int) -> None:
    """Boots the guests anew for every run."""
    case = f"drain of {_GUESTS} guests"
    qemu = choose_qemu(None, available_qemus())
    planned, finished, wrong_pages = [], [], 0
    with controller(folder, DEFAULT_WORKERS) as running:
        for _ in range(runs):
            plan_s, drained, wrong = _drain(running, qemu, folder)
            planned.append(plan_s)
            finished.append(drained)
            wrong_pages += wrong
    figures = [
        Figure(case, "submission to end", statistics.median(each.wall_s for each in finished), " s"),
        Figure(case, "wrong pages", wrong_pages, "", at_most=0),
        *estimate_figures(case, planned, [each.wall_s for each in finished]),
        *limit_figures(case, finished, _LIMITS),
    ]
    report.add(case, [], figures)


def _drain(running: BenchmarkController, qemu: QemuBinary, folder: Path) -> tuple[float, FinishedFleet, int]:
    """The plan's time, what came of it, and how many pages of all guests are wrong."""
    with demo_place(2 * _GUESTS * _GUEST_BYTES) as place, contextlib.ExitStack() as ending:
        machine = newest_machine(qemu, qemu)
        guests = [
            make_guest(number, _parameters(number, qemu), place, qemu, qemu, machine)
            for number in range(1, _GUESTS + 1)
        ]
        sources = [RunningSource(guest) for guest in guests]
        for source in sources:
            ending.callback(source.end)
        wait_until_ready(sources, lambda text: None)
        warm(running, folder)
        spec = fleet("drain", [_machine(guest) for guest in guests], "abc", codec="zstd", level=1, **_LIMITS)
        plan_s = Fleet(spec).plan().whole_s
        with watched(guests) as watching:
            drained = running.run(spec)
            for name, stopped in watching.items():
                if (problem := outcome(stopped, _GO_ON_S)) is not None:
                    raise RuntimeError(f"{name}: {problem}")
        return plan_s, drained, sum(_wrong_pages(source) for source in sources)


def _wrong_pages(source: RunningSource) -> int:
    with contextlib.closing(map_ram(source.guest.destination.ram)) as ram:
        return compare(source.ram, ram, source.guest.parameters).wrong_pages


def _parameters(number: int, qemu: QemuBinary) -> GuestParameters:
    more_bytes = 0 if qemu.tracks_dirty_pages_in_words else ODD_MEMORY_BYTES
    dirty_bytes_s = _DIRTY_BYTES_S if number % 2 else 0
    return GuestParameters(_GUEST_BYTES + more_bytes, dirty_rate_bytes_s=dirty_bytes_s, seed=number)


def _machine(guest: DemoGuest) -> dict[str, Any]:
    return {
        "name": guest.name,
        "kind": "qemu",
        "memory": guest.parameters.memory_bytes,
        "dirtyRate": guest.parameters.dirty_rate_bytes_s,
        "sharedStorage": True,
        "source": {"host": "a", "qmp": str(guest.source.qmp)},
        "destination": {
            "host": "bc"[guest.number % 2],
            "qmp": str(guest.destination.qmp),
            "prepare": list(guest.prepare()),
            "cleanup": list(guest.cleanup()),
        },
    }
