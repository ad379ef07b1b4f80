"""The hot path, once, for every source and sink: scan -> encode -> send, and receive -> decode -> place.

A shard is a worker's share of a VM: one or more channels, each served by one thread here. A source hands over pages
as it reads them (a multifd packet, a piece of an image); a sink is told what to write where, in the order of the
channel, and the frame is acknowledged only after the sink has returned. Per batch this runs a fixed number of Python
steps, whatever the number of pages; all that touches page bytes is vectorised or releases the GIL.
"""

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.codecs.codec import Codec, CodecId
from pipeline.errors import KuakaError, LinkCut
from pipeline.memory.pages import MAX_BATCH_PAGES, NORMAL, PAGE_BYTES, WORDS_PER_PAGE, ZERO, PageBatch
from pipeline.memory.scan import Scan, scan
from pipeline.wire.frames import FrameKind
from pipeline.wire.links import LinkReceiver, LinkSender

_NAMES = {codec_id: codec_id.label for codec_id in CodecId}
_UNCODED = _NAMES[CodecId.NONE]
_PAGES, _END = FrameKind.PAGES, FrameKind.END
_NO_WORDS = np.empty(0, dtype=np.uint64)


@dataclass(slots=True)
class ShardCounters:
    """What one channel has moved; only its own thread writes it, anyone may read a slightly old value."""

    #: Pages of all kinds.
    pages: int = 0
    #: Zero pages that the source announced as such.
    announced_zero_pages: int = 0
    #: Zero pages that the scan found.
    zero_pages: int = 0
    same_pages: int = 0
    raw_bytes: int = 0
    #: Bytes of whole frames, table and head included.
    wire_bytes: int = 0
    syncs: int = 0
    #: Normal pages by the codec they were sent with; those a codec could not shrink count as "none".
    codec_pages: dict[str, int] = field(default_factory=dict)
    #: `wire_bytes` of a sender by codec: of a frame, pages that were not shrunk are "none", all else is its codec's.
    codec_wire_bytes: dict[str, int] = field(default_factory=dict)

    def count_normal(self, name: str, pages: int) -> None:
        """Add normal pages under a codec's name."""
        if pages:
            self.codec_pages[name] = self.codec_pages.get(name, 0) + pages

    def count_wire(self, name: str, wire_bytes: int) -> None:
        """Add bytes on the wire under a codec's name."""
        if wire_bytes:
            self.codec_wire_bytes[name] = self.codec_wire_bytes.get(name, 0) + wire_bytes

    def add(self, other: "ShardCounters") -> None:
        """Add another channel's; that may be counting on meanwhile."""
        self.pages += other.pages
        self.announced_zero_pages += other.announced_zero_pages
        self.zero_pages += other.zero_pages
        self.same_pages += other.same_pages
        self.raw_bytes += other.raw_bytes
        self.wire_bytes += other.wire_bytes
        self.syncs += other.syncs
        for name, pages in dict(other.codec_pages).items():
            self.count_normal(name, pages)
        for name, wire_bytes in dict(other.codec_wire_bytes).items():
            self.count_wire(name, wire_bytes)


class Sink(Protocol):
    """Where a receiving shard puts what arrives, in order."""

    def place(self, batch: PageBatch, tag: int, checksum: int) -> None:
        """Write a batch; everything in it has been verified against its frame's checksum."""

    def barrier(self, tag: int) -> None:
        """Nothing after this may be placed before what came before it."""

    def verbatim(self, payload: memoryview) -> None:
        """Write bytes as they are."""

    def extent(self, offset_bytes: int, digest: memoryview) -> None:
        """The extent at this offset is complete, and its frames have this digest."""

    def finish(self) -> None:
        """Nothing follows."""


class ShardSender:
    """The sending half of one channel."""

    def __init__(self, link: LinkSender, codec: Codec, counters: ShardCounters, scan_pages: Scan = scan) -> None:
        self.link = link
        self._scan = scan_pages
        self._codec = codec
        self._counters = counters
        self._packed: NDArray[np.uint64] | None = None

    def send(
        self,
        block: bytes,
        page_numbers: NDArray[np.uint32],
        pages: NDArray[np.uint64],
        announced_zero: NDArray[np.uint32] | None = None,
        tag: int = 0,
    ) -> int:
        """Send pages of one block: `pages` is (n, 512) words with its (n,) numbers; `announced_zero` are pages that the
        source itself found to be zero. Returns their frame's checksum. Raises `LinkError`."""
        kinds, fill_words = self._scan(pages) if len(pages) else (np.empty(0, dtype=np.uint8), _NO_WORDS)
        normal = self._normal(pages, kinds)
        counters = self._counters
        if announced_zero is not None and len(announced_zero):
            counters.announced_zero_pages += len(announced_zero)
            page_numbers = np.concatenate((page_numbers, announced_zero))
            kinds = np.concatenate((kinds, np.full(len(announced_zero), ZERO, dtype=np.uint8)))
        batch = PageBatch(block, page_numbers, kinds, fill_words, normal.data)
        frame = self.link.send_pages(batch, self._codec, tag)
        normal_pages = len(normal)
        counters.pages += batch.page_count
        counters.same_pages += len(fill_words)
        counters.zero_pages += len(pages) - normal_pages - len(fill_words)
        counters.raw_bytes += batch.page_count * PAGE_BYTES
        counters.wire_bytes += frame.wire_bytes
        counters.count_normal(_NAMES[frame.codec_id], normal_pages - frame.raw_pages)
        counters.count_normal(_UNCODED, frame.raw_pages)
        uncoded_bytes = frame.raw_pages * PAGE_BYTES
        counters.count_wire(_NAMES[frame.codec_id], frame.wire_bytes - uncoded_bytes)
        counters.count_wire(_UNCODED, uncoded_bytes)
        return frame.checksum

    def sync(self, tag: int) -> None:
        """Send a barrier."""
        self.link.send_plain(FrameKind.SYNC, tag=tag)
        self._counters.syncs += 1

    def _normal(self, pages: NDArray[np.uint64], kinds: NDArray[np.uint8]) -> NDArray[np.uint64]:
        """The NORMAL pages side by side; the array is valid until the next call."""
        if not kinds.any():
            return pages
        index = np.flatnonzero(kinds == NORMAL)
        if self._packed is None:
            self._packed = np.empty((MAX_BATCH_PAGES, WORDS_PER_PAGE), dtype=np.uint64)
        packed = self._packed[: len(index)]
        # mode="clip" writes straight into `out`; the default goes through a buffer.
        np.take(pages, index, axis=0, out=packed, mode="clip")
        return packed


def receive_all(link: LinkReceiver, sink: Sink, counters: ShardCounters) -> None:
    """Serve one channel until its END: each frame is verified, placed, then acknowledged. Raises `KuakaError`.

    The sender is told why when a frame cannot be used, so that the reason reaches the user from either end.
    """
    try:
        while True:
            head = link.receive()
            if head.kind is _PAGES:
                batch = link.pages(head)
                sink.place(batch, head.tag, head.checksum)
                counters.pages += batch.page_count
                counters.raw_bytes += head.raw_bytes
            else:
                payload = link.payload(head)
                if head.kind is FrameKind.SYNC:
                    sink.barrier(head.tag)
                    counters.syncs += 1
                elif head.kind is FrameKind.BYTES:
                    sink.verbatim(payload)
                elif head.kind is FrameKind.EXTENT:
                    sink.extent(head.tag, payload)
                else:
                    sink.finish()
            counters.wire_bytes = link.wire_bytes
            link.acknowledge(head)
            if head.kind is _END:
                return
    except LinkCut:
        # No more than a sign of something that another part knows the reason of.
        raise
    except KuakaError as error:
        link.reject(str(error))
        raise
