"""`kuaka demo`: guests are booted, migrated live at the same time by `run_spec`, and all of their memory is compared.

Nothing here migrates: the demo is a spec like any other, with guests of its own at both ends. It ends with every
process and file it has made gone; see `demo.place`.
"""

import contextlib
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, replace

from pipeline.byte_amounts import show_bytes
from pipeline.demo.guest import ODD_MEMORY_BYTES
from pipeline.demo.guests import DemoGuest, RunningSource, make_guest, map_ram, wait_until_ready
from pipeline.demo.images import run_image_demo
from pipeline.demo.observation import outcome, watched
from pipeline.demo.options import DemoOptions
from pipeline.demo.place import DemoPlace, demo_place
from pipeline.demo.qemu_binary import QemuBinary, available_qemus, choose_qemu, newest_machine
from pipeline.demo.ram_check import RamComparison, compare
from pipeline.demo.spec import DESTINATION_HOST, SOURCE_HOST, demo_spec
from pipeline.errors import ExitCode, UsageError
from pipeline.fleet.command import FinishedRun, run_spec
from pipeline.fleet.own_devices import own_devices
from pipeline.fleet.places import AUTO
from pipeline.fleet.results import MigrationResult, Status
from pipeline.fleet.run import OnProgress
from pipeline.fleet.spec import QemuDestination, QemuSource, QemuVm

#: A destination has gone on this long after its migration was reported, or it does not.
_GO_ON_S = 15.0

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class _Qemus:
    source: QemuBinary
    destination: QemuBinary
    machine: str


def run_demo(options: DemoOptions, say: Say, on_progress: OnProgress) -> FinishedRun:
    """Run it to its end; every result says whether the memory is identical. Raises `KuakaError`."""
    qemus = _choose(options)
    if qemus is None:
        return run_image_demo(options, say, on_progress)
    with demo_place(2 * options.vms * options.memory_bytes) as place, contextlib.ExitStack() as ending:
        guests = _guests(options, place, qemus)
        say(
            f"booting {options.vms} guests of {show_bytes(options.memory_bytes)} in QEMU {qemus.source.name},"
            f" to migrate to QEMU {qemus.destination.name} ({qemus.machine})"
        )
        sources = {}
        for guest in guests:
            sources[guest.name] = RunningSource(guest)
            ending.callback(sources[guest.name].end)
        wait_until_ready(list(sources.values()), say)
        if options.devices == AUTO and not own_devices(SOURCE_HOST):
            say("no accelerator that kuaka may use is here, so the CPU does all work: kuaka devices check says why")
        spec = demo_spec(options, [_machine(n, guest, options) for n, guest in enumerate(guests, 1)])
        with watched(guests) as watching:
            finished = run_spec(spec, workers=options.workers, on_progress=on_progress, say=say)
            results = [_gone_on(result, watching) for result in finished.results]
        if any(result.status is Status.COMPLETED for result in results):
            say("comparing all guest memory")
        return replace(finished, results=[_compared(result, sources[result.vm]) for result in results])


def _choose(options: DemoOptions) -> _Qemus | None:
    """The QEMUs to use; None where there is none and none was asked for. Raises `UsageError`."""
    there = available_qemus()
    wishes = (options.source_qemu, options.destination_qemu)
    if not there and wishes == (None, None):
        return None
    source, destination = (choose_qemu(wish, there) for wish in wishes)
    if options.zero_page_detection is not None and not source.has_zero_page_detection:
        raise UsageError(
            f"--zero-page-detection: QEMU {source.name} does not have it:"
            " leave it out, or give --source-qemu 9.0 or newer"
        )
    return _Qemus(source, destination, newest_machine(source, destination))


def _guests(options: DemoOptions, place: DemoPlace, qemus: _Qemus) -> list[DemoGuest]:
    extra_bytes = 0 if qemus.source.tracks_dirty_pages_in_words else ODD_MEMORY_BYTES
    return [
        make_guest(n, options.guest(n, extra_bytes), place, qemus.source, qemus.destination, qemus.machine)
        for n in range(1, options.vms + 1)
    ]


def _machine(number: int, guest: DemoGuest, options: DemoOptions) -> QemuVm:
    return QemuVm(
        name=guest.name,
        kind="qemu",
        source=QemuSource(host=SOURCE_HOST, qmp=guest.source.qmp),
        destination=QemuDestination(
            host=DESTINATION_HOST, qmp=guest.destination.qmp, prepare=guest.prepare(), cleanup=guest.cleanup()
        ),
        zero_page_detection=options.zero_page_detection,
        # Both QEMUs have the boot sector's file.
        shared_storage=True,
        weight=options.weight(number),
    )


def _gone_on(result: MigrationResult, watching: Mapping[str, "Future[None]"]) -> MigrationResult:
    if result.status is not Status.COMPLETED:
        return result
    problem = outcome(watching[result.vm], _GO_ON_S)
    return result if problem is None else _failed(replace(result, status=Status.FAILED), problem)


def _compared(result: MigrationResult, source: RunningSource) -> MigrationResult:
    if result.status is not Status.COMPLETED:
        return result
    guest = source.guest
    with contextlib.closing(map_ram(guest.destination.ram)) as ram:
        return verdict(result, compare(source.ram, ram, guest.parameters))


def verdict(result: MigrationResult, found: RamComparison) -> MigrationResult:
    """A completed migration with what the comparison found; wrong pages are an error and the status stays."""
    if not found.wrong_pages:
        return replace(result, verified=True, wrong_pages=0)
    first = ", ".join(map(str, found.first_wrong))
    return _failed(
        replace(result, verified=False, wrong_pages=found.wrong_pages),
        f"{found.wrong_pages} of {found.pages} pages are wrong, the first of them {first}",
    )


def _failed(result: MigrationResult, error: str) -> MigrationResult:
    return replace(result, error=error, exit_code=ExitCode.FAILED)
