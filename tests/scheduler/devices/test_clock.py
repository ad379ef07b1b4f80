"""Device time stands still in a stall and never runs back."""

from hypothesis import given
from hypothesis import strategies as st

from scheduler.devices.emulated.clock import PausableClock


def test_device_time_loses_exactly_the_length_of_a_stall() -> None:
    clock = PausableClock()
    assert clock.read(100) == 100
    clock.pause(100, 50)
    assert (clock.read(100), clock.read(149), clock.read(150), clock.read(170)) == (100, 100, 100, 120)


def test_stall_within_a_stall_ends_with_the_later_of_the_two() -> None:
    clock = PausableClock()
    clock.pause(100, 50)
    clock.pause(120, 10)
    assert clock.resumes_ns(120) == 150
    clock.pause(120, 100)
    assert clock.resumes_ns(219) == 220
    assert clock.read(230) == 110


@given(st.lists(st.tuples(st.sampled_from([0, 1, 10, 100]), st.sampled_from([0, 1, 10, 99, 100, 101]))))
def test_device_time_is_the_time_outside_all_stalls(steps: list[tuple[int, int]]) -> None:
    clock, now_ns, ran_ns, until_ns, before_ns = PausableClock(), 0, 0, 0, 0
    for passed_ns, pause_ns in steps:
        ran_ns += max(0, now_ns + passed_ns - max(now_ns, until_ns))
        now_ns += passed_ns
        assert clock.read(now_ns) == ran_ns >= before_ns
        before_ns = ran_ns
        if pause_ns:
            clock.pause(now_ns, pause_ns)
            until_ns = max(until_ns, now_ns + pause_ns)
