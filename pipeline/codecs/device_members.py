"""Members of a packet through a QAT, from the front as far as credit and fortune allow; the rest is its codec's.

A member is what hardware makes of one of its buffers, and knows nothing of the others. A slot of credit is one member
in flight, a piece of a packet (one job of QATzip) as many members as there are slots. A piece that fails, whatever the
reason, ends the device's part of this packet: QATzip does not say busy, it waits, and the CPU is not slower than that.
No piece is submitted without credit, and holds are given back before this returns.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.codecs.credit import CREDIT_WAIT_NS, Credit
from pipeline.codecs.device_access import DeviceAccess
from pipeline.memory.pages import PAGE_BYTES
from scheduler.devices.device import DESCRIPTOR, Descriptors, Device, Operation, Status


class Work:
    """One packet's way through the device: members in order, `done` of them so far, `written` bytes of results.

    `status` is that of the piece that ended it, OK while none has.
    """

    def __init__(
        self,
        operation: Operation,
        source: NDArray[np.uint8],
        bounds: Sequence[int],
        sizes: Sequence[int],
        results_at: int,
    ) -> None:
        """`bounds` are where members begin in `source`, and the end of the last; `sizes` what each holds; results go to
        the device's memory from `results_at` on."""
        self.operation = operation
        self.source = source
        self.bounds = bounds
        self.sizes = sizes
        self.results_at = results_at
        self.done = 0
        self.written = 0
        self.status = Status.OK

    def piece(self, members: int, room_bytes: int) -> Descriptors:
        """The job of so many members from the next on, its results behind those that are there."""
        stop = self.done + members
        start_byte = self.bounds[self.done]
        descriptor = (start_byte, self.bounds[stop] - start_byte, self.results_at + self.written, room_bytes)
        return np.array([descriptor], dtype=DESCRIPTOR)

    def take(self, members: int, status: int, output_bytes: int) -> None:
        """What became of that piece; a decoded one must be as long as it was announced."""
        self.status = Status(status)
        announced_bytes = sum(self.sizes[self.done : self.done + members])
        if self.operation is Operation.DECOMPRESS and output_bytes != announced_bytes:
            self.status = Status.FAILED
        if self.status is Status.OK:
            self.done += members
            self.written += output_bytes


class DeviceMembers:
    """A codec's device and credit; for one thread. `least` members are worth a job of their own."""

    def __init__(
        self, access: DeviceAccess, credit: Credit, least: int, clock: Callable[[], int], cpu_clock: Callable[[], int]
    ) -> None:
        self._access = access
        self._credit = credit
        self._least = least
        self._clock = clock
        self.cpu_clock = cpu_clock

    def usable(self, operation: Operation, sizes: Sequence[int]) -> Device | None:
        """The device, if it is there, does this, and the split says that it should; `sizes` are the members'."""
        device = self._access.device()
        if device is None or not device.cost.supports(operation):
            return None
        if self._credit.prefers_device():
            return device
        self._credit.count(asked_ns=sum(_costs(device, operation, sizes)))
        return None

    def run(self, device: Device, work: Work, room_bytes: Callable[[int], int]) -> None:
        """Have the device do members from the front, as far as credit and fortune allow.

        `room_bytes` says how much a piece of so many members may write. The source is copied to the device once there
        is credit: most packets of a busy pool get none, and must not pay for that.
        """
        credit_ends_ns = self._clock() + CREDIT_WAIT_NS
        costs = _costs(device, work.operation, work.sizes)
        while work.status is Status.OK and len(costs) - work.done >= self._least:
            asked = min(len(costs) - work.done, device.slots)
            asked_ns = sum(costs[work.done : work.done + asked])
            hold = self._credit.acquire(asked, asked_ns, max(0, credit_ends_ns - self._clock()))
            if hold is None:
                return
            members = min(hold.slots, asked)
            cost_ns = sum(costs[work.done : work.done + members])
            accepted = 0
            try:
                room = room_bytes(members)
                if room <= 0 or members < self._least or not hold.current():
                    return
                if not work.done:
                    device.memory[: len(work.source)] = work.source
                device.status[0] = Status.PENDING
                accepted = self._access.submit(work.operation, work.piece(members, room), 0)
                alive = self._access.settle()
            finally:
                hold.release(cost_ns if accepted else 0)
            if accepted:
                work.take(members, int(device.status[0]), int(device.output_bytes[0]))
            elif alive:
                self._credit.count(busy_retries=members)
            if not (accepted and alive):
                return

    def count(self, size_bytes: int, done_bytes: int, began_ns: int, device_done_ns: int) -> None:
        """Report a packet of which the device did `done_bytes` and the CPU the rest; times are `cpu_clock`'s."""
        self._credit.count(
            accelerator_pages=done_bytes // PAGE_BYTES,
            cpu_pages=(size_bytes - done_bytes) // PAGE_BYTES,
            accelerator_cpu_ns=device_done_ns - began_ns,
            cpu_ns=self.cpu_clock() - device_done_ns,
        )


def _costs(device: Device, operation: Operation, sizes: Sequence[int]) -> list[int]:
    """Device-ns of each; most are of one size."""
    known = {size: device.cost.cost_ns(operation, size) for size in set(sizes)}
    return [known[size] for size in sizes]
