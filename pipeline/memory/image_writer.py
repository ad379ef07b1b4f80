"""The worker's side of an image that arrives: pages written at their places, extents compared by their digests.

The rule: nothing of a batch is written unless all of it lies inside the file, and an extent counts only if its pages
came one after the other from its first to its last, in frames whose checksums have the digest that the source sent
(see image_extents.py). Whoever calls has verified each batch against its frame's checksum.

A fresh file is all holes, so zero pages need nothing and it stays sparse; one system call writes a run of consecutive
other pages. A reused file has old bytes, so zeros are written over them, together with the pages around them in one
call; only extents that are holes at the source are punched, which costs twice as much as writing zeros but keeps
them holes. GB/s of a 1 GiB image through `write`, 2 MiB batches, one thread (a second one adds little: the
kernel writes to one file under one lock):

                                    tmpfs  ext4
    fresh, all pages normal           3.0   4.5   (the kernel clears and links new pages)
    fresh, every other page zero      2.6   1.3   (one call per page: the worst case, 0.7 CPU seconds per GiB)
    reused, all pages normal         11.0  11.5
    reused, all pages zero           12.0  19.6   (punched instead, system calls alone: 6.3, 16.9)
    reused, every other page zero     6.0   6.3   (punched instead, system calls alone: 2.0, 1.3)
"""

import ctypes
import errno
import os
import stat
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Self

import numpy as np

from pipeline.errors import KuakaError, WireError
from pipeline.memory.image_extents import ExtentDigest, FrameChain, file_error
from pipeline.memory.page_vectors import PageVectors
from pipeline.memory.pages import MAX_BATCH_PAGES, NORMAL, PAGE_BYTES, SAME, ZERO, PageBatch, PageKind, as_bytes

#: Never written to, so the kernel backs them with its one zero page.
_ZERO_BYTES = memoryview(bytes(MAX_BATCH_PAGES * PAGE_BYTES))
#: No page has come.
_NOTHING = (-1, -1)
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# From linux/falloc.h.
_FALLOC_FL_KEEP_SIZE = 0x01
_FALLOC_FL_PUNCH_HOLE = 0x02

_libc = ctypes.CDLL(None, use_errno=True)
_fallocate = _libc.fallocate
_fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
_fallocate.restype = ctypes.c_int


class TargetWriter:
    """One thread's way into a partial image that a `TargetImage` made; several may write different extents at once."""

    def __init__(self, descriptor: int, path: Path, size_bytes: int, reused: bool) -> None:
        self.path = path
        self._descriptor = descriptor
        self._size_bytes = size_bytes
        self._reused = reused
        self._vectors = PageVectors()
        #: The frames since the last `finish_extent`.
        self._chain = FrameChain()
        #: The pages since the last `finish_extent`: first, and the one that is due; None where they are no sequence.
        self._sequence: tuple[int, int] | None = _NOTHING

    @classmethod
    def open(cls, path: Path, size_bytes: int, *, reused: bool) -> Self:
        """Open the partial image at `path`, whose size must be right; `reused` says that it has old contents.

        Raises `KuakaError`.
        """
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError as error:
            raise file_error(path, "cannot be opened", error) from None
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_size != size_bytes:
            os.close(descriptor)
            raise KuakaError(f"{path} is not a partial image of {size_bytes} bytes: somebody else changed it")
        return cls(descriptor, path, size_bytes, reused)

    def write(self, batch: PageBatch, checksum: int) -> None:
        """Write a batch's pages at their places; `checksum` is its frame's.

        Raises `WireError`, nothing written, if the batch does not fit the image; `KuakaError` if the file cannot be
        written.
        """
        self._check(batch)
        self._continue_sequence(batch)
        self._chain.add(checksum)
        self._vectors.point_to(batch)
        for start, stop in _runs(batch, self._reused):
            try:
                self._vectors.write(self._descriptor, start, stop, int(batch.page_numbers[start]) * PAGE_BYTES)
            except OSError as error:
                raise write_error(self.path, self._descriptor, (stop - start) * PAGE_BYTES, error) from None

    def finish_extent(self, offset_bytes: int, length_bytes: int, digest: bytes) -> ExtentDigest:
        """The pages given since the last call were all of this extent: see that they are what was sent.

        If no pages came, it is a hole at the source and becomes one here. Raises `WireError` for an extent outside
        the image, `KuakaError` if anything else was written than the digest says.
        """
        self._check_range(offset_bytes, length_bytes)
        written, self._sequence = self._sequence, _NOTHING
        chain, self._chain = self._chain, FrameChain()
        whole = (offset_bytes // PAGE_BYTES, (offset_bytes + length_bytes) // PAGE_BYTES)
        if digest != chain.digest() or written not in (whole, _NOTHING):
            raise KuakaError(
                f"{self.path}: bytes {offset_bytes} to {offset_bytes + length_bytes - 1} are not those that were sent"
            )
        if written == _NOTHING:
            self.clear(offset_bytes, length_bytes)
        return ExtentDigest(offset_bytes, length_bytes, digest)

    def clear(self, offset_bytes: int, length_bytes: int) -> None:
        """Make a range zeros: a hole where the file system can. Raises `KuakaError`."""
        self._check_range(offset_bytes, length_bytes)
        if not self._reused or punch_hole(self._descriptor, offset_bytes, length_bytes):
            return
        end = offset_bytes + length_bytes
        for offset in range(offset_bytes, end, len(_ZERO_BYTES)):
            self._write_zeros(offset, min(len(_ZERO_BYTES), end - offset))

    def close(self) -> None:
        """Release the file."""
        os.close(self._descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def _continue_sequence(self, batch: PageBatch) -> None:
        numbers = batch.page_numbers
        first, last = int(numbers[0]), int(numbers[-1])
        if self._sequence is None or self._sequence[1] not in (first, _NOTHING[1]) or (np.diff(numbers) != 1).any():
            self._sequence = None
        else:
            self._sequence = (first if self._sequence == _NOTHING else self._sequence[0], last + 1)

    def _check(self, batch: PageBatch) -> None:
        count = batch.page_count
        if not 1 <= count <= MAX_BATCH_PAGES:
            raise WireError(f"{count} pages in one batch for {self.path}, the limit is {MAX_BATCH_PAGES}")
        counts = np.bincount(batch.kinds, minlength=len(PageKind))
        sizes = (len(as_bytes(batch.normal)) // PAGE_BYTES, len(batch.fill_words))
        if sizes != (counts[NORMAL], counts[SAME]):
            raise WireError(f"a batch for {self.path} does not hold the pages that it announces")
        last = int(batch.page_numbers.max())
        if last >= self._size_bytes // PAGE_BYTES:
            raise WireError(f"page {last} for {self.path}, which has {self._size_bytes // PAGE_BYTES}")

    def _check_range(self, offset_bytes: int, length_bytes: int) -> None:
        if offset_bytes % PAGE_BYTES or length_bytes % PAGE_BYTES:
            raise WireError(f"an extent of {length_bytes} bytes at {offset_bytes} is not whole pages of {self.path}")
        if not 0 <= offset_bytes < offset_bytes + length_bytes <= self._size_bytes:
            raise WireError(f"an extent of {length_bytes} bytes at {offset_bytes} is not inside {self.path}")

    def _write_zeros(self, offset: int, length: int) -> None:
        while length:
            try:
                written = os.pwrite(self._descriptor, _ZERO_BYTES[:length], offset)
            except OSError as error:
                raise write_error(self.path, self._descriptor, length, error) from None
            offset += written
            length -= written


def _runs(batch: PageBatch, reused: bool) -> Iterator[tuple[int, int]]:
    """Where in the batch runs of consecutive pages that are to be written begin and end."""
    written = np.ones(batch.page_count, dtype=np.bool_) if reused else batch.kinds != ZERO
    # Wider than page numbers are, whose last one is followed by none.
    apart = np.diff(batch.page_numbers.astype(np.int64)) != 1
    cuts = (np.flatnonzero(apart | (written[1:] != written[:-1])) + 1).tolist()
    for start, stop in pairwise((0, *cuts, batch.page_count)):
        if written[start]:
            yield start, stop


def punch_hole(descriptor: int, offset_bytes: int, length_bytes: int) -> bool:
    """Deallocate a range, which then reads as zeros; False where the file system cannot."""
    mode = _FALLOC_FL_PUNCH_HOLE | _FALLOC_FL_KEEP_SIZE
    return int(_fallocate(descriptor, mode, offset_bytes, length_bytes)) == 0


def write_error(path: Path, descriptor: int, needed_bytes: int, error: OSError) -> KuakaError:
    """The one line for a write that failed; where there was no room it says how much was needed and is left."""
    if error.errno not in _NO_ROOM:
        return file_error(path, "cannot be written", error)
    space = os.fstatvfs(descriptor)
    free = space.f_bavail * space.f_frsize
    reason = os.strerror(error.errno)
    return KuakaError(f"{path}: {reason}: {needed_bytes} bytes needed, {free} free on its file system")
