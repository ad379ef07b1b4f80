import numpy as np
import pytest

from pipeline.memory.pages import PAGE_BYTES, PAGE_SHIFT, WORDS_PER_PAGE, as_bytes


def test_page_constants_agree() -> None:
    assert PAGE_BYTES == 1 << PAGE_SHIFT == 8 * WORDS_PER_PAGE


def test_as_bytes_flattens_words_without_copying() -> None:
    words = np.arange(2 * WORDS_PER_PAGE, dtype=np.uint64).reshape(2, WORDS_PER_PAGE)
    view = as_bytes(words)
    words[1, 0] = 0xFFFF_FFFF_FFFF_FFFF
    assert view.nbytes == len(view) == 2 * PAGE_BYTES
    assert view[PAGE_BYTES] == 0xFF


@pytest.mark.parametrize("empty", [b"", bytearray(), np.empty((0, WORDS_PER_PAGE), dtype=np.uint64)])
def test_as_bytes_takes_buffers_without_pages(empty: bytes) -> None:
    assert len(as_bytes(empty)) == 0
