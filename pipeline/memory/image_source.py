"""The image that is read: a regular file of whole pages, which must not change meanwhile.

The rule: what was sent is one state of the file. Size and modification time are noted when the coordinator looks at
the file, every worker opens that same state, and each extent's digest is given out only if they are still the same. A
file that is truncated, replaced or written to makes the migration fail with one line, not with a mixture of two
states.

Files are read with preadv into one reused buffer, never mapped. It is safer, because a mapped file that somebody
truncates kills the process with SIGBUS, and the process serves live guests too; and it is quicker, because page
faults cost more than the copy. GB/s of read, scan and digest of a 1 GiB file in memory, one thread and two, 2 MiB at
a time:

    preadv   tmpfs 10.7 / 18.8   ext4 13.3 / 21.9
    mmap     tmpfs  5.6 /  8.1   ext4  7.6 / 13.5
"""

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from pipeline.errors import KuakaError
from pipeline.memory.image_extents import EXTENT_BYTES, Extent, file_error, next_data, plan_extents
from pipeline.memory.pages import (
    MAX_BATCH_PAGES,
    MAX_PAGE_NUMBER,
    PAGE_BYTES,
    WORDS_PER_PAGE,
    PageNumbers,
    PageWords,
    as_bytes,
)

_NO_PAGES: PageWords = np.empty((0, WORDS_PER_PAGE), dtype=np.uint64)
_NO_NUMBERS: PageNumbers = np.empty(0, dtype=np.uint32)


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """What the coordinator learns of an image and the others need."""

    size_bytes: int
    #: What it takes on disk: less than its size if it is sparse.
    allocated_bytes: int
    modified_ns: int
    #: Permission bits.
    mode: int


@dataclass(slots=True, eq=False)
class PageRun:
    """Consecutive pages, at most `MAX_BATCH_PAGES`: either (n,) numbers with their (n, 512) words, or the numbers of a
    hole."""

    page_numbers: PageNumbers
    pages: PageWords
    hole_numbers: PageNumbers


class ImageSource:
    """One thread's view of an image; several threads or processes each open their own."""

    def __init__(self, descriptor: int, path: Path, facts: ImageFacts, batch_pages: int) -> None:
        self.path = path
        self.facts = facts
        self._descriptor = descriptor
        self._buffer = np.empty((batch_pages, WORDS_PER_PAGE), dtype=np.uint64)

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        size_bytes: int | None = None,
        modified_ns: int | None = None,
        batch_pages: int = MAX_BATCH_PAGES,
    ) -> Self:
        """Open an image to read `batch_pages` at a time; size and time, if given, are those the coordinator saw.

        Raises `KuakaError` for what is not an image, or no longer the same.
        """
        try:
            # Non-blocking, or opening a FIFO would wait for its writer.
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            raise file_error(path, "cannot be opened", error) from None
        try:
            facts = _facts(descriptor, path)
            if size_bytes not in (None, facts.size_bytes):
                raise KuakaError(
                    f"{path} has {facts.size_bytes} bytes now, it had {size_bytes}: leave it alone meanwhile"
                )
            if modified_ns not in (None, facts.modified_ns):
                raise KuakaError(f"{path} was written to since the migration began: stop whoever uses it first")
        except BaseException:
            os.close(descriptor)
            raise
        return cls(descriptor, path, facts, batch_pages)

    def extents(self, extent_bytes: int = EXTENT_BYTES) -> tuple[Extent, ...]:
        """The image cut into extents, holes marked; every opener gets the same cut. Raises `KuakaError`."""
        try:
            return plan_extents(self._descriptor, self.facts.size_bytes, extent_bytes)
        except OSError as error:
            raise file_error(self.path, "cannot be searched for holes", error) from None

    def read(self, extent: Extent) -> Iterator[PageRun]:
        """Read one extent, at its end making sure that the file has not changed; a hole has no runs.

        A run's pages are valid until the next run: all lie in this source's one buffer. Raises `KuakaError` when the
        file cannot be read, ends too early or was changed.
        """
        step = min(len(self._buffer), MAX_BATCH_PAGES) * PAGE_BYTES
        end = extent.offset_bytes + extent.length_bytes
        for offset in range(extent.offset_bytes, end if not extent.hole else 0, step):
            length = min(step, end - offset)
            numbers = np.arange(offset // PAGE_BYTES, (offset + length) // PAGE_BYTES, dtype=np.uint32)
            if self._is_hole(offset, length):
                yield PageRun(_NO_NUMBERS, _NO_PAGES, numbers)
            else:
                pages = self._buffer[: len(numbers)]
                self._fill(as_bytes(pages.data), offset)
                yield PageRun(numbers, pages, _NO_NUMBERS)
        self.check_unchanged()

    def check_unchanged(self) -> None:
        """Raise `KuakaError` if the file is not as it was when it was opened."""
        now = os.fstat(self._descriptor)
        if now.st_size != self.facts.size_bytes:
            raise KuakaError(
                f"{self.path} changed from {self.facts.size_bytes} to {now.st_size} bytes while it was read"
            )
        if now.st_mtime_ns != self.facts.modified_ns:
            raise KuakaError(f"{self.path} was written to while it was read: stop whoever uses it first")

    def close(self) -> None:
        """Release the file."""
        os.close(self._descriptor)

    def _is_hole(self, offset: int, length: int) -> bool:
        try:
            return next_data(self._descriptor, offset, offset + length) == offset + length
        except OSError as error:
            raise file_error(self.path, "cannot be read", error) from None

    def _fill(self, view: memoryview, offset: int) -> None:
        got = 0
        while got < len(view):
            try:
                count = os.preadv(self._descriptor, (view[got:],), offset + got)
            except OSError as error:
                raise file_error(self.path, f"cannot be read at byte {offset + got}", error) from None
            if not count:
                raise KuakaError(f"{self.path} ends at byte {offset + got}: it was truncated while it was read")
            got += count

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()


def inspect_image(path: Path) -> ImageFacts:
    """Look at an image without keeping it open; raises `KuakaError` for what cannot be one."""
    with ImageSource.open(path, batch_pages=0) as source:
        return source.facts


def _facts(descriptor: int, path: Path) -> ImageFacts:
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        raise KuakaError(f"{path} is not a regular file: a memory image is one")
    size = status.st_size
    if not size or size % PAGE_BYTES:
        raise KuakaError(f"{path} has {size} bytes: a memory image is a whole number of {PAGE_BYTES}-byte pages")
    if size > (MAX_PAGE_NUMBER + 1) * PAGE_BYTES:
        raise KuakaError(f"{path} has {size} bytes: 16 TiB is the most")
    return ImageFacts(size, min(size, status.st_blocks * 512), status.st_mtime_ns, stat.S_IMODE(status.st_mode))
