"""What follows from an attempt that runs no more."""

from dataclasses import replace

import pytest

from pipeline.errors import ExitCode
from pipeline.fleet.backoff import Backoff
from pipeline.fleet.fleet_order import MigrationRules, strictest
from pipeline.fleet.journal import Migration
from pipeline.fleet.lifecycle import Trigger
from pipeline.fleet.outcomes import Ended, decide, failed_result
from pipeline.fleet.plan.limits import Limits
from pipeline.fleet.results import MigrationResult, Status

SECOND_NS = 10**9
RULES = MigrationRules(most_failures=3, backoff=Backoff(8 * SECOND_NS, 60 * SECOND_NS))
OPEN = Migration(1, 1, "vm", "5e55" * 8, "qemu", {}, {}, "begun", False, False, None)
PUT_BACK = replace(OPEN, finished=True, state="failed")
MOVED = replace(OPEN, finished=True, handed_over=True, state="failed")
COMMITTED = replace(OPEN, finished=True, state="completed")
DONE = MigrationResult("vm", "qemu", Status.COMPLETED, pages=7)
FAILED = failed_result("vm", "qemu", "the link was cut")
CANCELLED = replace(FAILED, status=Status.CANCELLED, exit_code=ExitCode.INTERRUPTED)


def ended(
    result: MigrationResult | None, entry: Migration | None, *, cancelled: bool = False, failures: int = 0
) -> Ended:
    return Ended("vm", "qemu", result, entry, cancelled, failures)


@pytest.mark.parametrize(
    ("what", "trigger"),
    [
        (ended(DONE, MOVED), Trigger.SUCCEED),
        # It could not be recorded that it had finished.
        (ended(DONE, OPEN), Trigger.SUCCEED),
        (ended(replace(DONE, verified=False), MOVED), Trigger.FAIL),
        # Its controller died, or it failed behind the hand-over: the guest is at the destination.
        (ended(None, MOVED), Trigger.ADOPT),
        (ended(None, COMMITTED), Trigger.ADOPT),
        (ended(FAILED, MOVED), Trigger.ADOPT),
        (ended(FAILED, MOVED, cancelled=True), Trigger.ADOPT),
        (ended(CANCELLED, MOVED, cancelled=True), Trigger.ADOPT),
        (ended(None, None), Trigger.RECOVER),
        (ended(None, PUT_BACK), Trigger.RECOVER),
        (ended(None, PUT_BACK, failures=99), Trigger.RECOVER),
        (ended(None, PUT_BACK, cancelled=True), Trigger.CANCEL),
        # Stopped with its controller, not by its user.
        (ended(CANCELLED, PUT_BACK), Trigger.RECOVER),
        (ended(CANCELLED, PUT_BACK, cancelled=True), Trigger.CANCEL),
        (ended(FAILED, PUT_BACK, cancelled=True), Trigger.CANCEL),
        (ended(FAILED, PUT_BACK), Trigger.RETRY),
        (ended(FAILED, None, failures=1), Trigger.RETRY),
        (ended(FAILED, PUT_BACK, failures=2), Trigger.FAIL),
        (ended(replace(FAILED, exit_code=ExitCode.SPEC_REJECTED), PUT_BACK), Trigger.FAIL),
        (ended(replace(FAILED, exit_code=ExitCode.USAGE), None), Trigger.FAIL),
        (ended(replace(FAILED, exit_code=ExitCode.DEADLINE), PUT_BACK), Trigger.FAIL),
        # Nothing is tried again, nor called cancelled, while there may be a guest somewhere.
        (ended(FAILED, OPEN), Trigger.FAIL),
        (ended(None, OPEN), Trigger.FAIL),
        (ended(CANCELLED, OPEN, cancelled=True), Trigger.FAIL),
    ],
)
def test_what_is_known_of_the_guest_comes_before_what_the_attempt_says(what: Ended, trigger: Trigger) -> None:
    outcome = decide(what, RULES, "drain/vm")
    assert outcome.trigger is trigger
    assert (outcome.result is None) == (trigger in (Trigger.RETRY, Trigger.RECOVER))
    if outcome.result is not None:
        wrong_memory = outcome.result.verified is False
        statuses = {Trigger.FAIL: Status.COMPLETED if wrong_memory else Status.FAILED, Trigger.CANCEL: Status.CANCELLED}
        assert outcome.result.status is statuses.get(trigger, Status.COMPLETED)


def test_another_attempt_waits_longer_after_every_failure() -> None:
    waits = [decide(ended(FAILED, PUT_BACK, failures=failures), RULES, "drain/vm").wait_ns for failures in (0, 1)]
    assert 6 * SECOND_NS <= waits[0] <= 8 * SECOND_NS
    assert 12 * SECOND_NS <= waits[1] <= 16 * SECOND_NS


def test_of_all_fleets_limits_the_smallest_hold() -> None:
    first = Limits(5, 2, 3, {"a": 100}, {"a/qat": 2}, {"a": 1}, {})
    second = Limits(4, 3, 2, {"a": 50, "b": 7}, {}, {"a": 4}, {"b": 1})
    assert strictest([first, second]) == Limits(4, 2, 2, {"a": 50, "b": 7}, {"a/qat": 2}, {"a": 1}, {"b": 1})
    assert strictest([]) == Limits()
