import time

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.demo.guest import (
    FIRST_PAGE,
    FLAGS_WORD,
    INTERRUPT_PAGE,
    READY_WORD,
    STATE_PAGE,
    STEPS_WORD,
    GuestParameters,
    as_pages,
    boot_image,
)
from pipeline.demo.guest_model import filled_pages, step_writes
from pipeline.demo.ram_check import compare
from pipeline.errors import KuakaError
from tests.demo import naive_guest

MIB = 1 << 20
PARAMETERS = GuestParameters(32 * MIB, working_set_bytes=1 * MIB)
#: A window in which every kind of step occurs, and pages are hit several times.
SOURCE, DESTINATION = 1000, 1900
UNTOUCHED_PAGE = FIRST_PAGE + 4000

Pages = NDArray[np.uint64]


def ready_guest(parameters: GuestParameters) -> Pages:
    """RAM of a guest that is ready and has done no step."""
    ram = np.zeros(parameters.memory_bytes, dtype=np.uint8)
    ram[0x7C00 : 0x7C00 + 0xA400] = np.frombuffer(boot_image(parameters)[:0xA400], dtype=np.uint8)
    pages = as_pages(ram)
    pages[FIRST_PAGE:] = filled_pages(parameters, np.arange(FIRST_PAGE, parameters.block_pages))
    pages[STATE_PAGE, 0] = int.from_bytes(b"kuakaRAM", "little")
    pages[STATE_PAGE, READY_WORD] = 1
    return pages


def run(ram: Pages, parameters: GuestParameters, until: int, skip: int | None = None) -> Pages:
    """A copy of `ram` after the naive guest has gone on to step `until`; step `skip` is forgotten."""
    pages = ram.copy()
    for step in range(int(ram[STATE_PAGE, STEPS_WORD]), until):
        if step != skip:
            for page, word, value in naive_guest.writes(parameters, step):
                pages[page, word] = value
    pages[STATE_PAGE, STEPS_WORD] = until
    return pages


@pytest.fixture(scope="module")
def source() -> Pages:
    return run(ready_guest(PARAMETERS), PARAMETERS, SOURCE)


@pytest.fixture(scope="module")
def destination(source: Pages) -> Pages:
    return run(source, PARAMETERS, DESTINATION)


def write_prefix(ram: Pages, step: int, count: int) -> Pages:
    """A copy of `ram` with the first `count` words of `step` written."""
    pages = ram.copy()
    for page, word, value in list(naive_guest.writes(PARAMETERS, step))[:count]:
        pages[page, word] = value
    return pages


def step_with(words: int, first: int) -> int:
    """The first step from `first` on that writes so many words, none of them 0 (no page is cleared)."""
    candidates = ((step, step_writes(PARAMETERS, step)) for step in range(first, first + 10_000))
    return next(step for step, writes in candidates if len(writes.places) == words and writes.values.all())


def test_guest_that_went_on_is_right(source: Pages, destination: Pages) -> None:
    result = compare(source, destination, PARAMETERS)
    assert (result.wrong_pages, result.first_wrong) == (0, ())
    assert (result.pages, result.source_step, result.destination_step) == (8192, SOURCE, DESTINATION)


def test_guest_that_has_not_run_yet_is_right(source: Pages) -> None:
    assert compare(source, source, PARAMETERS).wrong_pages == 0


def test_any_buffer_will_do(source: Pages, destination: Pages) -> None:
    assert compare(source.tobytes(), memoryview(destination.tobytes()), PARAMETERS).wrong_pages == 0


@pytest.mark.parametrize("bit", [0, 12345, 32767])
def test_one_wrong_bit_is_found_in_any_page(source: Pages, destination: Pages, bit: int) -> None:
    draws = np.random.default_rng(bit)
    kinds_of_page = [
        0,
        7,
        8,
        STATE_PAGE,
        STATE_PAGE + 1,
        160,
        255,
        FIRST_PAGE,
        FIRST_PAGE + 255,
        FIRST_PAGE + 256,
        8191,
    ]
    for page in [*kinds_of_page, *draws.integers(FIRST_PAGE, FIRST_PAGE + 256, 20).tolist(), UNTOUCHED_PAGE]:
        damaged = destination.copy()
        damaged[page, bit // 64] ^= np.uint64(1 << bit % 64)
        result = compare(source, damaged, PARAMETERS)
        assert (result.wrong_pages, result.first_wrong) == (1, (page,))


def test_wrong_pages_are_counted_and_the_first_few_named(source: Pages, destination: Pages) -> None:
    damaged = destination.copy()
    damaged[5000:5100, 17] ^= np.uint64(1)
    result = compare(source, damaged, PARAMETERS)
    assert result.wrong_pages == 100
    assert result.first_wrong == tuple(range(5000, 5008))


def test_page_that_missed_a_step_is_found(source: Pages) -> None:
    found = 0
    until = SOURCE + 60
    for skipped in range(SOURCE, until):
        stale = run(source, PARAMETERS, until, skip=skipped)
        right = run(source, PARAMETERS, until)
        differs = np.flatnonzero((stale != right).any(axis=1)).tolist()
        assert list(compare(source, stale, PARAMETERS).first_wrong) == differs
        found += len(differs)
    assert found > 50


def test_page_left_as_it_was_at_the_source_is_found(source: Pages, destination: Pages) -> None:
    changed = np.flatnonzero((source != destination).any(axis=1))
    for page in changed[changed != STATE_PAGE][:50].tolist():
        stale = destination.copy()
        stale[page] = source[page]
        assert compare(source, stale, PARAMETERS).first_wrong == (page,)


@pytest.mark.parametrize("words", [1, 2, 4, 512])
def test_step_cut_short_at_the_destination_is_accepted_after_any_word(source: Pages, words: int) -> None:
    step = step_with(words, SOURCE + 1)
    stopped = run(source, PARAMETERS, step)
    for count in {0, 1, words // 2, words - 1, words}:
        assert compare(source, write_prefix(stopped, step, count), PARAMETERS).wrong_pages == 0


@pytest.mark.parametrize("words", [2, 4, 512])
def test_step_cut_short_at_the_source_too_is_accepted(source: Pages, words: int) -> None:
    step = step_with(words, SOURCE)
    stopped = run(source, PARAMETERS, step)
    half_done = write_prefix(stopped, step, words // 2)
    assert compare(half_done, run(half_done, PARAMETERS, step + 20), PARAMETERS).wrong_pages == 0
    assert compare(half_done, write_prefix(stopped, step, words // 2 + 1), PARAMETERS).wrong_pages == 0
    assert compare(half_done, write_prefix(stopped, step, words), PARAMETERS).wrong_pages == 0


def test_step_at_the_source_that_the_destination_lost_is_found(source: Pages) -> None:
    step = step_with(4, SOURCE)
    stopped = run(source, PARAMETERS, step)
    assert compare(write_prefix(stopped, step, 2), stopped, PARAMETERS).wrong_pages == 1


@pytest.mark.parametrize("words", [4, 512])
def test_nothing_looser_than_a_prefix_of_the_last_step_is_accepted(source: Pages, words: int) -> None:
    step = step_with(words, SOURCE + 1)
    stopped = run(source, PARAMETERS, step)
    writes = list(naive_guest.writes(PARAMETERS, step))
    page, word, value = writes[words // 2]
    out_of_order = stopped.copy()
    out_of_order[page, word] = value
    torn = write_prefix(stopped, step, words)
    torn[page, word] ^= np.uint64(1)
    for wrong in (out_of_order, torn):
        assert compare(source, wrong, PARAMETERS).first_wrong == (page,)


def test_word_beside_the_last_step_is_found(source: Pages) -> None:
    step = step_with(1, SOURCE + 1)
    page, word, _ = next(iter(naive_guest.writes(PARAMETERS, step)))
    damaged = write_prefix(run(source, PARAMETERS, step), step, 1)
    damaged[page, (word + 1) % 512] ^= np.uint64(1)
    assert compare(source, damaged, PARAMETERS).first_wrong == (page,)


def test_step_after_the_last_one_is_not_excused(source: Pages, destination: Pages) -> None:
    ahead = write_prefix(destination, DESTINATION + 1, 1)
    page = next(iter(naive_guest.writes(PARAMETERS, DESTINATION + 1)))[0]
    assert compare(source, ahead, PARAMETERS).first_wrong == (page,)


@pytest.mark.parametrize("counter", [SOURCE - 1, 0, 2**63, 2**64 - 1])
def test_counter_that_went_back_or_far_ahead_is_a_wrong_page(source: Pages, counter: int) -> None:
    damaged = source.copy()
    damaged[STATE_PAGE, STEPS_WORD] = np.uint64(counter)
    result = compare(source, damaged, PARAMETERS)
    assert result.first_wrong == (STATE_PAGE,)
    assert result.destination_step == counter


def test_resume_flag_of_the_interrupt_frame_may_differ_and_nothing_else_there(source: Pages) -> None:
    for bit in range(64):
        pushed = source.copy()
        pushed[INTERRUPT_PAGE, FLAGS_WORD] ^= np.uint64(1 << bit)
        for before, after in ((source, pushed), (pushed, source)):
            assert compare(before, after, PARAMETERS).first_wrong == (() if bit == 16 else (INTERRUPT_PAGE,))


def test_guest_that_never_dirties_has_no_step_in_flight() -> None:
    parameters = GuestParameters(32 * MIB, dirty_rate_bytes_s=0)
    ram = ready_guest(parameters)
    page, word, value = next(iter(naive_guest.writes(parameters, 0)))
    assert compare(ram, ram, parameters).wrong_pages == 0
    damaged = ram.copy()
    damaged[page, word] = value
    assert compare(ram, damaged, parameters).first_wrong == (page,)


def test_rams_that_cannot_be_compared_are_refused(source: Pages) -> None:
    with pytest.raises(KuakaError, match="whole block"):
        compare(source, source[:-1], PARAMETERS)
    with pytest.raises(KuakaError, match="other parameters"):
        compare(source, source, GuestParameters(32 * MIB, seed=1))
    unready = source.copy()
    unready[STATE_PAGE, READY_WORD] = 0
    with pytest.raises(KuakaError, match="before it was ready"):
        compare(unready, source, PARAMETERS)


def test_a_million_steps_are_replayed_in_seconds() -> None:
    parameters = GuestParameters(256 * MIB)
    ram = ready_guest(parameters)
    ahead = ram.copy()
    ahead[STATE_PAGE, STEPS_WORD] = 10**6
    started = time.monotonic()
    result = compare(ram, ahead, parameters)
    # the destination did nothing; a working set of 16 steps per page leaves few pages as they were
    assert result.wrong_pages > 0.95 * parameters.working_set_pages
    assert time.monotonic() - started < 15
