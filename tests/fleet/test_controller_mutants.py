"""Mistakes that are easily made in such a controller, planted one by one: the crashes of the small story find each.

A story that breaks off is found, too: a mistake may as well keep a fleet from ending.
"""

import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from pipeline.fleet import controller as controller_module
from pipeline.fleet import drive, outcomes
from pipeline.fleet.attempt_order import AttemptOrder
from pipeline.fleet.cases import Case
from pipeline.fleet.controller import Controller
from pipeline.fleet.drive import Driver
from pipeline.fleet.fleet_order import MigrationRules
from pipeline.fleet.fleets import CommandKind, FleetJournal, MigrationRecord
from pipeline.fleet.journal import Migration
from pipeline.fleet.lifecycle import State, Trigger
from pipeline.fleet.outcomes import Ended, Outcome
from pipeline.fleet.reporting_recorder import ReportingRecorder
from pipeline.fleet.results import MigrationResult
from tests.fleet.fleet_specs import AttemptMaker
from tests.fleet.test_controller_crashes import MOVED, POINTS, small_story
from tests.fleet.test_migration import RecordsAfterResuming

Mutation = Callable[[pytest.MonkeyPatch], None]


def hand_over_recorded_after_cont(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(AttemptMaker, "kind", RecordsAfterResuming)


def hand_over_not_recorded(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(ReportingRecorder, "handed_over", lambda self: self._reached(Trigger.HAND_OVER))


def retry_without_a_new_session(patch: pytest.MonkeyPatch) -> None:
    def session(self: AttemptMaker, order: AttemptOrder) -> str:
        return order.vm.encode().hex().ljust(32, "0")

    patch.setattr(AttemptMaker, "session", session)


def result_not_journaled(patch: pytest.MonkeyPatch) -> None:
    move = FleetJournal.move

    def forget(
        self: FleetJournal, record: MigrationRecord, trigger: Trigger, why: str | None = None, **changed: Any
    ) -> MigrationRecord:
        result: MigrationResult | None = changed.pop("result", None)
        return replace(move(self, replace(record, result=None), trigger, why, **changed), result=result)

    patch.setattr(FleetJournal, "move", forget)


def limits_ignored_after_a_restart(patch: pytest.MonkeyPatch) -> None:
    def holds_slot(case: Case) -> bool:
        return case.running is not None or case.record.state is State.ADMITTED

    patch.setattr(Case, "holds_slot", property(holds_slot))


def command_forgotten(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(
        FleetJournal, "command", lambda self, fleet, vm, kind, value, why: self.tell(fleet, vm, "Changed", why)
    )


def resume_forgotten(patch: pytest.MonkeyPatch) -> None:
    def keep(self: FleetJournal, fleet: int, vm: str, kind: CommandKind, why: str) -> None:
        self.tell(fleet, vm, "Changed", why)

    patch.setattr(FleetJournal, "withdraw", keep)


def restart_without_a_sweep(patch: pytest.MonkeyPatch) -> None:
    async def believe(self: Driver, case: Case, result: MigrationResult | None) -> Migration | None:
        entry = self._entry(case)
        return entry and replace(entry, finished=True)

    patch.setattr(Driver, "_settle", believe)


def handed_over_guests_are_tried_again(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(outcomes, "has_moved", lambda entry: False)


def everything_swept_counts_as_moved(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(outcomes, "has_moved", lambda entry: entry is not None)


def session_recorded_too_late(patch: pytest.MonkeyPatch) -> None:
    move = FleetJournal.move

    def late(
        self: FleetJournal, record: MigrationRecord, trigger: Trigger, why: str | None = None, **changed: Any
    ) -> MigrationRecord:
        if trigger is not Trigger.PREPARE:
            return move(self, record, trigger, why, **changed)
        move(self, record, trigger, why)
        return replace(record, state=State.PREPARING, session=changed["session"])

    patch.setattr(FleetJournal, "move", late)


def dead_runs_not_taken_over(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Controller, "_take_over", lambda self: [])


def under_way_ones_forgotten(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(controller_module, "TOUCHING", frozenset((State.PREPARING, State.RUNNING)))


def admitted_ones_forgotten(patch: pytest.MonkeyPatch) -> None:
    recover = Controller._recover

    def forget(self: Controller) -> None:
        admitted = [case for case in self._cases() if case.record.state is State.ADMITTED]
        for case in admitted:
            case.record = replace(case.record, state=State.PAUSED)
        recover(self)
        for case in admitted:
            case.record = replace(case.record, state=State.ADMITTED)

    patch.setattr(Controller, "_recover", forget)


def crashes_counted_as_failures(patch: pytest.MonkeyPatch) -> None:
    def count(ended: Ended, rules: MigrationRules, seed: str) -> Outcome:
        outcome = outcomes.decide(ended, rules, seed)
        if outcome.trigger is Trigger.RECOVER:
            result = outcomes.failed_result(ended.vm, ended.kind, "its controller died")
            return Outcome(Trigger.FAIL, "its controller died", result, failed=True)
        return outcome

    patch.setattr(drive, "decide", count)


def cancel_ignored(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Case, "cancelled", property(lambda self: False))


def cancelled_before_it_is_put_right(patch: pytest.MonkeyPatch) -> None:
    async def hurry(self: Driver, case: Case, result: MigrationResult | None) -> None:
        await end(self, case, result if not case.cancelled else outcomes.cancelled_result(case.order.vm, "qemu"))

    end = Driver._end
    settle = Driver._settle

    async def skip(self: Driver, case: Case, result: MigrationResult | None) -> Migration | None:
        if case.cancelled:
            return None
        return await settle(self, case, result)

    patch.setattr(Driver, "_end", hurry)
    patch.setattr(Driver, "_settle", skip)


def fleet_submitted_again_begins_again(patch: pytest.MonkeyPatch) -> None:
    submit = FleetJournal.submit

    def again(self: FleetJournal, fleet_id: str, spec: Any, vms: Any) -> bool:
        submit(self, fleet_id, spec, vms)
        return True

    patch.setattr(FleetJournal, "submit", again)


MUTATIONS: tuple[Mutation, ...] = (
    hand_over_recorded_after_cont,
    hand_over_not_recorded,
    retry_without_a_new_session,
    result_not_journaled,
    limits_ignored_after_a_restart,
    command_forgotten,
    resume_forgotten,
    restart_without_a_sweep,
    handed_over_guests_are_tried_again,
    everything_swept_counts_as_moved,
    session_recorded_too_late,
    dead_runs_not_taken_over,
    under_way_ones_forgotten,
    admitted_ones_forgotten,
    crashes_counted_as_failures,
    cancel_ignored,
    cancelled_before_it_is_put_right,
    fleet_submitted_again_begins_again,
)


def flaws() -> Iterator[str]:
    """What the small story and its crashes find, one after the other."""
    points = random.Random(7).sample(range(1, POINTS), 90)
    for plan in [(), *([("point", at)] for at in points)]:
        try:
            story = small_story(*plan).tell()
        except Exception as error:
            yield repr(error)
        else:
            yield from story.world.broken
            if not plan and story.states() != MOVED:
                yield f"the states are {story.states()}"


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.__name__)
def test_mutant_is_found(mutation: Mutation, monkeypatch: pytest.MonkeyPatch) -> None:
    mutation(monkeypatch)
    assert next(flaws(), None) is not None
