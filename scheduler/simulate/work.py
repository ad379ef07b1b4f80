"""One batch's operation, and the two ways to have it done: by the thread itself, or by a device it waits for."""

from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING

import simpy

from scheduler.core.units import AcceleratorKind
from scheduler.simulate.device import Device
from scheduler.simulate.host import Host, Process
from scheduler.simulate.parameters import PACKET_PAGES, PAGE_BYTES, Operation

if TYPE_CHECKING:
    from scheduler.simulate.migration import Migration

#: QATzip hands its device 64 KiB at a time.
_QAT_REQUEST_BYTES = 65536


@dataclass(slots=True)
class Work:
    """What a thread of `migration` has to do on `host`; the costs are the whole batch's."""

    migration: "Migration"
    host: Host
    operation: Operation
    kind: AcceleratorKind | None
    size_bytes: float
    #: On the CPU, alone; for a scan it streams memory and slows with its neighbours.
    cpu_ns: float
    #: What the device costs the thread.
    submit_ns: float = 0.0
    latency_ns: float = 0.0
    spins: bool = False

    @property
    def critical(self) -> bool:
        """The guest stands still and waits for this."""
        return self.migration.stopped

    def descriptors(self) -> int:
        """How many the device gets: a DSA batch per packet, a page for IAA, 64 KiB for QAT."""
        size = {
            AcceleratorKind.DSA: PACKET_PAGES * PAGE_BYTES,
            AcceleratorKind.IAA: PAGE_BYTES,
            AcceleratorKind.QAT: _QAT_REQUEST_BYTES,
        }
        assert self.kind is not None
        return max(1, ceil(self.size_bytes / size[self.kind]))

    def devices(self) -> list[Device]:
        """Those of this host that could do it; empty when there is none."""
        return [] if self.kind is None else self.host.devices.get(self.kind, [])


def on_cpu(work: Work, share: float = 1.0) -> Process:
    """Do `share` of the work in the thread."""
    work.migration.cpu_bytes += work.size_bytes * share
    if work.operation is Operation.SCAN:
        yield from work.migration.stream(work.host, work.cpu_ns * share, work.size_bytes * share)
    else:
        yield work.host.cpus.work(work.cpu_ns * share)


def start(work: Work, device: Device, share: float = 1.0, *, critical_queue: bool = False) -> simpy.Event:
    """Put `share` of the work into the device's queue; the event's value says whether it was done."""
    if work.critical:
        work.migration.critical_waits_ns.append(device.wait_ns(critical=critical_queue))
    work.migration.device_bytes += work.size_bytes * share
    descriptors = max(1, round(work.descriptors() * share))
    return device.submit(device.work_ns(work.operation, work.size_bytes * share), descriptors, critical=critical_queue)


def wait(work: Work, submitted: list[tuple[simpy.Event, float]], *, spins: bool) -> Process:
    """Wait for submissions of these shares; what a lost device did not do, the thread does."""
    if spins:
        work.host.cpus.occupy()
    lost = 0.0
    for done, share in submitted:
        if not (yield done):
            lost += share
    if spins:
        work.host.cpus.vacate()
    if lost:
        work.migration.device_bytes -= work.size_bytes * lost
        yield from on_cpu(work, lost)
