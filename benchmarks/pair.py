"""A source and a destination QEMU, set up alike for both sides of a comparison, and the run that is timed.

The rule: kuaka and QEMU alone get the same guest memory, the same settings, the same warm destination (prealloc) and
the same stopwatch; only the URI differs.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.guests import await_ready, demo_disk
from benchmarks.measure import Run
from benchmarks.namespaces import LOOPBACK, Place
from benchmarks.processes import cpu_seconds
from benchmarks.qemu import Qemu, event_time_s
from pipeline.demo.guest import GuestParameters

_UNLIMITED_BYTES_S = 10**12
_MIGRATION_TIMEOUT_S = 120.0
_RESUME_TIMEOUT_S = 20.0


@dataclass(frozen=True, slots=True)
class PairSettings:
    """What both QEMUs are set to."""

    channels: int
    compression: str = "none"
    downtime_limit_ms: int = 300
    places: tuple[Place, Place] = (LOOPBACK, LOOPBACK)


@dataclass(frozen=True, slots=True)
class Pair:
    """A source that has a guest, a destination that waits for `migrate-incoming`."""

    source: Qemu
    destination: Qemu
    settings: PairSettings
    memory_bytes: int

    def run(self, uri: str, other_pids: tuple[tuple[int, ...], tuple[int, ...]] = ((), ())) -> Run:
        """Migrate to `uri` and time it; `other_pids` are processes that work for the source's and the other side."""
        sides = ((self.source.pid, *other_pids[0]), (self.destination.pid, *other_pids[1]))
        arriving = self.settings.places[1]
        cpu = [cpu_seconds(pids) for pids in sides]
        wire = arriving.received_bytes()
        began = time.perf_counter()
        self.source.execute("migrate", uri=uri)
        self.source.await_event("MIGRATION", _MIGRATION_TIMEOUT_S, status="completed")
        wall = time.perf_counter() - began
        downtime_ms = self._resume() if any(event["event"] == "STOP" for event in self.source.events) else None
        wire = arriving.received_bytes() - wire
        costs = [cpu_seconds(pids) - before for pids, before in zip(sides, cpu, strict=True)]
        return Run(wall, wire, costs[0], costs[1], self.memory_bytes, downtime_ms)

    def _resume(self) -> float:
        """Let the guest go on at the destination; its downtime in ms, from the two QEMUs' own time stamps."""
        self.destination.execute("cont")
        resumed = self.destination.await_event("RESUME", _RESUME_TIMEOUT_S)
        stopped = self.source.await_event("STOP", 0)
        return (event_time_s(resumed) - event_time_s(stopped)) * 1e3


@contextmanager
def stopped_pair(folder: Path, ram: Path, settings: PairSettings) -> Iterator[Pair]:
    """A source whose guest never ran and has `ram` for memory."""
    size = ram.stat().st_size
    with ExitStack() as stack:
        source = stack.enter_context(_source(folder, ram, size, ("-S",), settings))
        yield _configured(source, stack.enter_context(_destination(folder, size, (), settings)), settings, size)


@contextmanager
def running_pair(folder: Path, parameters: GuestParameters, settings: PairSettings) -> Iterator[Pair]:
    """A source with a demo guest that is ready and dirties its memory."""
    size = parameters.memory_bytes
    ram = folder / "running.ram"
    with ExitStack() as stack:
        stack.callback(ram.unlink, missing_ok=True)
        with ram.open("xb") as file:
            file.truncate(size)
        disk = stack.enter_context(demo_disk(folder, parameters))
        source = stack.enter_context(_source(folder, ram, size, disk, settings))
        destination = stack.enter_context(_destination(folder, size, disk, settings))
        await_ready(ram)
        yield _configured(source, destination, settings, size)


def direct(settings: PairSettings, port: int) -> Callable[[Pair], Run]:
    """QEMU alone: over TCP to the destination's address."""

    def run(pair: Pair) -> Run:
        uri = f"tcp:{settings.places[1].address}:{port}"
        pair.destination.execute("migrate-incoming", uri=uri)
        return pair.run(uri)

    return run


def _source(folder: Path, ram: Path, size: int, options: tuple[str, ...], settings: PairSettings) -> Qemu:
    memory = f"memory-backend-file,share=on,mem-path={ram}"
    return Qemu(folder / "source.qmp", size, memory, options, settings.places[0])


def _destination(folder: Path, size: int, options: tuple[str, ...], settings: PairSettings) -> Qemu:
    incoming = ("-S", "-incoming", "defer", *options)
    return Qemu(folder / "destination.qmp", size, "memory-backend-ram,prealloc=on", incoming, settings.places[1])


def _configured(source: Qemu, destination: Qemu, settings: PairSettings, size: int) -> Pair:
    for qemu in (source, destination):
        qemu.execute(
            "migrate-set-capabilities",
            capabilities=[{"capability": name, "state": True} for name in ("multifd", "return-path", "events")],
        )
        parameters = {
            "multifd-channels": settings.channels,
            "multifd-compression": settings.compression,
            "max-bandwidth": _UNLIMITED_BYTES_S,
            "downtime-limit": settings.downtime_limit_ms,
        }
        if settings.compression == "zstd":
            parameters["multifd-zstd-level"] = 1
        qemu.execute("migrate-set-parameters", **parameters)
    return Pair(source, destination, settings, size)
