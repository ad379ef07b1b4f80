"""The devices as they are used today: wait in the queue whatever it takes (`fifo`), or give up soon (`retry`)."""

from typing import TYPE_CHECKING

from scheduler.core.units import AcceleratorKind
from scheduler.simulate.device import Device
from scheduler.simulate.host import Host, Process
from scheduler.simulate.policy import Indifferent
from scheduler.simulate.work import Work, on_cpu, start, wait

if TYPE_CHECKING:
    from scheduler.simulate.migration import Migration

#: `retry` looks for a free slot so many times per batch at most: after each part that it did itself.
_PARTS = 16


class Fifo(Indifferent):
    """Every batch goes to a device, round robin; its thread waits as long as the queue is."""

    name = "fifo"

    def __init__(self) -> None:
        self._turn = 0
        #: Batches in DSA devices per migration and host: its completion thread polls while there are any.
        self._polled: dict[tuple[int, str], int] = {}

    def process(self, work: Work) -> Process:
        devices = [device for device in work.devices() if device.up]
        if not devices:
            yield from on_cpu(work)
            return
        self._turn += 1
        yield work.host.cpus.work(work.submit_ns)
        self._poll(work.migration, work.host, work.kind, 1)
        yield from self._use(work, devices[self._turn % len(devices)])
        self._poll(work.migration, work.host, work.kind, -1)
        if work.latency_ns:
            yield work.migration.world.env.timeout(round(work.latency_ns))

    def _use(self, work: Work, device: Device) -> Process:
        yield from wait(work, [(start(work, device), 1.0)], spins=work.spins)

    def _poll(self, migration: "Migration", host: Host, kind: AcceleratorKind | None, change: int) -> None:
        """QEMU's DSA series has one completion thread per guest, which spins while anything is out."""
        if kind is not AcceleratorKind.DSA:
            return
        key = (migration.index, host.name)
        before = self._polled.get(key, 0)
        self._polled[key] = before + change
        if before == 0:
            host.cpus.occupy()
        elif before + change == 0:
            host.cpus.vacate()


class Retry(Fifo):
    """QEMU's multifd-qpl: the thread does what finds no slot in three more tries, and then offers the next.

    In parts of a sixteenth batch instead of single pages: a queue is not emptied in the time of a part.
    """

    name = "retry"

    def _use(self, work: Work, device: Device) -> Process:
        descriptors = work.descriptors()
        retries = work.migration.world.parameters.retries
        part = -(-descriptors // _PARTS)
        left = descriptors
        submitted = []
        while left:
            taken = min(left, device.free())
            if taken:
                submitted.append((start(work, device, taken / descriptors), taken / descriptors))
                left -= taken
            if left:
                done = min(left, part)
                # Each of them was refused once and then as often as it was tried again.
                device.refused += done * (1 + retries)
                work.migration.busy_retries += done * retries
                yield from on_cpu(work, done / descriptors)
                left -= done
        yield from wait(work, submitted, spins=work.spins)
