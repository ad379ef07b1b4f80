"""One migration, as QEMU with multifd does it: a migration thread that hands batches to channels, round after round.

Round one is all memory; each further round is what the guest wrote during the last. When what is left fits the
downtime limit at the rate of the last round, the guest is stopped, the rest is sent, and the destination starts. A
channel checks its batch for zero pages, compresses the rest and sends it; a thread at the destination takes it in. A
round ends when everything of it has arrived (multifd's SYNC).
"""

from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING

import simpy

from scheduler.core.units import AcceleratorKind, Phase
from scheduler.simulate.host import Host, Process
from scheduler.simulate.parameters import PACKET_HEADER_BYTES, PACKET_PAGES, PAGE_BYTES, Operation
from scheduler.simulate.scenario import VmSpec
from scheduler.simulate.streaming import Streaming
from scheduler.simulate.work import Work

if TYPE_CHECKING:
    from scheduler.simulate.world import World

#: Batches at the destination of one channel that wait to be decoded: socket buffers and one in hand.
_RECEIVE_DEPTH = 2


@dataclass(frozen=True, slots=True)
class Batch:
    """`live` of its pages are not zero; `live_bytes` are what has to be moved."""

    pages: int
    live: float

    @property
    def live_bytes(self) -> float:
        return self.pages * PAGE_BYTES * self.live

    @property
    def header_bytes(self) -> float:
        return self.pages / PACKET_PAGES * PACKET_HEADER_BYTES


@dataclass(frozen=True, slots=True)
class Span:
    """What a migration did from when to when, for the time line: `wait`, `round N`, `downtime`."""

    what: str
    start_ns: int
    end_ns: int


class Migration:
    """The state of one migration. `run` is its process; the public counters are read by results and policies."""

    def __init__(self, world: "World", spec: VmSpec, index: int) -> None:
        self.world = world
        self.spec = spec
        self.index = index
        self.source: Host = world.hosts[spec.source]
        self.destination: Host = world.hosts[spec.destination]
        self.stopped = False
        self.failed = False
        self.finished_ns: int | None = None
        self.downtime_ns = 0
        self.rounds = 0
        self.wire_bytes = 0.0
        self.cpu_bytes = 0.0
        self.device_bytes = 0.0
        self.busy_retries = 0
        self.critical_waits_ns: list[int] = []
        self.spans: list[Span] = []
        #: Pages of the round under way that channels have not taken yet; a policy's demand.
        self.pages_left = 0
        self._env = world.env
        self._streaming = {name: Streaming(self._env) for name in (spec.source, spec.destination)}
        self._batches: simpy.Store = simpy.Store(self._env, capacity=spec.channels)
        self._open_batches = 0
        self._all_arrived: simpy.Event | None = None

    @property
    def running(self) -> bool:
        """Whether it has been submitted, and has not ended."""
        return self.spec.submitted_ns <= self._env.now and self.finished_ns is None

    def run(self) -> Process:
        """Migrate, from submission to the destination's first instruction."""
        for _ in range(self.spec.channels):
            arrived: simpy.Store = simpy.Store(self._env, capacity=_RECEIVE_DEPTH)
            self._env.process(self._channel(arrived))
            self._env.process(self._receive(arrived))
        yield self._env.timeout(self.world.parameters.setup_ns)
        policy = self.world.policy
        policy.opened(self)
        yield from self._rounds()
        policy.closed(self)
        self.finished_ns = int(self._env.now)
        self.world.log(self.spec.name, "failed" if self.failed else "done")

    def _rounds(self) -> Process:
        pages = self.spec.memory_bytes // PAGE_BYTES
        live = self.spec.live
        while True:
            began_ns = int(self._env.now)
            yield from self._round(pages, live)
            self.rounds += 1
            took_ns = max(1, int(self._env.now) - began_ns)
            self.spans.append(Span(f"round {self.rounds}", began_ns, began_ns + took_ns))
            rate_b_ns = pages * PAGE_BYTES / took_ns
            pages, live = self._dirtied(took_ns), 1.0
            if pages * PAGE_BYTES / rate_b_ns <= self.world.scenario.workload.downtime_limit_ns:
                yield from self._stop_and_copy(pages)
                return
            if self.rounds >= self.world.scenario.workload.most_rounds:
                self.failed = True
                return

    def _stop_and_copy(self, pages: int) -> Process:
        """The last round, with the guest stopped. A policy may keep it running until it may stop."""
        asked_ns = int(self._env.now)
        yield from self.world.policy.before_stop(self, pages)
        stopped_ns = int(self._env.now)
        if stopped_ns > asked_ns:
            self.spans.append(Span("wait", asked_ns, stopped_ns))
            pages = min(self._most_dirty_pages(), pages + self._dirtied(stopped_ns - asked_ns))
        self.stopped = True
        if pages:
            yield from self._round(pages, 1.0)
        yield self._env.timeout(self.world.parameters.switchover_ns)
        self.downtime_ns = int(self._env.now) - stopped_ns
        self.spans.append(Span("downtime", stopped_ns, stopped_ns + self.downtime_ns))

    def _most_dirty_pages(self) -> int:
        return int(self.spec.memory_bytes * self.spec.live) // PAGE_BYTES

    def _dirtied(self, elapsed_ns: int) -> int:
        if self.spec.phase is Phase.BACKGROUND:
            return 0
        return min(self._most_dirty_pages(), self.spec.dirty_bytes_s * elapsed_ns // (PAGE_BYTES * 1_000_000_000))

    def _round(self, pages: int, live: float) -> Process:
        """The migration thread: find the pages, hand them out, and wait until all have arrived."""
        batch_pages = self.world.scenario.batch_pages
        self.pages_left = pages
        self._all_arrived = self._env.event()
        self._open_batches = ceil(pages / batch_pages)
        for first in range(0, pages, batch_pages):
            batch = Batch(min(batch_pages, pages - first), live)
            yield self.source.cpus.work(batch.pages * self._migration_ns_page())
            yield self._batches.put(batch)
        yield self._all_arrived

    def _migration_ns_page(self) -> float:
        parameters = self.world.parameters
        slower = 1 + parameters.interference * self._streaming[self.source.name].average()
        return parameters.migration_ns_page * slower

    def _channel(self, arrived: simpy.Store) -> Process:
        while True:
            batch: Batch = yield self._batches.get()
            self.pages_left -= batch.pages
            yield from self._scan(batch)
            yield from self._compress(batch)
            yield from self._send(batch)
            yield arrived.put(batch)

    def _scan(self, batch: Batch) -> Process:
        parameters, workload = self.world.parameters, self.world.scenario.workload
        size = parameters.scan_bytes(batch.pages, batch.live, early_exit=workload.early_exit)
        work = Work(
            self,
            self.source,
            Operation.SCAN,
            workload.scan_kind,
            size,
            cpu_ns=size * parameters.scan_ns_b,
            submit_ns=batch.pages / PACKET_PAGES * parameters.dsa_submit_ns_packet,
        )
        yield from self.world.policy.process(work)

    def _compress(self, batch: Batch) -> Process:
        codec = self.world.codec
        if not codec.compress_ns_b or not batch.live:
            return
        size = batch.live_bytes
        work = Work(
            self,
            self.source,
            Operation.COMPRESS,
            codec.kind,
            size,
            cpu_ns=size * codec.compress_ns_b,
            submit_ns=size * codec.submit_ns_b,
            latency_ns=codec.packet_latency_ns * size / (PACKET_PAGES * PAGE_BYTES),
            spins=codec.spins,
        )
        yield from self.world.policy.process(work)

    def _send(self, batch: Batch) -> Process:
        wire = batch.header_bytes + batch.live_bytes * self.world.codec.wire_ratio
        self.wire_bytes += wire
        yield from self.stream(self.source, wire * self.world.parameters.send_ns_b, wire)
        if self.source.link is not None:
            yield self.source.link.work(wire)

    def _receive(self, arrived: simpy.Store) -> Process:
        codec = self.world.codec
        while True:
            batch: Batch = yield arrived.get()
            size = batch.live_bytes
            if size:
                yield self.destination.cpus.work(size * self.world.parameters.receive_ns_b)
            if size and codec.decompress_ns_b:
                work = Work(
                    self,
                    self.destination,
                    Operation.DECOMPRESS,
                    codec.kind,
                    size,
                    cpu_ns=size * codec.decompress_ns_b,
                    submit_ns=size * codec.submit_back_ns_b,
                    spins=codec.spins,
                )
                yield from self.world.policy.process(work)
            self._open_batches -= 1
            if not self._open_batches:
                assert self._all_arrived is not None
                self._all_arrived.succeed()

    def stream(self, host: Host, cpu_ns: float, size_bytes: float) -> Process:
        """Work that streams memory: other threads of this QEMU that do so, and a short DRAM, make it longer."""
        if cpu_ns <= 0:
            return
        streaming = self._streaming[host.name]
        slower = self.interference(host)
        streaming.begin()
        # A thread that shares its CPU reads so much less.
        with host.memory.reading(size_bytes / (cpu_ns * slower) * host.cpus.rate) as stretch:
            yield host.cpus.work(cpu_ns * slower * stretch)
        streaming.end()

    def interference(self, host: Host) -> float:
        """By what factor its other threads slow one that streams memory."""
        others = self._streaming[host.name].average() * (self.spec.channels - 1) / self.spec.channels
        return 1 + self.world.parameters.interference * others

    def kinds(self) -> list[tuple[Host, AcceleratorKind]]:
        """The pools it could use: where, and what."""
        workload = self.world.scenario.workload
        wanted: list[tuple[Host, AcceleratorKind | None]] = [
            (self.source, workload.scan_kind),
            (self.source, self.world.codec.kind),
            (self.destination, self.world.codec.kind),
        ]
        return [(host, kind) for host, kind in wanted if kind is not None and host.devices.get(kind)]
