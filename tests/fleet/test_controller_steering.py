"""Attempts that are given up or helped, and what users want meanwhile: a pause, a cancellation."""

from pipeline.errors import ExitCode
from pipeline.fleet.fleet_status import FleetState, FleetStatus
from pipeline.fleet.lifecycle import State
from tests.fleet.fleet_specs import machine, spec_of
from tests.fleet.fleet_story import Story
from tests.fleet.fleet_world import MEMORY_BYTES, Guest
from tests.fleet.told_stories import THREE, seen, states, told


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
