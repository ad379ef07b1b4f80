"""The wait before another attempt."""

from hypothesis import given
from hypothesis import strategies as st

from pipeline.fleet.backoff import Backoff

SECOND_NS = 10**9


@given(st.integers(1, 200), st.text(max_size=20))
def test_every_failure_waits_as_long_as_its_number_says_less_at_most_a_quarter(failures: int, seed: str) -> None:
    backoff = Backoff(20 * SECOND_NS, 600 * SECOND_NS)
    full_ns = min(600 * SECOND_NS, 20 * SECOND_NS * 2 ** (failures - 1))
    wait_ns = backoff.wait_ns(failures, seed)
    assert full_ns * 3 // 4 <= wait_ns <= full_ns
    assert wait_ns == backoff.wait_ns(failures, seed)


def test_migrations_that_failed_together_come_back_apart() -> None:
    waits = {Backoff().wait_ns(1, f"drain/vm-{number}") for number in range(100)}
    assert len(waits) > 50
