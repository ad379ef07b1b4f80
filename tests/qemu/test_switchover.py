"""When a downtime ticket is asked for: once what remains fits into the downtime limit, and not at a round's end."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.qemu.switchover import RamProgress, Rounds, fits_downtime, poll_ns

MB = 10**6
MS = 10**6
LIMIT_NS = 300 * MS


def look(number: int, remaining_bytes: int, rate_bytes_s: int = 100 * MB, status: str = "active") -> RamProgress:
    return RamProgress(status, number, remaining_bytes, rate_bytes_s)


def near(*looks: RamProgress) -> list[bool]:
    rounds = Rounds(LIMIT_NS)
    seen = []
    for each in looks:
        rounds.observe(each)
        seen.append(rounds.stop_is_near)
    return seen


@pytest.mark.parametrize(
    ("remaining_bytes", "rate_bytes_s", "fits"),
    [(30 * MB, 100 * MB, True), (30 * MB + 1, 100 * MB, False), (0, 0, True), (1, 0, False), (1, 10**12, True)],
)
def test_rest_fits_if_it_can_be_moved_within_the_limit(remaining_bytes: int, rate_bytes_s: int, fits: bool) -> None:
    assert fits_downtime(remaining_bytes, rate_bytes_s, LIMIT_NS) is fits


@given(st.integers(0, 2**50), st.integers(0, 2**40), st.integers(1, 10**10), st.integers(0, 2**20))
def test_less_memory_a_faster_link_or_more_downtime_never_make_it_fit_less(
    remaining_bytes: int, rate_bytes_s: int, limit_ns: int, more: int
) -> None:
    if fits_downtime(remaining_bytes, rate_bytes_s, limit_ns):
        assert fits_downtime(max(0, remaining_bytes - more), rate_bytes_s + more, limit_ns + more)


def test_end_of_a_round_that_dirtied_too_much_is_not_near() -> None:
    assert near(look(1, 60 * MB), look(1, 5 * MB), look(1, 0), look(2, 50 * MB), look(2, 1)) == [False] * 5


def test_round_that_begins_with_little_is_near_at_the_second_look() -> None:
    assert near(look(1, 60 * MB), look(2, 20 * MB), look(2, 1 * MB)) == [False, False, True]
    assert near(look(7, 20 * MB), look(8, 20 * MB), look(9, 40 * MB), look(10, 1)) == [False, True, False, False]


def test_look_that_was_half_done_does_not_count() -> None:
    assert near(look(2, 1 * MB), look(2, 50 * MB), look(2, 50 * MB)) == [False] * 3


@pytest.mark.parametrize("status", ["setup", "pre-switchover", "completed", "none"])
def test_nothing_is_near_outside_the_copying_of_memory(status: str) -> None:
    assert near(look(2, 0, status=status), look(2, 0, status=status)) == [False, False]
    assert near(look(0, 0), look(0, 0)) == [False, False]


@given(st.integers(40, 1000), st.integers(125, 2000), st.floats(0, 1, exclude_max=True), st.integers(1 * MB, 1000 * MB))
def test_guest_that_would_stand_still_for_a_quarter_longer_is_never_near(
    limit_ms: int, percent: int, phase: float, rate_bytes_s: int
) -> None:
    """Rounds of a guest that dirties as much as is sent, looked at in step from any moment on."""
    limit_ns = limit_ms * MS
    round_ns = limit_ns * percent // 100 + 1
    rounds, period_ns = Rounds(limit_ns), poll_ns(limit_ns)
    at_ns = int(phase * period_ns)
    while at_ns < 20 * round_ns:
        number, into_ns = divmod(at_ns, round_ns)
        remaining_bytes = -(-rate_bytes_s * (round_ns - into_ns) // 10**9)
        rounds.observe(look(number + 1, remaining_bytes, rate_bytes_s))
        assert not rounds.stop_is_near
        at_ns += period_ns


@pytest.mark.parametrize(("limit_ms", "period_ms"), [(1, 10), (100, 25), (300, 50), (10_000, 50)])
def test_looks_are_a_quarter_of_the_limit_apart_within_bounds(limit_ms: int, period_ms: int) -> None:
    assert poll_ns(limit_ms * MS) == period_ms * MS
