"""What an attempt that runs no more means for its migration: the decision, from what is known of it.

What the journal says of the guest comes first, then what the attempt itself says, then what the user wants. A guest
that was handed over has moved, whoever died meanwhile; nothing that was not put right is tried again.
"""

from dataclasses import dataclass, replace

from pipeline.errors import ExitCode
from pipeline.fleet.fleet_order import MigrationRules
from pipeline.fleet.journal import Migration
from pipeline.fleet.lifecycle import Trigger
from pipeline.fleet.results import MigrationResult, Status

#: Another attempt would end the same way: the order is wrong, or the user's own time is over.
_FINAL = frozenset((ExitCode.USAGE, ExitCode.SPEC_REJECTED, ExitCode.DEADLINE))


@dataclass(frozen=True, slots=True)
class Outcome:
    """What becomes of a migration."""

    trigger: Trigger
    reason: str
    #: The migration's, where this is its end.
    result: MigrationResult | None = None
    #: Before the next attempt.
    wait_ns: int = 0
    #: Whether the attempt counts as one that failed.
    failed: bool = False


@dataclass(frozen=True, slots=True)
class Ended:
    """An attempt that runs no more."""

    vm: str
    kind: str
    #: What it returned; None when it died with its controller.
    result: MigrationResult | None
    #: What the journal says of it; None when it had not begun.
    entry: Migration | None
    #: Whether the user wants the migration no more.
    cancelled: bool
    #: Attempts that had failed before.
    failures: int


def decide(ended: Ended, rules: MigrationRules, seed: str) -> Outcome:
    """What follows from it."""
    entry, result = ended.entry, ended.result
    completed = result is not None and result.status is Status.COMPLETED
    if entry is not None and not entry.finished and not completed:
        return _in_doubt(ended, entry)
    if completed or has_moved(entry):
        return _moved(ended)
    if ended.cancelled:
        known = result or cancelled_result(ended.vm, ended.kind)
        # Also one that failed while it was being given up.
        given_up = replace(known, status=Status.CANCELLED, exit_code=ExitCode.INTERRUPTED)
        return Outcome(Trigger.CANCEL, "cancelled by the user", given_up)
    if result is None or result.status is Status.CANCELLED:
        return Outcome(Trigger.RECOVER, "its controller ended, the guest is where it was")
    return _failed(ended.failures + 1, result, rules, seed)


def has_moved(entry: Migration | None) -> bool:
    """Whether what a finished entry tells of is at its destination."""
    return entry is not None and entry.finished and (entry.handed_over or entry.state == Status.COMPLETED)


def cancelled_result(vm: str, kind: str) -> MigrationResult:
    """Of a migration that was given up before anything of it is known."""
    return MigrationResult(vm, kind, Status.CANCELLED, error="cancelled by the user", exit_code=ExitCode.INTERRUPTED)


def failed_result(vm: str, kind: str, error: str, exit_code: ExitCode = ExitCode.FAILED) -> MigrationResult:
    """Of an attempt that said nothing itself."""
    return MigrationResult(vm, kind, Status.FAILED, error=error, exit_code=exit_code)


def _in_doubt(ended: Ended, entry: Migration) -> Outcome:
    error = f"in doubt: what session {entry.session[:8]} left could not be put right: look at both hosts"
    if ended.result is not None and ended.result.error:
        error = f"{ended.result.error}; {error}"
    known = ended.result or failed_result(ended.vm, ended.kind, error)
    return Outcome(Trigger.FAIL, error, replace(known, status=Status.FAILED, error=error), failed=True)


def _moved(ended: Ended) -> Outcome:
    result = ended.result
    if result is None or result.status is not Status.COMPLETED:
        bare = MigrationResult(ended.vm, ended.kind, Status.COMPLETED)
        return Outcome(Trigger.ADOPT, "it had been handed over; its figures are lost", bare)
    if result.verified is False:
        return Outcome(Trigger.FAIL, result.error or "the memory at the destination is not the source's", result)
    return Outcome(Trigger.SUCCEED, "the result is recorded", result)


def _failed(failures: int, result: MigrationResult, rules: MigrationRules, seed: str) -> Outcome:
    reason = result.error or "the attempt gives no reason"
    if result.exit_code in _FINAL or failures >= rules.most_failures:
        return Outcome(Trigger.FAIL, reason, result, failed=True)
    wait_ns = rules.backoff.wait_ns(failures, seed)
    return Outcome(Trigger.RETRY, f"failure {failures}/{rules.most_failures}: {reason}", wait_ns=wait_ns, failed=True)
