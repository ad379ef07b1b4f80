import numpy as np
import pytest
import zstandard

from pipeline.demo.guest import FIRST_PAGE, GuestParameters
from pipeline.demo.guest_model import (
    Action,
    Content,
    fill_kinds,
    filled_pages,
    page_contents,
    step_writes,
    steps,
    word_writes,
)
from tests.demo import naive_guest

MIB = 1 << 20
PARAMETERS = GuestParameters(64 * MIB, working_set_bytes=2 * MIB, seed=3)


def shares(parameters: GuestParameters) -> list[float]:
    kinds = fill_kinds(parameters, np.arange(FIRST_PAGE, parameters.block_pages))
    return [float((kinds == content).mean()) for content in (Content.ZERO, Content.TEXT, Content.CODE, Content.RANDOM)]


def test_filled_pages_are_those_of_the_naive_guest() -> None:
    pages = np.arange(5000, 5040)
    assert set(fill_kinds(PARAMETERS, pages)) == set(Content)
    assert filled_pages(PARAMETERS, pages).tolist() == [naive_guest.fill(PARAMETERS, int(page)) for page in pages]


def test_steps_write_what_the_naive_guest_writes() -> None:
    for step in range(10**9, 10**9 + 80):
        found = step_writes(PARAMETERS, step)
        expected = [(page * 512 + word, value) for page, word, value in naive_guest.writes(PARAMETERS, step)]
        assert list(zip(found.places.tolist(), found.values.tolist(), strict=True)) == expected


def test_many_steps_at_once_are_the_steps_one_by_one() -> None:
    many = word_writes(steps(PARAMETERS, np.arange(100, 200)))
    single = [step_writes(PARAMETERS, step) for step in range(100, 200)]
    words_only = [writes for writes in single if len(writes.places) <= 4]
    assert many.places.tolist() == [place for writes in words_only for place in writes.places.tolist()]
    assert many.values.tolist() == [value for writes in words_only for value in writes.values.tolist()]
    assert many.steps.tolist() == [step for writes in words_only for step in writes.steps.tolist()]


@pytest.mark.parametrize("memory_mib", [64, 256, 1024])
def test_mix_is_40_25_20_15_percent(memory_mib: int) -> None:
    assert shares(GuestParameters(memory_mib * MIB)) == pytest.approx([0.40, 0.25, 0.20, 0.15], abs=0.01)


def test_normal_page_ratio_changes_the_share_of_zero_pages_only() -> None:
    assert shares(GuestParameters(256 * MIB, 0)) == [1, 0, 0, 0]
    assert shares(GuestParameters(256 * MIB, 100)) == pytest.approx([0, 5 / 12, 4 / 12, 3 / 12], abs=0.01)
    assert shares(GuestParameters(256 * MIB, 12)) == pytest.approx([0.88, 0.05, 0.04, 0.03], abs=0.01)


def test_steps_stay_in_the_working_set_and_mix_their_actions() -> None:
    many = steps(PARAMETERS, np.arange(200_000))
    assert set(many.pages.tolist()) == set(range(FIRST_PAGE, FIRST_PAGE + 512))
    counts = np.bincount(many.actions, minlength=4) / 200_000
    assert counts.tolist() == pytest.approx([1 / 16, 1 / 16, 1 / 16, 13 / 16], abs=0.003)
    assert (many.actions[many.seeds % 16 == 0] == Action.CLEAR).all()


def test_guests_of_other_seeds_hold_other_memory() -> None:
    pages = np.arange(FIRST_PAGE, FIRST_PAGE + 64)
    first, second = (filled_pages(GuestParameters(64 * MIB, 100, seed=seed), pages) for seed in (0, 1))
    assert (first != second).any(axis=1).all()


@pytest.mark.parametrize(
    ("content", "low", "high"),
    [(Content.TEXT, 2.5, 4.0), (Content.CODE, 1.5, 2.2), (Content.RANDOM, 0.99, 1.0)],
)
def test_pages_compress_like_their_models(content: Content, low: float, high: float) -> None:
    seeds = steps(PARAMETERS, np.arange(1024)).seeds
    pages = page_contents(content, seeds).tobytes()
    chunks = [pages[at : at + 512 * 1024] for at in range(0, len(pages), 512 * 1024)]
    compressed = sum(len(zstandard.ZstdCompressor(level=1).compress(chunk)) for chunk in chunks)
    assert low <= len(pages) / compressed <= high
