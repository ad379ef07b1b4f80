"""Images over the shard: one channel's share of the extents, read at the source and placed at the destination.

Channel c of n sends extents c, c + n, c + 2n, ... each as frames of its pages and then an EXTENT frame with the digest
of their checksums. A hole is an EXTENT frame alone. The destination compares the digest with that of the frames it
verified and wrote before it acknowledges that frame.
"""

from collections.abc import Sequence
from pathlib import Path

from pipeline.errors import WireError
from pipeline.memory.image_extents import ExtentDigest, FrameChain
from pipeline.memory.image_source import ImageSource
from pipeline.memory.image_writer import TargetWriter
from pipeline.memory.pages import PAGE_BYTES, PageBatch
from pipeline.shard import ShardCounters, ShardSender
from pipeline.wire.frames import FrameKind


class ImageChannelSource:
    """One channel of an image's source."""

    def __init__(self, image: ImageSource, extent_bytes: int, channel: int, channels: int) -> None:
        self._image = image
        self._extents = image.extents(extent_bytes)[channel::channels]
        self.digests: list[ExtentDigest] = []

    def run(self, shard: ShardSender, counters: ShardCounters) -> None:
        """Send the channel's extents and finish the link. Raises `KuakaError`."""
        for extent in self._extents:
            chain = FrameChain()
            for run in self._image.read(extent):
                chain.add(shard.send(b"", run.page_numbers, run.pages, run.hole_numbers))
            if extent.hole:
                counters.pages += extent.page_count
                counters.zero_pages += extent.page_count
                counters.raw_bytes += extent.length_bytes
            digest = chain.digest()
            shard.link.send_plain(FrameKind.EXTENT, digest, tag=extent.offset_bytes)
            self.digests.append(ExtentDigest(extent.offset_bytes, extent.length_bytes, digest))
        shard.link.finish()


class ImageSink:
    """One channel's writer into a partial image."""

    def __init__(self, path: Path, size_bytes: int, extent_bytes: int, *, reused: bool) -> None:
        self._writer = TargetWriter.open(path, size_bytes, reused=reused)
        self._size_bytes = size_bytes
        self._extent_bytes = extent_bytes
        self.digests: list[ExtentDigest] = []

    def place(self, batch: PageBatch, tag: int, checksum: int) -> None:
        """Write a batch. Raises `KuakaError`."""
        self._writer.write(batch, checksum)

    def extent(self, offset_bytes: int, digest: memoryview) -> None:
        """Compare the extent. Raises `KuakaError`."""
        if offset_bytes % self._extent_bytes or offset_bytes >= self._size_bytes:
            raise WireError(f"an extent at byte {offset_bytes} is not one of this image's")
        length = min(self._extent_bytes, self._size_bytes - offset_bytes)
        self.digests.append(self._writer.finish_extent(offset_bytes, length, bytes(digest)))

    def barrier(self, tag: int) -> None:
        """Images have none."""
        raise WireError("a barrier arrived in an image")

    def verbatim(self, payload: memoryview) -> None:
        """Images have none."""
        raise WireError("verbatim bytes arrived in an image")

    def finish(self) -> None:
        """Every extent was verified when it came."""

    def abort(self) -> None:
        """Nothing blocks on a file."""

    def close(self) -> None:
        """Release the file."""
        self._writer.close()


#: Extents of at least this size, and no more of them than fit one control message.
MIN_EXTENT_BYTES = 8 << 20
_MAX_EXTENTS = 1536


def extent_bytes_of(size_bytes: int) -> int:
    """How large an image's extents are: 8 MiB, more for images beyond 12 GiB."""
    least = -(-size_bytes // _MAX_EXTENTS)
    return max(MIN_EXTENT_BYTES, -(-least // PAGE_BYTES) * PAGE_BYTES)


def encode_digests(digests: Sequence[ExtentDigest]) -> list[list[int | str]]:
    """Digests as they go through a control message."""
    return [[extent.offset_bytes, extent.length_bytes, extent.digest.hex()] for extent in digests]


def decode_digests(fields: Sequence[Sequence[int | str]]) -> tuple[ExtentDigest, ...]:
    """And back."""
    return tuple(
        ExtentDigest(int(offset), int(length), bytes.fromhex(str(digest))) for offset, length, digest in fields
    )
