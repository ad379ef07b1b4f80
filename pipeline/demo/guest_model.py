"""What the demo guest writes where, computed outside of it: the Python twin of guest.S, many pages or steps at once.

The rule: everything derives from 64-bit seeds, one per page (first content) and one per step, drawn by splitmix64's
finalizer from the page or step number. A stream of words grows from a seed; a page's content is 512 words of a
stream, taken as they are (random) or as indexes into a table (text, code). Step k chooses a page of the working set
and what to do there:

    1 in 16   clears the page
    1 in 16   writes a page of text, 1 in 16 a page of random words
    13 in 16  writes 1 to 4 words, 67 words apart

so pages go from zero to non-zero and back. Arithmetic is modulo 2**64.
"""

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from pipeline.demo.guest import FIRST_PAGE, GuestParameters
from pipeline.demo.guest_tables import code_table, text_table
from pipeline.memory.pages import WORDS_PER_PAGE

Words = NDArray[np.uint64]
Numbers = NDArray[np.int64]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_WORD = np.uint64(0xD6E8FEB86659FD93)
_WORD_STRIDE = 67
_MAX_WORDS = 4


class Content(IntEnum):
    """What a page is filled with."""

    ZERO = 0
    TEXT = 1
    RANDOM = 2
    CODE = 3


class Action(IntEnum):
    """What a step does; the first three are also the Content they leave. WORDS stands for every number from 3 to 15."""

    CLEAR = 0
    TEXT = 1
    RANDOM = 2
    WORDS = 3


@dataclass(frozen=True, slots=True)
class Steps:
    """Steps in order, (n,) each: their numbers, seeds, pages and actions."""

    numbers: Numbers
    seeds: Words
    pages: Numbers
    actions: NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class WordWrites:
    """Words written, in order, (n,) each: the step, the word's place in the block, what was written there."""

    steps: Numbers
    places: Numbers
    values: Words


def _mix(values: Words) -> Words:
    values = (values ^ (values >> np.uint64(30))) * _MIX_1
    values = (values ^ (values >> np.uint64(27))) * _MIX_2
    mixed: Words = values ^ (values >> np.uint64(31))
    return mixed


def _seeds(numbers: Numbers, start: int) -> Words:
    return _mix(numbers.astype(np.uint64) * _GOLDEN + np.uint64(start))


def _streams(seeds: Words, length: int) -> Words:
    """(n, length) words that grow from (n,) seeds."""
    values = seeds[:, None] + np.arange(length, dtype=np.uint64) * _GOLDEN
    values ^= values >> np.uint64(32)
    values *= _WORD
    return values


def page_contents(content: Content, seeds: Words) -> Words:
    """(n, 512) words of pages of one kind that grew from (n,) `seeds`."""
    if content == Content.ZERO:
        return np.zeros((len(seeds), WORDS_PER_PAGE), dtype=np.uint64)
    words = _streams(seeds, WORDS_PER_PAGE)
    if content == Content.TEXT:
        text: Words = text_table()[words >> np.uint64(53)]
        return text
    if content == Content.CODE:
        table = code_table()
        pieces = words >> np.uint64(54)
        code: Words = table[pieces, 0] | (words & table[pieces, 1])
        return code
    return words


def fill_kinds(parameters: GuestParameters, pages: Numbers) -> NDArray[np.uint8]:
    """The Content that each of `pages`, all from FIRST_PAGE on, is filled with before the guest is ready."""
    draws = _seeds(pages, parameters.fill_seed) >> np.uint64(32)
    order = np.array([Content.ZERO, Content.TEXT, Content.CODE, Content.RANDOM], dtype=np.uint8)
    thresholds = np.array(parameters.kind_thresholds, dtype=np.uint64)
    return order[np.searchsorted(thresholds, draws, side="right")]


def filled_pages(parameters: GuestParameters, pages: Numbers) -> Words:
    """(n, 512) words: what `pages`, all from FIRST_PAGE on, hold before the first step."""
    seeds = _seeds(pages, parameters.fill_seed)
    kinds = fill_kinds(parameters, pages)
    contents = np.zeros((len(pages), WORDS_PER_PAGE), dtype=np.uint64)
    for content in (Content.TEXT, Content.CODE, Content.RANDOM):
        contents[kinds == content] = page_contents(content, seeds[kinds == content])
    return contents


def steps(parameters: GuestParameters, numbers: Numbers) -> Steps:
    """The steps of these `numbers`, in their order."""
    seeds = _seeds(numbers, parameters.step_seed)
    pages = ((seeds >> np.uint64(32)) * np.uint64(parameters.working_set_pages)) >> np.uint64(32)
    actions = np.minimum(seeds & np.uint64(15), np.uint64(Action.WORDS))
    return Steps(numbers, seeds, pages.astype(np.int64) + FIRST_PAGE, actions.astype(np.uint8))


def word_writes(chosen: Steps) -> WordWrites:
    """What those of `chosen` that write words write; the others contribute nothing."""
    rows = chosen.actions == Action.WORDS
    seeds = chosen.seeds[rows]
    nth = np.arange(_MAX_WORDS, dtype=np.uint64)
    written = nth <= ((seeds >> np.uint64(4)) & np.uint64(_MAX_WORDS - 1))[:, None]
    in_page = ((seeds >> np.uint64(8))[:, None] + nth * np.uint64(_WORD_STRIDE)) % np.uint64(WORDS_PER_PAGE)
    places = chosen.pages[rows][:, None] * WORDS_PER_PAGE + in_page.astype(np.int64)
    numbers = np.broadcast_to(chosen.numbers[rows][:, None], written.shape)
    return WordWrites(numbers[written], places[written], _streams(seeds, _MAX_WORDS)[written])


def step_writes(parameters: GuestParameters, number: int) -> WordWrites:
    """Every word that one step writes, whole pages included, in the order in which the guest writes them."""
    step = steps(parameters, np.array([number]))
    if step.actions[0] == Action.WORDS:
        return word_writes(step)
    places = step.pages * WORDS_PER_PAGE + np.arange(WORDS_PER_PAGE)
    values = page_contents(Content(int(step.actions[0])), step.seeds)[0]
    return WordWrites(np.full(WORDS_PER_PAGE, number), places, values)
