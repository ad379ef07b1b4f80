"""Frames leave at the rate that was asked, whatever their sizes, and whoever wakes late."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.wire.pacing import Pacer

MS = 1_000_000
FRAME = 500_000
RATE = 50_000_000


def test_a_frame_leaves_when_its_last_byte_would_have() -> None:
    pacer = Pacer(RATE)
    assert pacer.leave_ns(FRAME, 7 * MS) == 17 * MS
    assert pacer.leave_ns(FRAME, 17 * MS) == 27 * MS
    assert pacer.leave_ns(FRAME // 10, 27 * MS) == 28 * MS


def test_frames_offered_early_queue_behind_each_other() -> None:
    pacer = Pacer(RATE)
    assert [pacer.leave_ns(FRAME, 0) for _ in range(3)] == [10 * MS, 20 * MS, 30 * MS]


def test_waking_late_is_made_up_for() -> None:
    pacer = Pacer(RATE)
    now = 0
    for _ in range(100):
        now = pacer.leave_ns(FRAME, now) + MS // 2
    assert now == 100 * 10 * MS + MS // 2


def test_an_idle_wire_saves_no_more_than_a_few_milliseconds() -> None:
    pacer = Pacer(RATE)
    pacer.leave_ns(FRAME, 0)
    assert pacer.leave_ns(FRAME, 1000 * MS) == 1005 * MS


def test_a_frame_never_leaves_in_the_past() -> None:
    pacer = Pacer(RATE)
    pacer.leave_ns(FRAME, 0)
    assert pacer.leave_ns(10, 1000 * MS) == 1000 * MS


@given(
    rate=st.integers(1, 10**10),
    frames=st.lists(st.tuples(st.integers(0, 600_000), st.integers(0, 50 * MS)), min_size=1, max_size=50),
)
def test_no_more_than_the_rate_ever_leaves(rate: int, frames: list[tuple[int, int]]) -> None:
    pacer = Pacer(rate)
    now, sent = 0, 0
    for size, pause_ns in frames:
        now = pacer.leave_ns(size, now + pause_ns)
        sent += size
        # a nanosecond per frame is rounded away
        assert sent * 10**9 <= rate * (now + len(frames))


@pytest.mark.parametrize("rate", [0, -1])
def test_a_wire_that_would_never_send_is_refused(rate: int) -> None:
    with pytest.raises(ValueError, match="never send"):
        Pacer(rate)
