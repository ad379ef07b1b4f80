"""Pages as raw deflate streams by QAT, with the CPU for whatever the device does not do.

To QATzip a packet is one job, its streams lying one behind the other, each behind four bytes of its length; to the
frame they are one stream per page, and the lengths are in its table. The device does as many pages from the front as
credit and fortune allow (`codecs.device_members`), the CPU the rest, in the same format.

There is no checksum to compare, and of several outputs hardware says the length of all. So nothing but streams of one
block reach it; what it made of several blocks the CPU makes again; no output is longer than its buffer, a page, so that
a piece as long as its pages has each of them, and any other is the CPU's, whose word is final; and the frame's checksum
covers every page.
"""

import struct
import time
from collections.abc import Callable, Sequence
from itertools import accumulate, chain, takewhile

import numpy as np
from typing_extensions import Buffer

from pipeline.codecs.codec import CodecId
from pipeline.codecs.credit import Credit
from pipeline.codecs.device_access import DeviceAccess
from pipeline.codecs.device_members import DeviceMembers, Work
from pipeline.codecs.qat_raw import QatRawCodec, is_one_block
from pipeline.memory.pages import MAX_BATCH_PAGES, PAGE_BYTES
from scheduler.devices.device import Device, Operation

#: Fewer pages cost the caller less CPU than handing a job over and back; the same for a piece of a packet.
MIN_DEVICE_PAGES, MIN_PIECE_PAGES = 16, 8
_LENGTH = struct.Struct("<I")
#: Room for what becomes of a page, its length included: hardware makes an eighth more of random bytes, and a little.
_ROOM_BYTES = PAGE_BYTES + PAGE_BYTES // 8 + 1024
_RESULTS_AT = MAX_BATCH_PAGES * (_LENGTH.size + PAGE_BYTES)
#: Data memory of a device that this codec uses: pages or streams, then what becomes of them.
DEVICE_MEMORY_BYTES = _RESULTS_AT + MAX_BATCH_PAGES * _ROOM_BYTES


class DeviceQatRawCodec:
    """See `codecs.codec.Codec`; what a call returns may lie in the device's memory and is valid until the next call."""

    codec_id = CodecId.QAT_RAW
    window_bytes = QatRawCodec.window_bytes

    def __init__(
        self,
        access: DeviceAccess,
        credit: Credit,
        level: int | None = None,
        *,
        clock: Callable[[], int] = time.monotonic_ns,
        cpu_clock: Callable[[], int] = time.thread_time_ns,
    ) -> None:
        self._members = DeviceMembers(access, credit, MIN_PIECE_PAGES, clock, cpu_clock)
        self._cpu = QatRawCodec(level)
        self._cpu_clock = cpu_clock

    def encode(self, pages: memoryview) -> Sequence[Buffer | None]:
        """One stream per page, None where raw is no larger."""
        count = len(pages) // PAGE_BYTES
        device = self._usable(Operation.COMPRESS, count)
        began_ns = device_done_ns = self._cpu_clock()
        streams: list[memoryview | bytes | None] = []
        if device is not None:
            work = Work(
                Operation.COMPRESS,
                np.frombuffer(pages, dtype=np.uint8),
                range(0, len(pages) + 1, PAGE_BYTES),
                [PAGE_BYTES] * count,
                _RESULTS_AT,
            )
            self._members.run(device, work, lambda members: members * _ROOM_BYTES)
            streams = _streams_made(device.memory.data[_RESULTS_AT : _RESULTS_AT + work.written], work.done)
            device_done_ns = self._cpu_clock()
        left = [index for index, stream in enumerate(streams) if stream is not None and not is_one_block(stream)]
        for index in left:
            streams[index] = self._cpu.encode_page(pages[index * PAGE_BYTES : (index + 1) * PAGE_BYTES])
        done_pages = len(streams) - len(left)
        rest = self._cpu.encode(pages[len(streams) * PAGE_BYTES :])
        self._members.count(len(pages), done_pages * PAGE_BYTES, began_ns, device_done_ns)
        return [*streams, *rest]

    def decode(self, stream: memoryview, size_bytes: int) -> Buffer:
        """One stream; the CPU's work."""
        (pages,) = self.decode_streams((stream,), size_bytes)
        return pages

    def decode_streams(self, streams: Sequence[memoryview], size_bytes: int) -> Sequence[Buffer]:
        """Streams of `size_bytes` each, all that a frame has; raises `DecodeError` as `decode` does."""
        # Of other sizes and of several blocks there are none but a stranger's.
        fit = list(takewhile(is_one_block, streams)) if size_bytes == PAGE_BYTES else []
        device = self._usable(Operation.DECOMPRESS, len(fit))
        began_ns = device_done_ns = self._cpu_clock()
        pages: list[Buffer] = []
        if device is not None:
            lengths = list(map(len, fit))
            packed = b"".join(chain.from_iterable(zip(map(_LENGTH.pack, lengths), fit, strict=True)))
            bounds = list(accumulate((_LENGTH.size + length for length in lengths), initial=0))
            source = np.frombuffer(packed, dtype=np.uint8)
            work = Work(Operation.DECOMPRESS, source, bounds, [PAGE_BYTES] * len(fit), _RESULTS_AT)
            self._members.run(device, work, lambda members: members * PAGE_BYTES)
            results = device.memory.data[_RESULTS_AT : _RESULTS_AT + work.written]
            pages += [results[place : place + PAGE_BYTES] for place in range(0, work.written, PAGE_BYTES)]
            device_done_ns = self._cpu_clock()
        done_pages = len(pages)
        pages += [self._cpu.decode(stream, size_bytes) for stream in streams[done_pages:]]
        self._members.count(len(streams) * size_bytes, done_pages * PAGE_BYTES, began_ns, device_done_ns)
        return pages

    def _usable(self, operation: Operation, count: int) -> Device | None:
        """The device, if the packet is one for it."""
        if not MIN_DEVICE_PAGES <= count <= MAX_BATCH_PAGES:
            return None
        return self._members.usable(operation, [PAGE_BYTES] * count)


def _streams_made(results: memoryview, count: int) -> list[memoryview | bytes | None]:
    """The streams of `count` pages, None for one that is no smaller; fewer where the lengths do not add up."""
    streams: list[memoryview | bytes | None] = []
    place = 0
    while len(streams) < count and place + _LENGTH.size < len(results):
        start = place + _LENGTH.size
        length: int = _LENGTH.unpack_from(results, place)[0]
        place = start + length
        if not length or place > len(results):
            break
        streams.append(results[start:place] if length < PAGE_BYTES else None)
    return streams
