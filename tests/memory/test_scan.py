import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline.memory.pages import WORDS_PER_PAGE, PageKind
from pipeline.memory.scan import scan

WORDS = st.one_of(st.just(0), st.just(2**64 - 1), st.integers(0, 2**64 - 1))


def naive_scan(pages: NDArray[np.uint64]) -> tuple[list[int], list[int]]:
    """The definition, page by page."""
    kinds, fill_words = [], []
    for page in pages.tolist():
        same = all(word == page[0] for word in page)
        kinds.append(PageKind.NORMAL if not same else PageKind.SAME if page[0] else PageKind.ZERO)
        if kinds[-1] is PageKind.SAME:
            fill_words.append(page[0])
    return kinds, fill_words


def filled(words: list[int]) -> NDArray[np.uint64]:
    return np.repeat(np.array(words, dtype=np.uint64), WORDS_PER_PAGE).reshape(-1, WORDS_PER_PAGE)


@given(
    st.lists(WORDS, max_size=24),
    st.lists(st.tuples(st.integers(0, 23), st.integers(0, WORDS_PER_PAGE - 1), st.integers(0, 63)), max_size=12),
)
def test_scan_agrees_with_the_definition(words: list[int], flips: list[tuple[int, int, int]]) -> None:
    pages = filled(words)
    for page, word, bit in flips:
        if page < len(pages):
            pages[page, word] ^= np.uint64(1 << bit)
    kinds, fill_words = scan(pages)
    assert (kinds.tolist(), fill_words.tolist()) == naive_scan(pages)
    assert (kinds.dtype, fill_words.dtype) == (np.uint8, np.uint64)


@pytest.mark.parametrize("word", [0, 0x0101_0101_0101_0101], ids=["zero", "same"])
def test_one_word_that_differs_anywhere_makes_a_page_normal(word: int) -> None:
    pages = filled([word] * WORDS_PER_PAGE)
    pages[np.arange(WORDS_PER_PAGE), np.arange(WORDS_PER_PAGE)] ^= np.uint64(1 << 63)
    kinds, fill_words = scan(pages)
    assert not kinds.any()
    assert not len(fill_words)


def test_page_that_agrees_at_every_probe_is_read_in_full() -> None:
    pages = np.full((2, WORDS_PER_PAGE), 7, dtype=np.uint64)
    pages[0, 1::2] = 8
    pages[0, [0, 101, 310, WORDS_PER_PAGE - 1]] = 7
    assert scan(pages)[0].tolist() == [PageKind.NORMAL, PageKind.SAME]


def test_no_pages_have_no_kinds() -> None:
    kinds, fill_words = scan(np.empty((0, WORDS_PER_PAGE), dtype=np.uint64))
    assert (len(kinds), len(fill_words)) == (0, 0)


def test_fill_words_outlive_the_pages_they_were_read_from() -> None:
    pages = filled([5, 6])
    fill_words = scan(pages)[1]
    pages[:] = 0
    assert fill_words.tolist() == [5, 6]


def test_fill_word_has_the_guest_bytes_in_guest_order() -> None:
    page = np.frombuffer(bytes(range(8)) * WORDS_PER_PAGE, dtype=np.uint64).reshape(1, WORDS_PER_PAGE)
    assert scan(page)[1].tobytes() == bytes(range(8))


def test_scan_reads_mapped_memory_that_is_read_only_and_strided() -> None:
    pages = filled([1, 2, 0, 3])
    pages[3, 9] = 0
    pages.flags.writeable = False
    kinds, fill_words = scan(pages[::2])
    assert (kinds.tolist(), fill_words.tolist()) == ([PageKind.SAME, PageKind.ZERO], [1])
    assert scan(pages[1::2])[0].tolist() == [PageKind.SAME, PageKind.NORMAL]
