"""The unit of everything here: 4 KiB pages of guest RAM, moved in batches.

A batch holds the pages of one packet, each of one kind. Only NORMAL pages have bytes; a ZERO page has none, a SAME
page is one 8-byte word repeated. Pages are numbered inside their RAM block: number = offset / PAGE_BYTES.
"""

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Buffer

PAGE_BYTES = 4096
PAGE_SHIFT = 12
WORDS_PER_PAGE = PAGE_BYTES // 8
#: Most pages one batch may hold (2 MiB); QEMU's own packets hold 128.
MAX_BATCH_PAGES = 512
#: Page numbers are 32 bits wide on the wire: 16 TiB in one RAM block.
MAX_PAGE_NUMBER = 2**32 - 1

PageNumbers = NDArray[np.uint32]
PageKinds = NDArray[np.uint8]
PageWords = NDArray[np.uint64]


class PageKind(IntEnum):
    """How a page travels."""

    NORMAL = 0
    ZERO = 1
    SAME = 2


#: The same as plain integers, for the hot path: Python 3.11 looks a member up by a call.
NORMAL, ZERO, SAME = (int(kind) for kind in PageKind)


@dataclass(slots=True)
class PageBatch:
    """Pages of one RAM block, ready to be framed or just unframed.

    `page_numbers` and `kinds` are (n,); `fill_words` is (number of SAME pages,) in page order, in the guest's byte
    order; `normal` holds the NORMAL pages' bytes in page order, PAGE_BYTES each.
    """

    block: bytes
    page_numbers: PageNumbers
    kinds: PageKinds
    fill_words: PageWords
    normal: Buffer

    @property
    def page_count(self) -> int:
        """Pages of all kinds."""
        return len(self.page_numbers)


def as_bytes(buffer: Buffer) -> memoryview:
    """A flat byte view of any contiguous buffer, numpy arrays without rows included (memoryview.cast refuses those)."""
    view = memoryview(buffer)
    return view.cast("B") if view.nbytes else memoryview(b"")
