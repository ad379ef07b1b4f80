"""The two limits of an attempt's time."""

import pytest

from pipeline.fleet.timeouts import Timeouts

SECOND_NS = 10**9
GIB = 1 << 30
TIMEOUTS = Timeouts(completion_ns_per_gib=100 * SECOND_NS, progress_ns=30 * SECOND_NS)


@pytest.mark.parametrize(
    ("elapsed_s", "silent_s", "memory_bytes", "reason"),
    [
        (100, 0, GIB, None),
        (101, 0, GIB, "not completed in 100 s (completionTimeoutPerGiB 100 s)"),
        (100, 0, 1, None),
        (399, 0, 4 * GIB, None),
        (401, 0, 4 * GIB, "not completed in 400 s (completionTimeoutPerGiB 100 s)"),
        (50, 30, GIB, None),
        (50, 31, GIB, "no byte moved for 31 s (progressTimeout 30 s)"),
    ],
)
def test_an_attempt_is_overdue_by_its_memory_and_by_its_last_byte(
    elapsed_s: int, silent_s: int, memory_bytes: int, reason: str | None
) -> None:
    found = TIMEOUTS.overdue(
        elapsed_ns=elapsed_s * SECOND_NS, silent_ns=silent_s * SECOND_NS, memory_bytes=memory_bytes
    )
    assert found == reason


def test_without_limits_an_attempt_may_take_for_ever() -> None:
    assert Timeouts(None, None).overdue(elapsed_ns=1 << 80, silent_ns=1 << 80, memory_bytes=GIB) is None
