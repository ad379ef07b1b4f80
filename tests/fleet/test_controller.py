"""What a controller does with fleets, and what it says of them, while it lives."""

from collections.abc import Callable, Mapping
from itertools import pairwise

import pytest

from pipeline.errors import ExitCode, KuakaError, UsageError
from pipeline.fleet import drive
from pipeline.fleet.attempt_order import AttemptOrder
from pipeline.fleet.controller import Controller
from pipeline.fleet.fleet_status import FleetState, FleetStatus
from pipeline.fleet.fleets import ControllerReplaced
from pipeline.fleet.journal import Migration
from pipeline.fleet.lifecycle import State
from pipeline.fleet.results import Status
from pipeline.fleet.run import Attempt
from pipeline.fleet.sweep import SweepingHost, Swept
from tests.fleet.fleet_specs import AttemptMaker, machine, spec_of
from tests.fleet.fleet_story import Story, Wish
from tests.fleet.fleet_world import MEMORY_BYTES, Guest

TWO = spec_of(machine("vm-1", "a", "b"), machine("vm-2", "a", "b"))
THREE = spec_of(*(machine(f"vm-{number}", "a", "b") for number in (1, 2, 3)))
ONE = spec_of(machine("vm-1", "a", "b"))


def told(
    *wishes: Wish,
    spec: dict[str, object] | None = None,
    guest: Callable[[Guest], None] = lambda guest: None,
    may_fail: bool = False,
    unable: set[str] | None = None,
) -> Story:
    """One fleet, "drain", whose first machine is as `guest` makes it."""
    story = Story([("drain", spec or ONE)], wishes=wishes, may_fail=may_fail)
    story.world.unable |= unable or set()
    with story.world.guest("vm-1") as first:
        guest(first)
    story.tell()
    assert story.world.broken == []
    return story


def seen(story: Story, vm: str = "vm-1") -> list[tuple[str, str]]:
    return [(event.state, event.reason) for event in story.events() if event.vm == vm]


def states(story: Story, vm: str = "vm-1") -> list[str]:
    return [state for state, _ in seen(story, vm)]


def reasons(status: list[FleetStatus]) -> dict[str, str]:
    return {each.vm: each.reason for fleet in status for each in fleet.migrations}


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


def test_an_attempt_whose_bytes_stand_still_is_given_up() -> None:
    story = told(guest=lambda guest: setattr(guest, "stuck", True), may_fail=True)
    assert seen(story)[-1][1].endswith("s (progressTimeout 20 s)")
    assert states(story).count("Preparing") == 3


def test_an_attempt_that_takes_too_long_is_given_up() -> None:
    story = told(spec=spec_of(machine("vm-1", "a", "b", rate=5_000_000)), may_fail=True)
    assert seen(story)[-1] == ("Failed", "not completed in 150 s (completionTimeoutPerGiB 150 s)")


def never_converges(guest: Guest) -> None:
    guest.needed_bytes = 1000 * MEMORY_BYTES


def helps(story: Story) -> list[str]:
    return [reason for _, reason in seen(story) if "help" in reason or "converge" in reason]


def test_a_guest_that_does_not_converge_is_helped_in_this_order() -> None:
    story = told(guest=never_converges)
    assert helps(story) == [
        "help on a: more accelerator weight",
        "help on b: more accelerator weight",
        "help: auto-converge",
    ]
    assert story.states() == {"vm-1": State.SUCCEEDED}


def test_a_host_that_cannot_help_says_so_and_the_guest_is_given_up_cleanly() -> None:
    story = told(guest=never_converges, unable={"raise_weight", "auto_converge"}, may_fail=True)
    assert helps(story)[:4] == [
        "help on a: more accelerator weight: refused: this host cannot raise_weight",
        "help on b: more accelerator weight: refused: this host cannot raise_weight",
        "help: auto-converge: refused: this host cannot auto_converge",
        "failure 1/3: it does not converge: its guest changes memory faster than it is sent",
    ]


def test_a_pause_slows_what_runs_and_holds_back_the_rest() -> None:
    answers: list[list[FleetStatus]] = []
    story = told(
        (1.5, lambda controller: controller.pause("drain")),
        (50.0, lambda controller: answers.append(controller.status())),
        (60.0, lambda controller: controller.resume("drain")),
        spec=THREE,
    )
    ((fleet,),) = answers
    assert fleet.state is FleetState.PAUSED
    assert [each.state for each in fleet.migrations] == [State.RUNNING, State.RUNNING, State.PAUSED]
    assert ("Running", "paused while it runs: its bandwidth is capped at 100000 bytes/s") in seen(story)
    assert ("Running", "its bandwidth is not capped any more") in seen(story)


def test_a_pause_that_a_host_cannot_do_is_refused_with_its_reason() -> None:
    story = told((1.5, lambda controller: controller.pause("drain")), unable={"set_rate"})
    refused = "paused while it runs: its bandwidth is capped at 100000 bytes/s: refused: this host cannot set_rate"
    assert seen(story).count(("Running", refused)) == 1
    assert story.states() == {"vm-1": State.SUCCEEDED}


def test_a_cancelled_fleet_leaves_every_guest_where_it_was_but_those_that_have_moved() -> None:
    story = told((5.0, lambda controller: controller.cancel("drain")), spec=THREE)
    assert story.states() == {"vm-1": State.SUCCEEDED, "vm-2": State.SUCCEEDED, "vm-3": State.CANCELLED}
    assert story.results()["drain/vm-3"].exit_code == ExitCode.INTERRUPTED


def test_two_fleets_that_name_one_machine_do_not_touch_it_at_the_same_time() -> None:
    answers: list[dict[str, str]] = []

    def look(controller: Controller) -> None:
        answers.append(reasons(controller.status("second")))
        controller.cancel("second")

    story = Story([("drain", ONE), ("second", ONE)], wishes=[(2.0, look)]).tell()
    assert answers == [{"vm-1": "its source or destination is in use by drain/vm-1"}]
    assert [event.state for event in story.events() if (event.fleet, event.vm) == ("second", "vm-1")] == ["Cancelled"]


def test_the_strictest_limits_of_all_fleets_hold_and_the_urgent_fleet_goes_first() -> None:
    calm = spec_of(*(machine(f"calm-{number}", "a", "b") for number in range(4)), cluster=2)
    urgent = spec_of(*(machine(f"urgent-{number}", "c", "d", priority=100) for number in range(3)), cluster=5)
    wishes: list[Wish] = [(2.0, lambda controller: controller.submit("urgent", urgent))]
    story = Story([("calm", calm)], wishes=wishes, later=[("urgent", urgent)]).tell()
    assert story.world.broken == []
    admitted = [event.vm for event in story.events() if event.state == "Admitted"]
    assert admitted == ["calm-0", "calm-1", "urgent-0", "urgent-1", "urgent-2", "calm-2", "calm-3"]


def test_a_fleet_that_joins_later_does_not_catch_up_with_what_the_other_has_had() -> None:
    many = [spec_of(*(machine(f"{name}-{number}", "a", "b") for number in range(12))) for name in ("old", "new")]
    wishes: list[Wish] = [(14.0, lambda controller: controller.submit("new", many[1]))]
    # Whoever takes its place knows it, too.
    for crashes in ([], [("turn", 400)]):
        story = Story([("old", many[0])], crashes, wishes, gap_s=0.1, later=[("new", many[1])]).tell()
        assert story.world.broken == []
        fleets = [event.fleet for event in story.events() if event.state == "Succeeded"]
        joined = fleets.index("new")
        assert joined >= 6
        assert abs(fleets[joined : joined + 6].count("new") - 3) <= 1


def test_two_fleets_of_one_priority_that_come_together_are_never_more_than_a_machine_apart() -> None:
    many = [spec_of(*(machine(f"{name}-{number}", "a", "b") for number in range(12))) for name in ("red", "blue")]
    story = Story([("red", many[0]), ("blue", many[1])]).tell()
    assert story.world.broken == []
    for state in ("Admitted", "Succeeded"):
        fleets = [event.fleet for event in story.events() if event.state == state]
        ahead = [fleets[:done].count("red") - fleets[:done].count("blue") for done in range(len(fleets))]
        assert len(fleets) == 24
        assert max(map(abs, ahead)) <= 1


def test_two_hundred_machines_move_under_the_limits() -> None:
    spec = spec_of(
        *(machine(f"vm-{number}", "abc"[number % 3], "bca"[number % 3]) for number in range(200)),
        cluster=10,
        outbound=4,
        inbound=3,
    )
    story = Story([("drain", spec)]).tell()
    assert story.world.broken == []
    assert set(story.states().values()) == {State.SUCCEEDED}
    # Nine at a time, four seconds each.
    assert story.now_s < 100


def test_a_guest_whose_agent_died_is_put_right_by_the_next_agent_and_tried_again() -> None:
    story = Story([("drain", TWO)], wishes=[(2.0, lambda controller: story.agents.agents["b"].die())])
    story.tell()
    assert story.world.broken == []
    assert set(story.states().values()) == {State.SUCCEEDED}
    assert states(story).count("Preparing") == 2


def test_what_cannot_be_put_right_fails_in_doubt_and_is_put_right_by_the_next_controller() -> None:
    story = Story([("drain", ONE)], may_fail=True)
    story.world.failing["cleanup_destination"] = 10**6
    with story.world.guest("vm-1") as guest:
        guest.cuts = 1
    story.tell()
    assert any(line.startswith("vm-1 is Failed and its destination is left") for line in story.world.broken)
    assert "something is left to be put right" in story.world.broken
    state, reason = seen(story)[-1]
    assert state == "Failed"
    assert reason.startswith("the stream was cut; cleanup_destination failed; in doubt: what session ")
    story.world.failing.clear()
    story.world.broken.clear()
    story.tell()
    assert story.world.broken == []


def test_a_controller_that_is_stopped_puts_back_what_runs_and_the_next_one_moves_it() -> None:
    story = Story([("drain", THREE)], crashes=[("turn", 10**6)], wishes=[(2.0, Controller.stop)])
    story.tell()
    story.world.broken.clear()
    assert set(story.states().values()) == {State.PENDING}
    story.crashes = ()
    story.tell()
    assert story.world.broken == []
    assert set(story.states().values()) == {State.SUCCEEDED}


def test_a_fleet_that_cannot_be_read_any_more_keeps_no_other_from_moving() -> None:
    story = Story([("drain", ONE)])
    other = story.fleet_journal(9)
    other.claim(lambda owner: False)
    other.submit("older", {"of": "another kuaka"}, ["vm-9"])
    answers: list[list[FleetStatus]] = []
    story.wishes = [(1.0, lambda controller: answers.append(controller.status("older")))]
    story.tell()
    assert story.world.broken == []
    assert story.states() == {"vm-1": State.SUCCEEDED, "vm-9": State.PENDING}
    assert answers[0][0].state is FleetState.ACTIVE
    assert "left aside: no machines" in [event.reason for event in story.events() if event.fleet == "older"]


def test_a_second_controller_is_refused_and_one_that_was_replaced_ends() -> None:
    story = Story([("drain", ONE)])

    def replace_it(controller: Controller) -> None:
        other = story.fleet_journal(77)
        with pytest.raises(KuakaError, match="has a controller already, process 1"):
            other.claim(lambda owner: owner.pid == 1)
        other.claim(lambda owner: False)

    story.wishes = [(2.0, replace_it)]
    with pytest.raises(ControllerReplaced):
        story.tell()
