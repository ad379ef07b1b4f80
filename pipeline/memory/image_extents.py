"""Extents: the aligned pieces of an image file that channels share out, and the digests that say what is in them.

The rule: an extent's digest is the xxh3-128 of the checksums of its frames, in order. A frame's checksum covers the
numbers, kinds, fill words and bytes of its pages as they were before encoding; the source computes it, the target
computes it again from what it decoded, and nothing is written where the two differ. So both digests are of the pages
themselves, and a frame that is missing, repeated, late or from elsewhere changes the digest like a flipped bit. Page
bytes are hashed once at either end; hashing them again for the extent, zeros included, found nothing more of what can
happen between the two. Neither digest sees a mistake of the scan before it or of the write behind it. Those two are
proven by tests over every mixture of pages, and the writer takes an extent only if its pages came one after the other
from the first to the last.

Holes are asked for (SEEK_DATA), not read: an extent that is a hole costs one system call, has no frames, and its
digest is that of no checksums.
"""

import errno
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import xxhash

from pipeline.errors import KuakaError
from pipeline.memory.pages import PAGE_BYTES

#: Enough that an extent's own costs vanish, few enough that channels end together.
EXTENT_BYTES = 8 << 20


@dataclass(frozen=True, slots=True)
class Extent:
    """A piece of an image; `hole` says that nothing in it is allocated, so all of it reads as zeros."""

    offset_bytes: int
    length_bytes: int
    hole: bool

    @property
    def first_page(self) -> int:
        """Number of its first page."""
        return self.offset_bytes // PAGE_BYTES

    @property
    def page_count(self) -> int:
        """Pages in it."""
        return self.length_bytes // PAGE_BYTES


@dataclass(frozen=True, slots=True)
class ExtentDigest:
    """What an extent holds: 16 bytes of xxh3-128 over the checksums of its frames."""

    offset_bytes: int
    length_bytes: int
    digest: bytes


def plan_extents(descriptor: int, size_bytes: int, extent_bytes: int = EXTENT_BYTES) -> tuple[Extent, ...]:
    """Cut a file into extents; where they lie depends on the two sizes alone, which are holes is the file's affair.

    One system call per extent with data and one per stretch of holes. Raises OSError.
    """
    if extent_bytes <= 0 or extent_bytes % PAGE_BYTES:
        raise ValueError(f"extents of {extent_bytes} bytes are not whole pages")
    extents = []
    data_at = 0
    for offset in range(0, size_bytes, extent_bytes):
        end = min(offset + extent_bytes, size_bytes)
        if data_at <= offset:
            data_at = next_data(descriptor, offset, size_bytes)
        extents.append(Extent(offset, end - offset, hole=data_at >= end))
    return tuple(extents)


def next_data(descriptor: int, start: int, end: int) -> int:
    """The first place from `start` on that may hold data, `end` if there is none before it."""
    try:
        return min(os.lseek(descriptor, start, os.SEEK_DATA), end)
    except OSError as error:
        if error.errno == errno.ENXIO:
            return end
        if error.errno in (errno.EINVAL, errno.EOPNOTSUPP):
            # A file system that cannot tell: everything may be data.
            return start
        raise


class FrameChain:
    """An extent's digest in the making."""

    def __init__(self) -> None:
        self._hash = xxhash.xxh3_128()

    def add(self, checksum: int) -> None:
        """The extent's next frame has this checksum (64 bits)."""
        self._hash.update(checksum.to_bytes(8, "big"))

    def digest(self) -> bytes:
        """Digest of the frames so far."""
        return self._hash.digest()


def image_digest(extents: Iterable[ExtentDigest], size_bytes: int) -> bytes:
    """One digest for an image: xxh3-128 over its extents' digests in file order, whatever order they come in.

    Raises `KuakaError` unless they cover the image from 0 to `size_bytes` without a gap or an overlap.
    """
    digest = xxhash.xxh3_128()
    covered = 0
    for extent in sorted(extents, key=lambda extent: extent.offset_bytes):
        if extent.offset_bytes != covered:
            raise KuakaError(f"the image is not whole: byte {covered} is in no extent, or in more than one")
        covered += extent.length_bytes
        digest.update(extent.digest)
    if covered != size_bytes:
        raise KuakaError(f"the image is not whole: its extents end at byte {covered} of {size_bytes}")
    return digest.digest()


def file_error(path: Path, what: str, error: OSError) -> KuakaError:
    """The one line for a system call that failed on an image."""
    return KuakaError(f"{path} {what}: {os.strerror(error.errno or 0)}")
