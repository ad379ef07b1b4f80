"""Gzip-extended deflate by QAT, with the CPU for whatever the device does not do.

A packet is one stream however it was made: members of 64 KiB know nothing of each other, so the device does as many
from the front as credit and fortune allow, and the CPU adds the rest in the same format. A slot of credit is one member
in flight, a piece of a packet (one job of QATzip) as many members as there are slots. A piece that fails, whatever the
reason, ends the device's part of this packet: QATzip does not say busy, it waits, and the CPU is not slower than that.

No piece is submitted without credit, and holds are given back before this returns. A stream that would not shrink is
None. Decoding mirrors it: a stream's headers are checked before the device sees any of it, a piece that the device
refuses is decoded by the CPU, whose word is final.
"""

import time
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Buffer

from pipeline.codecs.codec import CodecId, OneByOne
from pipeline.codecs.credit import CREDIT_WAIT_NS, Credit
from pipeline.codecs.device_access import DeviceAccess
from pipeline.codecs.gzip_extended import MEMBER_BYTES, make_members, member_sizes, parse_members, read_member
from pipeline.codecs.qat import QatCodec
from pipeline.memory.pages import MAX_BATCH_PAGES, PAGE_BYTES
from scheduler.devices.device import DESCRIPTOR, Descriptors, Device, Operation, Status

#: One member: fewer pages cost the caller less CPU than handing a job over and back.
MIN_DEVICE_PAGES = MEMBER_BYTES // PAGE_BYTES
_HALF_BYTES = MAX_BATCH_PAGES * PAGE_BYTES
#: Data memory of a device that this codec uses: a packet, then what becomes of it.
DEVICE_MEMORY_BYTES = 2 * _HALF_BYTES


class _Work:
    """One packet's way through the device: members in order, `done` of them so far, `written` bytes of results."""

    def __init__(
        self, operation: Operation, source: NDArray[np.uint8], bounds: Sequence[int], sizes: list[int]
    ) -> None:
        """`bounds` are where members begin in `source`, and the end of the last; `sizes` what each holds."""
        self.operation = operation
        self.source = source
        self.bounds = bounds
        self.sizes = sizes
        self.done = 0
        self.written = 0
        self.status = Status.OK

    def piece(self, members: int, room_bytes: int) -> Descriptors:
        """The job of so many members from the next on, its results behind those that are there."""
        stop = self.done + members
        start_byte = self.bounds[self.done]
        descriptor = (start_byte, self.bounds[stop] - start_byte, _HALF_BYTES + self.written, room_bytes)
        return np.array([descriptor], dtype=DESCRIPTOR)

    def take(self, members: int, status: int, output_bytes: int) -> None:
        """What became of that piece; a decoded one must be as long as its headers said."""
        self.status = Status(status)
        announced_bytes = sum(self.sizes[self.done : self.done + members])
        if self.operation is Operation.DECOMPRESS and output_bytes != announced_bytes:
            self.status = Status.FAILED
        if self.status is Status.OK:
            self.done += members
            self.written += output_bytes


class DeviceQatCodec(OneByOne):
    """See `codecs.codec.Codec`; what a call returns may lie in the device's memory and is valid until the next call."""

    codec_id = CodecId.QAT
    window_bytes = QatCodec.window_bytes

    def __init__(
        self,
        access: DeviceAccess,
        credit: Credit,
        level: int | None = None,
        *,
        clock: Callable[[], int] = time.monotonic_ns,
        cpu_clock: Callable[[], int] = time.thread_time_ns,
    ) -> None:
        self._access = access
        self._credit = credit
        self._cpu = QatCodec(level)
        self._clock = clock
        self._cpu_clock = cpu_clock

    def encode(self, pages: memoryview) -> Sequence[Buffer | None]:
        """One stream, or None when it would not shrink."""
        sizes = list(member_sizes(len(pages)))
        device = self._usable(Operation.COMPRESS, sizes)
        began_ns = self._cpu_clock()
        if device is None:
            streams = self._cpu.encode(pages)
            self._credit.count(cpu_pages=len(pages) // PAGE_BYTES, cpu_ns=self._cpu_clock() - began_ns)
            return streams
        bounds = [*range(0, len(pages), MEMBER_BYTES), len(pages)]
        work = _Work(Operation.COMPRESS, np.frombuffer(pages, dtype=np.uint8), bounds, sizes)
        self._run(device, work, lambda _members: len(pages) - 1 - work.written)
        device_done_ns = self._cpu_clock()
        done_bytes = bounds[work.done]
        made = device.memory.data[_HALF_BYTES : _HALF_BYTES + work.written]
        stream: Buffer | None = made
        if work.status is Status.OVERFLOW:
            # The device's word for all of it, what it did not look at included.
            stream, done_bytes = None, len(pages)
        elif done_bytes < len(pages):
            whole = b"".join((made, *make_members(pages[done_bytes:], self._cpu.level)))
            stream = whole if len(whole) < len(pages) else None
        self._count(len(pages), done_bytes, began_ns, device_done_ns)
        return (stream,)

    def decode(self, stream: memoryview, size_bytes: int) -> Buffer:
        """The `size_bytes` bytes of one stream; raises `DecodeError`."""
        members = parse_members(stream, size_bytes)
        sizes = [member.size_bytes for member in members]
        device = self._usable(Operation.DECOMPRESS, sizes) if len(stream) <= _HALF_BYTES else None
        began_ns = self._cpu_clock()
        done_bytes, device_done_ns, parts = 0, began_ns, list[Buffer]()
        left = members
        if device is not None:
            bounds = [*(member.start for member in members), len(stream)]
            work = _Work(Operation.DECOMPRESS, np.frombuffer(stream, dtype=np.uint8), bounds, sizes)
            self._run(device, work, lambda count: sum(sizes[work.done : work.done + count]))
            device_done_ns = self._cpu_clock()
            left, done_bytes = members[work.done :], work.written
            parts.append(device.memory.data[_HALF_BYTES : _HALF_BYTES + done_bytes])
        parts += [read_member(stream, member) for member in left]
        pages = parts[0] if len(parts) == 1 else b"".join(parts)
        self._count(size_bytes, done_bytes, began_ns, device_done_ns)
        return pages

    def _count(self, size_bytes: int, done_bytes: int, began_ns: int, device_done_ns: int) -> None:
        self._credit.count(
            accelerator_pages=done_bytes // PAGE_BYTES,
            cpu_pages=(size_bytes - done_bytes) // PAGE_BYTES,
            accelerator_cpu_ns=device_done_ns - began_ns,
            cpu_ns=self._cpu_clock() - device_done_ns,
        )

    def _usable(self, operation: Operation, sizes: list[int]) -> Device | None:
        """The device, if it is there, does this, and the packet is one for it."""
        if not MIN_DEVICE_PAGES * PAGE_BYTES <= sum(sizes) <= _HALF_BYTES:
            return None
        device = self._access.device()
        if device is None or not device.cost.supports(operation):
            return None
        if self._credit.prefers_device():
            return device
        self._credit.count(asked_ns=sum(device.cost.cost_ns(operation, size) for size in sizes))
        return None

    def _run(self, device: Device, work: _Work, room_bytes: Callable[[int], int]) -> None:
        """Have the device do members from the front, as far as credit and fortune allow.

        `room_bytes` says how much a piece of so many members may write. The source is copied to the device once there
        is credit: most packets of a busy pool get none, and must not pay for that.
        """
        credit_ends_ns = self._clock() + CREDIT_WAIT_NS
        while work.status is Status.OK and work.done < len(work.sizes):
            costs = [device.cost.cost_ns(work.operation, size) for size in work.sizes[work.done :]]
            asked = min(len(costs), device.slots)
            hold = self._credit.acquire(asked, sum(costs[:asked]), max(0, credit_ends_ns - self._clock()))
            if hold is None:
                return
            members = min(hold.slots, asked)
            accepted = 0
            try:
                room = room_bytes(members)
                if room <= 0 or not hold.current():
                    return
                if not work.done:
                    device.memory[: len(work.source)] = work.source
                device.status[0] = Status.PENDING
                accepted = self._access.submit(work.operation, work.piece(members, room), 0)
                alive = self._access.settle()
            finally:
                hold.release(sum(costs[:members]) if accepted else 0)
            if accepted:
                work.take(members, int(device.status[0]), int(device.output_bytes[0]))
            elif alive:
                self._credit.count(busy_retries=members)
            if not (accepted and alive):
                return
