"""Gzip-extended deflate by QAT, with the CPU for whatever the device does not do.

A packet is one stream however it was made: members of 64 KiB know nothing of each other, so the device does as many
from the front as credit and fortune allow (`codecs.device_members`), and the CPU adds the rest in the same format. A
stream that would not shrink is None. Decoding mirrors it: a stream's headers are checked before the device sees any of
it, a piece that the device refuses is decoded by the CPU, whose word is final.
"""

import time
from collections.abc import Callable, Sequence

import numpy as np
from typing_extensions import Buffer

from pipeline.codecs.codec import CodecId, OneByOne
from pipeline.codecs.credit import Credit
from pipeline.codecs.device_access import DeviceAccess
from pipeline.codecs.device_members import DeviceMembers, Work
from pipeline.codecs.gzip_extended import MEMBER_BYTES, make_members, member_sizes, parse_members, read_member
from pipeline.codecs.qat import QatCodec
from pipeline.memory.pages import MAX_BATCH_PAGES, PAGE_BYTES
from scheduler.devices.device import Device, Operation, Status

#: One member: fewer pages cost the caller less CPU than handing a job over and back.
MIN_DEVICE_PAGES = MEMBER_BYTES // PAGE_BYTES
_HALF_BYTES = MAX_BATCH_PAGES * PAGE_BYTES
#: Data memory of a device that this codec uses: a packet, then what becomes of it.
DEVICE_MEMORY_BYTES = 2 * _HALF_BYTES


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
        self._members = DeviceMembers(access, credit, 1, clock, cpu_clock)
        self._cpu = QatCodec(level)
        self._cpu_clock = cpu_clock

    def encode(self, pages: memoryview) -> Sequence[Buffer | None]:
        """One stream, or None when it would not shrink."""
        sizes = list(member_sizes(len(pages)))
        device = self._usable(Operation.COMPRESS, sizes)
        began_ns = self._cpu_clock()
        if device is None:
            streams = self._cpu.encode(pages)
            self._members.count(len(pages), 0, began_ns, began_ns)
            return streams
        bounds = [*range(0, len(pages), MEMBER_BYTES), len(pages)]
        work = Work(Operation.COMPRESS, np.frombuffer(pages, dtype=np.uint8), bounds, sizes, _HALF_BYTES)
        self._members.run(device, work, lambda _members: len(pages) - 1 - work.written)
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
        self._members.count(len(pages), done_bytes, began_ns, device_done_ns)
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
            work = Work(Operation.DECOMPRESS, np.frombuffer(stream, dtype=np.uint8), bounds, sizes, _HALF_BYTES)
            self._members.run(device, work, lambda count: sum(sizes[work.done : work.done + count]))
            device_done_ns = self._cpu_clock()
            left, done_bytes = members[work.done :], work.written
            parts.append(device.memory.data[_HALF_BYTES : _HALF_BYTES + done_bytes])
        parts += [read_member(stream, member) for member in left]
        pages = parts[0] if len(parts) == 1 else b"".join(parts)
        self._members.count(size_bytes, done_bytes, began_ns, device_done_ns)
        return pages

    def _usable(self, operation: Operation, sizes: list[int]) -> Device | None:
        """The device, if the packet is one for it."""
        if not MIN_DEVICE_PAGES * PAGE_BYTES <= sum(sizes) <= _HALF_BYTES:
            return None
        return self._members.usable(operation, sizes)
