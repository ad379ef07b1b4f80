"""Proof that a demo guest's memory survived a live migration: every page of the block, by replay.

The source guest stopped for ever at some step s, the destination went on from there and stopped at a later step d.
Steps s .. d-1 are done again on top of the source's pages, and the result must be the destination's memory, low RAM
included. Low RAM never changes (the firmware is not called any more, and every interrupt pushes the same frame) but
for two things: the step counter, and the resume flag in the flags the interrupt pushes, which QEMU 7.2 clears and
10.0 sets.

The rule: one page only may hold two things, the page of step d, which the stop may have cut short. A step writes its
words in a known order, so exactly the states "the first j words are written" are accepted there. The source's
half-done step s needs no such care: doing a step twice is doing it once.

A page that was damaged by the migration and overwritten as a whole before the destination stopped is not found; so
stop the destination soon. Memory use is bounded by the steps replayed (some 35 bytes per step) plus 9 bytes per page
of the working set, whatever the guest's size: pages are composed a few MiB at a time.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.demo.guest import (
    FIRST_PAGE,
    FLAGS_WORD,
    INTERRUPT_PAGE,
    RESUME_FLAG,
    STATE_PAGE,
    STEPS_WORD,
    GuestParameters,
    Ram,
    as_pages,
    check_parameters,
    is_ready,
    read_steps,
)
from pipeline.demo.guest_model import (
    Action,
    Content,
    Numbers,
    Words,
    WordWrites,
    page_contents,
    step_writes,
    steps,
    word_writes,
)
from pipeline.errors import KuakaError
from pipeline.memory.pages import WORDS_PER_PAGE

#: Pages compared at a time (4 MiB of either side).
_CHUNK_PAGES = 1024
#: Steps replayed at a time.
_CHUNK_STEPS = 1 << 20
#: A destination further ahead than this (43 minutes at 200 MiB/s) has a broken counter.
_MAX_REPLAY_STEPS = 1 << 27
_FIRST_WRONG = 8
_NO_STEP = -1


@dataclass(frozen=True, slots=True)
class RamComparison:
    """The verdict: pages compared, how many are wrong and the first of their numbers, steps done at either end."""

    pages: int
    wrong_pages: int
    first_wrong: tuple[int, ...]
    source_step: int
    destination_step: int


@dataclass(frozen=True, slots=True)
class _Replay:
    """What a run of steps leaves.

    Per page of the working set whether it was touched and the last step that wrote it whole (or _NO_STEP), and the
    words written after that, sorted by their place in the block.
    """

    touched: NDArray[np.bool_]
    last_whole: Numbers
    places: Numbers
    values: Words


def _last_writes(writes: WordWrites) -> WordWrites:
    """Of writes in order, the last one to each place, sorted by place."""
    places, from_end = np.unique(writes.places[::-1], return_index=True)
    last = len(writes.places) - 1 - from_end
    return WordWrites(writes.steps[last], places, writes.values[last])


def _concatenate(runs: list[WordWrites]) -> WordWrites:
    empty = WordWrites(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.uint64))
    return WordWrites(
        np.concatenate([run.steps for run in [empty, *runs]]),
        np.concatenate([run.places for run in [empty, *runs]]),
        np.concatenate([run.values for run in [empty, *runs]]),
    )


def _replay(parameters: GuestParameters, first: int, last: int) -> _Replay:
    """Steps `first` .. `last` - 1, reduced to what they leave."""
    touched = np.zeros(parameters.working_set_pages, dtype=np.bool_)
    last_whole = np.full(parameters.working_set_pages, _NO_STEP, dtype=np.int64)
    runs: list[WordWrites] = []
    for start in range(first, last, _CHUNK_STEPS):
        chunk = steps(parameters, np.arange(start, min(start + _CHUNK_STEPS, last)))
        pages = chunk.pages - FIRST_PAGE
        touched[pages] = True
        whole = chunk.actions != Action.WORDS
        np.maximum.at(last_whole, pages[whole], chunk.numbers[whole])
        runs.append(_last_writes(word_writes(chunk)))
    writes = _last_writes(_concatenate(runs))
    alive = writes.steps > last_whole[writes.places // WORDS_PER_PAGE - FIRST_PAGE]
    return _Replay(touched, last_whole, writes.places[alive], writes.values[alive])


def _expected(source: Words, first_page: int, parameters: GuestParameters, replay: _Replay) -> Words:
    """What the destination must hold where the source holds `source`, (n, 512) words from page `first_page` on."""
    begin, end = max(first_page, FIRST_PAGE), first_page + len(source)
    in_set = slice(begin - FIRST_PAGE, end - FIRST_PAGE)
    if not replay.touched[in_set].any():
        return source
    expected = source.copy()
    last_whole = replay.last_whole[in_set]
    rewritten = np.flatnonzero(last_whole != _NO_STEP)
    whole = steps(parameters, last_whole[rewritten])
    for action in (Action.CLEAR, Action.TEXT, Action.RANDOM):
        chosen = whole.actions == action
        expected[rewritten[chosen] + begin - first_page] = page_contents(Content(action), whole.seeds[chosen])
    run = slice(*np.searchsorted(replay.places, [first_page * WORDS_PER_PAGE, end * WORDS_PER_PAGE]))
    expected.reshape(-1)[replay.places[run] - first_page * WORDS_PER_PAGE] = replay.values[run]
    return expected


def _low_memory(source: Words, found: Words, step: int) -> Words:
    """`source`, (n, 512) words from page 0 on, as it becomes at `step`, after interrupts in a QEMU of any version."""
    expected = source.copy()
    expected[STATE_PAGE, STEPS_WORD] = step
    resume = np.uint64(RESUME_FLAG)
    expected[INTERRUPT_PAGE, FLAGS_WORD] &= ~resume
    expected[INTERRUPT_PAGE, FLAGS_WORD] |= found[INTERRUPT_PAGE, FLAGS_WORD] & resume
    return expected


def _is_prefix_of_step(before: Words, found: Words, writes: WordWrites) -> bool:
    """Whether `found`, (512,), is `before` with the first so many of `writes` done."""
    words = writes.places % WORDS_PER_PAGE
    changed = np.flatnonzero(before[words] != found[words])
    done = 0 if not len(changed) else int(changed[-1]) + 1
    after = before.copy()
    after[words[:done]] = writes.values[:done]
    return bool((after == found).all())


def compare(source_ram: Ram, destination_ram: Ram, parameters: GuestParameters) -> RamComparison:
    """Whether the destination's RAM block is what the source's must have become. Both guests are stopped.

    The RAM is the whole block (pc.ram): a read-only mapping of a shared memory-backend-file, or what `pmemsave` wrote.
    Errors: KuakaError where they cannot be compared: other sizes, other parameters, not a demo guest, not ready.
    """
    source, destination = as_pages(source_ram), as_pages(destination_ram)
    if not len(source) == len(destination) == parameters.block_pages:
        raise KuakaError(
            f"RAM blocks of {len(source)} and {len(destination)} pages, parameters of {parameters.block_pages}: "
            "hand over the whole block of either guest"
        )
    check_parameters(source_ram, parameters)
    if not is_ready(source_ram):
        raise KuakaError("the source guest was stopped before it was ready: wait for is_ready, then migrate")
    source_step, destination_step = read_steps(source_ram), read_steps(destination_ram)
    in_order = source_step <= destination_step <= source_step + _MAX_REPLAY_STEPS
    # a destination counter out of order is a wrong state page, and nothing then says what else to expect
    last = destination_step if in_order else source_step
    replay = _replay(parameters, source_step, last)
    in_flight = step_writes(parameters, last) if parameters.dirty_rate_bytes_s else None
    wrong: list[int] = []
    for first_page in range(0, len(source), _CHUNK_PAGES):
        found = destination[first_page : first_page + _CHUNK_PAGES]
        expected = _expected(source[first_page : first_page + _CHUNK_PAGES], first_page, parameters, replay)
        if first_page == 0:
            expected = _low_memory(expected, found, last)
        for row in np.flatnonzero((expected != found).any(axis=1)):
            page = first_page + int(row)
            cut_short = in_flight is not None and page == in_flight.places[0] // WORDS_PER_PAGE
            if not (in_flight is not None and cut_short and _is_prefix_of_step(expected[row], found[row], in_flight)):
                wrong.append(page)
    return RamComparison(len(source), len(wrong), tuple(wrong[:_FIRST_WRONG]), source_step, destination_step)
