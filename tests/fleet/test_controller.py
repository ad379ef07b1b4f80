"""What a controller does with a fleet, and what it says of it, while it lives."""

from collections.abc import Callable, Mapping
from itertools import pairwise

import pytest

from pipeline.errors import ExitCode, UsageError
from pipeline.fleet import drive
from pipeline.fleet.attempt_order import AttemptOrder
from pipeline.fleet.controller import Controller
from pipeline.fleet.fleet_status import FleetState, FleetStatus
from pipeline.fleet.journal import Migration
from pipeline.fleet.lifecycle import State
from pipeline.fleet.results import Status
from pipeline.fleet.run import Attempt
from pipeline.fleet.sweep import SweepingHost, Swept
from tests.fleet.fleet_specs import AttemptMaker, machine, spec_of
from tests.fleet.fleet_story import Story
from tests.fleet.fleet_world import MEMORY_BYTES
from tests.fleet.told_stories import ONE, THREE, TWO, seen, states, told


def test_a_migration_goes_through_its_states_and_its_result_is_kept() -> None:
    story = told()
    assert states(story) == ["Admitted", "Preparing", "Running", "Switchover", "Verifying", "Succeeded"]
    ((name, result),) = story.results().items()
    assert (name, result.vm, result.kind, result.status, result.pages) == (
        "drain/vm-1",
        "vm-1",
        "qemu",
        Status.COMPLETED,
        7,
    )


def test_what_waits_says_for_what() -> None:
    answers: list[list[FleetStatus]] = []
    story = told((2.5, lambda controller: answers.append(controller.status())), spec=THREE)
    ((fleet,),) = answers
    assert (fleet.fleet, fleet.state) == ("drain", FleetState.ACTIVE)
    assert [(each.vm, each.state, each.attempt) for each in fleet.migrations] == [
        ("vm-1", State.RUNNING, 1),
        ("vm-2", State.RUNNING, 1),
        ("vm-3", State.PENDING, 1),
    ]
    assert fleet.migrations[2].reason == "2/2 outbound on a"
    progress = fleet.migrations[0].progress
    assert progress is not None
    assert 0 < progress.counters.pages * 4096 < MEMORY_BYTES
    assert set(story.states().values()) == {State.SUCCEEDED}


def test_a_fleet_that_has_finished_is_answered_for_from_the_journal() -> None:
    answers: list[tuple[list[FleetStatus], int, int]] = []

    def ask(controller: Controller) -> None:
        events = controller.events("drain")
        later = controller.events("drain", events[3].sequence)
        answers.append((controller.status("drain"), len(controller.results("drain")), len(events) - len(later)))
        controller.cancel("drain")
        controller.resume("drain")
        assert not controller.submit("drain", ONE).new

    told((30.0, ask))
    (((status,), results, difference),) = answers
    assert (status.state, status.migrations[0].state, results, difference) == (
        FleetState.FINISHED,
        State.SUCCEEDED,
        1,
        4,
    )


def test_what_was_asked_for_already_is_not_done_again() -> None:
    def twice(controller: Controller) -> None:
        for _ in range(2):
            controller.set_bandwidth("drain", 10**9)
            controller.pause("drain")
        for _ in range(2):
            controller.resume("drain")
            assert not controller.submit("drain", ONE).new
        for _ in range(2):
            controller.cancel("drain", "vm-1")

    story = told((1.5, twice))
    changes = [event.reason for event in story.events() if event.state == "Changed"]
    assert changes == [
        "bandwidth set to 1000000000 bytes/s by the user",
        "paused by the user",
        "resumed by the user",
        "cancelled by the user",
    ]


def test_what_is_not_known_is_refused_in_one_line() -> None:
    refused: list[tuple[Callable[[Controller], object], str]] = [
        (lambda controller: controller.status("other"), "fleet other is not known"),
        (lambda controller: controller.results("other"), "fleet other is not known"),
        (lambda controller: controller.cancel("other"), "fleet other is not known"),
        (lambda controller: controller.pause("drain", "vm-9"), "fleet drain has no machine vm-9"),
        (lambda controller: controller.set_bandwidth("drain", 10), "10 bytes/s is too slow: give at least 100000"),
        (lambda controller: controller.submit("drain", TWO), "fleet drain is known with another spec"),
    ]

    def ask(controller: Controller) -> None:
        for call, message in refused:
            with pytest.raises(UsageError, match=message):
                call(controller)

    told((1.0, ask), (30.0, ask))


def test_a_failed_attempt_is_followed_by_another_with_a_session_of_its_own() -> None:
    story = told(guest=lambda guest: setattr(guest, "cuts", 2))
    assert states(story).count("Preparing") == 3
    with story.world.guest("vm-1") as guest:
        assert len(set(guest.sessions)) == 3
    begun_s = [event.time_ns / 1e9 for event in story.events() if event.state == "Preparing"]
    first, second = (later - earlier for earlier, later in pairwise(begun_s))
    # Two seconds of sending, then two and four of back-off less a quarter at most.
    assert 3.5 <= first <= 4.1
    assert 5.0 <= second <= 6.1


def test_a_migration_whose_attempts_all_fail_fails_with_the_last_reason() -> None:
    story = told(guest=lambda guest: setattr(guest, "cuts", 99), may_fail=True)
    assert states(story).count("Preparing") == 3
    assert seen(story)[-1] == ("Failed", "the stream was cut")
    assert [reason for state, reason in seen(story) if state == "Pending"] == [
        "failure 1/3: the stream was cut",
        "failure 2/3: the stream was cut",
    ]
    assert story.results()["drain/vm-1"].error == "the stream was cut"


def test_a_host_that_is_not_there_keeps_nobody_else_from_anything() -> None:
    spec = spec_of(machine("vm-1", "a", "gone"), machine("vm-2", "a", "b"))
    story = Story([("drain", spec)], may_fail=True)
    story.agents_away = {"gone"}
    story.tell()
    assert story.world.broken == []
    assert story.states() == {"vm-1": State.FAILED, "vm-2": State.SUCCEEDED}
    assert seen(story)[-1] == ("Failed", "host gone is not there")
    assert "Preparing" not in states(story)


class Refusing(AttemptMaker):
    """Makes no attempt for vm-1, ever."""

    def __call__(self, order: AttemptOrder) -> Attempt:
        if order.vm == "vm-1":
            raise UsageError("vm-1 would go over a plain link")
        return super().__call__(order)


def test_what_can_never_be_is_not_tried_again() -> None:
    story = Story([("drain", TWO)], maker=Refusing, may_fail=True).tell()
    assert story.world.broken == []
    assert states(story) == ["Admitted", "Failed"]
    result = story.results()["drain/vm-1"]
    assert (result.error, result.exit_code) == ("vm-1 would go over a plain link", ExitCode.USAGE)


class Broken(AttemptMaker):
    """Cannot make an attempt for vm-1, by a bug of ours."""

    def __call__(self, order: AttemptOrder) -> Attempt:
        if order.vm == "vm-1":
            raise ZeroDivisionError
        return super().__call__(order)


def test_a_bug_in_one_machine_keeps_no_other_from_moving() -> None:
    story = Story([("drain", TWO)], maker=Broken, may_fail=True).tell()
    assert story.world.broken == []
    assert story.states() == {"vm-1": State.FAILED, "vm-2": State.SUCCEEDED}
    assert story.results()["drain/vm-1"].error == "no attempt could be made: ZeroDivisionError()"


def test_a_sweep_that_breaks_off_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    bring_to_end = drive.bring_to_end
    errors: list[Exception] = [ZeroDivisionError(), KeyError("cleanup")]

    async def broken(entry: Migration, hosts: Mapping[str, SweepingHost]) -> Swept:
        if errors:
            raise errors.pop(0)
        return await bring_to_end(entry, hosts)

    monkeypatch.setattr(drive, "bring_to_end", broken)
    story = Story([("drain", ONE)])
    # The attempt's own clean-up fails, so that it is left to the sweep.
    story.world.failing["cleanup_destination"] = 1
    with story.world.guest("vm-1") as guest:
        guest.cuts = 1
    story.tell()
    assert story.world.broken == []
    assert errors == []
    assert "in doubt: its sweep broke off: ZeroDivisionError()" in [reason for _, reason in seen(story)]


class Raising(AttemptMaker):
    """Makes attempts that break off with what is nobody's failure but ours."""

    def __call__(self, order: AttemptOrder) -> Attempt:
        attempt = super().__call__(order)
        if order.attempt == 1:

            async def run() -> None:
                await attempt.source.inspect_source(order.vm, "", attempt.session)
                raise ZeroDivisionError

            attempt.run = run  # type: ignore[method-assign, assignment]
        return attempt


def test_an_attempt_that_breaks_off_by_a_bug_is_put_right_and_tried_again() -> None:
    story = Story([("drain", ONE)], maker=Raising).tell()
    assert story.world.broken == []
    assert story.states() == {"vm-1": State.SUCCEEDED}
    assert "failure 1/3: the attempt broke off: ZeroDivisionError()" in [reason for _, reason in seen(story)]
