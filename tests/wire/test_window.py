"""The window over a simulated link: what is in flight stays within 10 % of the downtime limit of the wire's rate."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.wire.window import Window
from tests.wire.simulated_link import FRAME_BYTES, MS, PACKET_BYTES, S, SimulatedLink

DOWNTIME_LIMIT_NS = 300 * MS
SHARE_S = 0.030
MB_S = 1e6
#: Rates measured over a finite number of frames are a little off.
TOLERANCE = 1.05


def window() -> Window:
    return Window(PACKET_BYTES, DOWNTIME_LIMIT_NS)


def link(rate_bytes_s: float, *, trip_ns: int = MS // 5, stalls: tuple[tuple[int, int], ...] = ()) -> SimulatedLink:
    return SimulatedLink(window(), lambda _: rate_bytes_s, trip_ns, stalls)


def bound_bytes(rate_bytes_s: float) -> float:
    return max(FRAME_BYTES, rate_bytes_s * SHARE_S * TOLERANCE)


@pytest.mark.parametrize("trip_ns", [MS // 50, MS // 5, 2 * MS], ids=["20us", "200us", "2ms"])
@pytest.mark.parametrize("rate_bytes_s", [1 * MB_S, 12.5 * MB_S, 50 * MB_S, 312 * MB_S, 1250 * MB_S, 5000 * MB_S])
def test_bytes_in_flight_stay_within_the_bound_from_the_first_frame(rate_bytes_s: float, trip_ns: int) -> None:
    simulated = link(rate_bytes_s, trip_ns=trip_ns)
    simulated.saturate(2 * S)
    assert max(sent.in_flight_bytes for sent in simulated.log) <= bound_bytes(rate_bytes_s)


@pytest.mark.parametrize("rate_bytes_s", [50 * MB_S, 312 * MB_S, 1250 * MB_S])
def test_rate_converges_to_the_wire_and_the_window_fills_it(rate_bytes_s: float) -> None:
    simulated = link(rate_bytes_s)
    simulated.saturate(2 * S)
    assert simulated.window.rate_bytes_s == pytest.approx(rate_bytes_s, rel=0.05)
    assert simulated.window.limit_bytes == pytest.approx(rate_bytes_s * SHARE_S, rel=0.05)
    assert len(simulated.log) * FRAME_BYTES >= 0.97 * 2 * rate_bytes_s


@settings(max_examples=25)
@given(st.floats(5, 2000), st.integers(10_000, 5 * MS), st.lists(st.integers(60, FRAME_BYTES), min_size=1, max_size=20))
def test_bound_holds_for_frames_of_any_sizes(rate_mb_s: float, trip_ns: int, sizes: list[int]) -> None:
    simulated = link(rate_mb_s * MB_S, trip_ns=trip_ns)
    simulated.saturate(S // 4, lambda sequence: sizes[sequence % len(sizes)] if sequence < 3000 else FRAME_BYTES)
    assert max(sent.in_flight_bytes for sent in simulated.log) <= bound_bytes(rate_mb_s * MB_S)


def test_window_shrinks_when_the_link_slows_tenfold_and_grows_again() -> None:
    fast, slow = 500 * MB_S, 50 * MB_S
    simulated = SimulatedLink(window(), lambda now_ns: slow if 1 * S <= now_ns < 4 * S else fast)
    simulated.saturate(1 * S)
    assert simulated.window.rate_bytes_s == pytest.approx(fast, rel=0.05)
    simulated.saturate(2 * S)
    settled = len(simulated.log)
    simulated.saturate(4 * S)
    assert max(sent.in_flight_bytes for sent in simulated.log[settled:]) <= bound_bytes(slow)
    assert simulated.window.rate_bytes_s == pytest.approx(slow, rel=0.05)
    simulated.saturate(4 * S + S // 4)
    assert simulated.window.rate_bytes_s == pytest.approx(fast, rel=0.05)


def test_slow_link_is_noticed_within_a_second() -> None:
    simulated = SimulatedLink(window(), lambda now_ns: 50 * MB_S if now_ns >= S else 500 * MB_S)
    simulated.saturate(2 * S)
    assert simulated.log[-1].in_flight_bytes <= bound_bytes(50 * MB_S)


@pytest.mark.parametrize("rate_bytes_s", [50 * MB_S, 312 * MB_S, 1250 * MB_S])
def test_burst_of_acknowledgements_after_a_stall_is_not_taken_for_the_wire(rate_bytes_s: float) -> None:
    stalls = tuple((start * S // 4, start * S // 4 + 100 * MS) for start in range(1, 12))
    simulated = link(rate_bytes_s, stalls=stalls)
    simulated.saturate(3 * S)
    assert max(sent.in_flight_bytes for sent in simulated.log) <= bound_bytes(rate_bytes_s)
    assert max(sent.rate_bytes_s for sent in simulated.log) <= rate_bytes_s * TOLERANCE


def test_rate_comes_back_soon_after_a_stall() -> None:
    simulated = link(312 * MB_S, stalls=((S, S + 200 * MS),))
    simulated.saturate(S + 300 * MS)
    assert simulated.window.rate_bytes_s >= 0.9 * 312 * MB_S


@pytest.mark.parametrize("reads_late", [False, True])
@pytest.mark.parametrize("frame_bytes", [48, 4096, FRAME_BYTES])
@pytest.mark.parametrize("rate_bytes_s", [10 * MB_S, 18 * MB_S, 500 * MB_S])
def test_guest_that_offers_little_never_lowers_the_rate(
    rate_bytes_s: float, frame_bytes: int, reads_late: bool
) -> None:
    simulated = link(rate_bytes_s)
    simulated.saturate(1 * S)
    simulated.drain()
    before, seen = simulated.window.rate_bytes_s, len(simulated.log)
    simulated.trickle(50, 100 * MS, frame_bytes, reads_late=reads_late)
    assert min(sent.rate_bytes_s for sent in simulated.log[seen:]) >= before
    assert simulated.window.rate_bytes_s <= rate_bytes_s * TOLERANCE


def test_lone_barrier_that_a_packet_waits_for_does_not_lower_the_rate() -> None:
    simulated = link(10 * MB_S)
    simulated.saturate(1 * S)
    simulated.drain()
    before = simulated.window.rate_bytes_s
    simulated.window.sent(10**6, 48, simulated.now_ns)
    assert not simulated.window.may_send(FRAME_BYTES)
    simulated.window.held_back()
    simulated.window.acknowledged(10**6, simulated.now_ns + MS)
    assert simulated.window.rate_bytes_s == before


def test_guest_that_offers_little_may_still_raise_the_rate() -> None:
    simulated = link(500 * MB_S)
    simulated.trickle(20, 100 * MS, FRAME_BYTES)
    assert simulated.window.rate_bytes_s > 300 * MB_S


@given(st.integers(1, 1 << 40), st.integers(0, 10**12))
def test_one_frame_of_any_size_is_always_allowed(frame_bytes: int, downtime_limit_ns: int) -> None:
    empty = Window(1, downtime_limit_ns)
    assert empty.may_send(frame_bytes)
    empty.sent(0, frame_bytes, 0)
    assert not empty.may_send(1) or empty.in_flight_bytes < empty.limit_bytes
    empty.acknowledged(0, 1)
    assert empty.may_send(frame_bytes)
    assert empty.in_flight_bytes == 0


def test_downtime_limit_scales_the_window() -> None:
    for limit_ns in (100 * MS, 1000 * MS):
        scaled = SimulatedLink(Window(PACKET_BYTES, limit_ns), lambda _: 1000 * MB_S)
        scaled.saturate(S)
        assert scaled.window.limit_bytes == pytest.approx(100 * MB_S * limit_ns / S, rel=0.05)


def test_new_window_knows_no_rate_and_no_frame() -> None:
    fresh = window()
    assert (fresh.rate_bytes_s, fresh.in_flight_bytes, fresh.oldest_sent_ns) == (0, 0, None)
    assert fresh.limit_bytes == PACKET_BYTES


def test_acknowledgement_stands_for_all_frames_before_it() -> None:
    several = window()
    for sequence in range(4):
        several.sent(sequence, 1000, 100 * sequence)
    several.acknowledged(2, 1000)
    assert (several.in_flight_bytes, several.oldest_sent_ns) == (1000, 300)


@pytest.mark.parametrize("sequence", [0, 4, 2**64 - 1])
def test_acknowledgement_of_what_is_not_on_its_way_is_refused(sequence: int) -> None:
    several = window()
    for sent in range(4):
        several.sent(sent, 1000, sent)
    several.acknowledged(1, 10)
    with pytest.raises(ValueError, match=f"frame {sequence} was acknowledged"):
        several.acknowledged(sequence, 11)


def test_acknowledgement_in_the_same_clock_tick_is_harmless() -> None:
    quick = window()
    quick.sent(0, 1000, 5)
    quick.acknowledged(0, 5)
    assert quick.rate_bytes_s == 0
