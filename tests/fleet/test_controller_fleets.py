"""Several fleets at a time, and agents and controllers that are replaced."""

import pytest

from pipeline.errors import KuakaError
from pipeline.fleet.controller import Controller
from pipeline.fleet.fleet_status import FleetState, FleetStatus
from pipeline.fleet.fleets import ControllerReplaced
from pipeline.fleet.lifecycle import State
from tests.fleet.fleet_specs import machine, spec_of
from tests.fleet.fleet_story import Story, Wish
from tests.fleet.told_stories import ONE, THREE, TWO, reasons, seen, states


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
