"""Deflate by a device that works page by page, with the CPU for whatever the device does not do.

A batch goes one of two ways, and the choice is made once, by what costs the caller least:

* Nothing of it went to the device (no credit, busy, down, too few pages to pay): one stream for the whole batch, as
  `DeflateCodec` makes it. Level 1 over a batch costs the CPU what level 0 costs page by page (10 us a page), and
  compresses by a third better.
* Some of it did: one stream per page, because a frame has one stream or one per page and nothing between; the pages
  that the device left (queue full, page fault, time out) are compressed singly at level 0, in the same format. Doing
  the batch over as one stream would pay again for what the device has done.

A page that does not shrink is None either way. No batch is submitted without credit, and holds are given back before
this returns: none is kept across a socket read or write. A window smaller than the batch takes it piece by piece, which
costs the caller less CPU (a submission) than compressing the rest; a device that answers busy twice gets no more.

Decoding mirrors it: all streams of a frame in one submission (`decode_streams`), the rest by the CPU. A stream that the
device refuses is decoded again by the CPU, whose word is final.
"""

import time
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Buffer

from pipeline.codecs.codec import CodecId
from pipeline.codecs.credit import CREDIT_WAIT_NS, Credit
from pipeline.codecs.deflate import DeflateCodec
from pipeline.codecs.device_access import DeviceAccess
from pipeline.codecs.device_arithmetic import compress_page
from pipeline.memory.pages import MAX_BATCH_PAGES, PAGE_BYTES
from scheduler.devices.device import DESCRIPTOR, Descriptors, Device, Operation, Status

#: Fewer pages than this cost the caller less CPU than a submission does (docs/devices.md).
MIN_DEVICE_PAGES = 16
#: The same for a piece of a batch, where the window or the queue is smaller.
MIN_PIECE_BYTES = 8 * PAGE_BYTES
_HALF_BYTES = MAX_BATCH_PAGES * PAGE_BYTES
#: Data memory of a device that this codec uses: a batch's sources, then its destinations.
DEVICE_MEMORY_BYTES = 2 * _HALF_BYTES
_BUSY_ANSWERS = 2


class DeviceDeflateCodec:
    """See `codecs.codec.Codec`; what a call returns may lie in the device's memory and is valid until the next call."""

    def __init__(
        self,
        access: DeviceAccess,
        credit: Credit,
        level: int | None = None,
        *,
        codec_id: CodecId = CodecId.DEFLATE,
        clock: Callable[[], int] = time.monotonic_ns,
        cpu_clock: Callable[[], int] = time.thread_time_ns,
    ) -> None:
        """`codec_id` is another than deflate's where it decodes frames of a codec whose streams are deflate's, too."""
        self.codec_id = codec_id
        self._access = access
        self._credit = credit
        self._cpu = DeflateCodec(level)
        self._clock = clock
        self._cpu_clock = cpu_clock
        self._page_jobs = _page_jobs()

    def encode(self, pages: memoryview) -> Sequence[Buffer | None]:
        """One stream per page where the device had a part in it, else one for all."""
        count = len(pages) // PAGE_BYTES
        device = self._usable(Operation.COMPRESS, count, pages.nbytes)
        if device is None:
            return self._encode_alone(pages, count)
        began_ns = self._cpu_clock()
        source = np.frombuffer(pages, dtype=np.uint8)
        if not self._run(device, Operation.COMPRESS, self._page_jobs[:count], PAGE_BYTES, source):
            self._credit.count(accelerator_cpu_ns=self._cpu_clock() - began_ns)
            return self._encode_alone(pages, count)
        status = device.status[:count].tobytes()
        lengths = device.output_bytes[:count].tolist()
        results = device.memory.data[_HALF_BYTES:]
        # The codec interface has a buffer per stream: about 0.15 us a page here, and the frame pays as much again.
        streams: list[Buffer | None] = [
            results[place : place + length] if each == Status.OK else None
            for place, length, each in zip(range(0, count * PAGE_BYTES, PAGE_BYTES), lengths, status, strict=True)
        ]
        left = [index for index, each in enumerate(status) if each not in (Status.OK, Status.OVERFLOW)]
        device_done_ns = self._cpu_clock()
        for index in left:
            stream = compress_page(pages[index * PAGE_BYTES : (index + 1) * PAGE_BYTES])
            streams[index] = stream if len(stream) < PAGE_BYTES else None
        self._credit.count(
            accelerator_pages=count - len(left),
            cpu_pages=len(left),
            accelerator_cpu_ns=device_done_ns - began_ns,
            cpu_ns=self._cpu_clock() - device_done_ns,
        )
        return streams

    def decode(self, stream: memoryview, size_bytes: int) -> Buffer:
        """One stream; the device is asked for large ones only."""
        (pages,) = self.decode_streams((stream,), size_bytes)
        return pages

    def decode_streams(self, streams: Sequence[memoryview], size_bytes: int) -> Sequence[Buffer]:
        """Streams of `size_bytes` each, all that a frame has; raises `DecodeError` as `decode` does."""
        device = self._decoder(streams, size_bytes)
        if device is None:
            return self._decode_alone(streams, size_bytes)
        began_ns = self._cpu_clock()
        packed = np.frombuffer(b"".join(streams), dtype=np.uint8)
        lengths = np.fromiter(map(len, streams), dtype=np.uint32, count=len(streams))
        jobs = _decode_jobs(lengths, size_bytes)
        if not self._run(device, Operation.DECOMPRESS, jobs, size_bytes, packed):
            self._credit.count(accelerator_cpu_ns=self._cpu_clock() - began_ns)
            return self._decode_alone(streams, size_bytes)
        good = (device.status[: len(jobs)] == Status.OK) & (device.output_bytes[: len(jobs)] == size_bytes)
        results = device.memory.data[_HALF_BYTES : _HALF_BYTES + len(jobs) * size_bytes]
        pages: list[Buffer] = [results[place : place + size_bytes] for place in range(0, len(results), size_bytes)]
        left = np.flatnonzero(~good).tolist()
        device_done_ns = self._cpu_clock()
        for index in left:
            pages[index] = self._cpu.decode(streams[index], size_bytes)
        pages_each = size_bytes // PAGE_BYTES
        self._credit.count(
            accelerator_pages=(len(jobs) - len(left)) * pages_each,
            cpu_pages=len(left) * pages_each,
            accelerator_cpu_ns=device_done_ns - began_ns,
            cpu_ns=self._cpu_clock() - device_done_ns,
        )
        return pages

    def _usable(self, operation: Operation, count: int, size_bytes: int) -> Device | None:
        """The device, if it is there, does this, and the batch is one for it."""
        if not MIN_DEVICE_PAGES <= count <= MAX_BATCH_PAGES:
            return None
        device = self._access.device()
        if device is None or not device.cost.supports(operation):
            return None
        if self._credit.prefers_device():
            return device
        self._credit.count(asked_ns=count * device.cost.cost_ns(operation, size_bytes // count))
        return None

    def _decoder(self, streams: Sequence[memoryview], size_bytes: int) -> Device | None:
        total_bytes = len(streams) * size_bytes
        if total_bytes > _HALF_BYTES or sum(map(len, streams)) > _HALF_BYTES:
            return None
        return self._usable(Operation.DECOMPRESS, total_bytes // PAGE_BYTES, total_bytes)

    def _run(
        self, device: Device, operation: Operation, jobs: Descriptors, size_bytes: int, source: NDArray[np.uint8]
    ) -> int:
        """Have the device do jobs, as far as credit and queue allow; returns how many it took from the front.

        `source` is copied to it once there is credit: most batches of a busy pool get none, and must not pay for that.
        """
        cost_ns = device.cost.cost_ns(operation, size_bytes)
        device.status[: len(jobs)] = Status.PENDING
        credit_ends_ns = self._clock() + CREDIT_WAIT_NS
        taken = busy = 0
        least = -(-MIN_PIECE_BYTES // size_bytes)
        while len(jobs) - taken >= least and busy < _BUSY_ANSWERS:
            left = len(jobs) - taken
            wait_ns = max(0, credit_ends_ns - self._clock())
            asked = min(left, device.slots)
            hold = self._credit.acquire(asked, asked * cost_ns, wait_ns)
            if hold is None:
                break
            accepted = 0
            try:
                if hold.slots < least or not hold.current():
                    break
                if not taken:
                    device.memory[: len(source)] = source
                piece = jobs[taken : taken + hold.slots]
                accepted = self._access.submit(operation, piece, taken)
                alive = self._access.settle()
            finally:
                hold.release(accepted * cost_ns)
            taken += accepted
            if not alive:
                break
            if accepted < len(piece):
                busy += 1
                self._credit.count(busy_retries=len(piece) - accepted)
        return taken

    def _encode_alone(self, pages: memoryview, count: int) -> Sequence[Buffer | None]:
        began_ns = self._cpu_clock()
        streams = self._cpu.encode(pages)
        self._credit.count(cpu_pages=count, cpu_ns=self._cpu_clock() - began_ns)
        return streams

    def _decode_alone(self, streams: Sequence[memoryview], size_bytes: int) -> Sequence[Buffer]:
        began_ns = self._cpu_clock()
        pages = [self._cpu.decode(stream, size_bytes) for stream in streams]
        count = len(streams) * size_bytes // PAGE_BYTES
        self._credit.count(cpu_pages=count, cpu_ns=self._cpu_clock() - began_ns)
        return pages


def _page_jobs() -> Descriptors:
    """One job per page of the largest batch. A page that does not fit one byte less than its size does not compress."""
    jobs = np.zeros(MAX_BATCH_PAGES, dtype=DESCRIPTOR)
    jobs["source"] = np.arange(MAX_BATCH_PAGES) * PAGE_BYTES
    jobs["source_bytes"] = PAGE_BYTES
    jobs["destination"] = jobs["source"] + _HALF_BYTES
    jobs["capacity_bytes"] = PAGE_BYTES - 1
    return jobs


def _decode_jobs(lengths: NDArray[np.uint32], size_bytes: int) -> Descriptors:
    """One job per stream, streams lying one behind the other."""
    jobs = np.zeros(len(lengths), dtype=DESCRIPTOR)
    jobs["source"][1:] = np.cumsum(lengths[:-1])
    jobs["source_bytes"] = lengths
    jobs["destination"] = _HALF_BYTES + np.arange(len(lengths)) * size_bytes
    jobs["capacity_bytes"] = size_bytes
    return jobs
