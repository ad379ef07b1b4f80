"""Controllers that die at any moment: nothing is lost, nothing is done twice, one guest of each runs."""

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.fleet.lifecycle import State
from tests.fleet.fleet_specs import machine, spec_of
from tests.fleet.fleet_story import CrashPlan, Story, Wish

#: One attempt fails, one machine is cancelled while it runs, and all are paused for a while.
SMALL = [
    (
        "drain",
        spec_of(
            machine("vm-1", "a", "b"),
            machine("vm-2", "a", "b"),
            machine("vm-3", "a", "c", rate=200_000_000),
            machine("vm-4", "c", "b"),
            cluster=3,
        ),
    )
]
WISHES: list[Wish] = [
    (1.5, lambda controller: controller.set_bandwidth("drain", 250_000_000)),
    (2.5, lambda controller: controller.cancel("drain", "vm-2")),
    (3.0, lambda controller: controller.pause("drain")),
    (4.0, lambda controller: controller.submit(*SMALL[0])),
    (9.0, lambda controller: controller.resume("drain")),
]
MOVED = {
    "vm-1": State.SUCCEEDED,
    "vm-2": State.CANCELLED,
    "vm-3": State.SUCCEEDED,
    "vm-4": State.SUCCEEDED,
}
#: Points and turns of the small story when nobody dies.
POINTS, TURNS = 266, 333


def small_story(*crashes: CrashPlan, gap_s: float = 1.0, **changed: Any) -> Story:
    story = Story(SMALL, crashes, WISHES, gap_s, **changed)
    with story.world.guest("vm-1") as guest:
        guest.cuts = 1
    return story


def broken(crashes: Sequence[Sequence[CrashPlan]], gap_s: float = 1.0) -> dict[str, list[str]]:
    found = {}
    for plan in crashes:
        story = small_story(*plan, gap_s=gap_s).tell()
        if story.world.broken:
            found[str(plan)] = story.world.broken
    return found


def test_without_a_crash_three_have_moved_and_one_was_cancelled() -> None:
    story = small_story().tell()
    assert story.world.broken == []
    assert story.states() == MOVED
    # What the tests below go through.
    ((points, turns),) = story.lives
    assert abs(points - POINTS) < 30
    assert abs(turns - TURNS) < 50


def test_a_controller_may_die_before_and_after_every_write_and_every_call() -> None:
    assert broken([[("point", at)] for at in range(1, POINTS + 30)]) == {}


def test_a_controller_may_die_at_any_await() -> None:
    assert broken([[("turn", at)] for at in range(1, TURNS + 50, 4)]) == {}


@pytest.mark.long
@pytest.mark.parametrize("gap_s", [0.0, 3.0, 30.0])
def test_a_controller_may_die_at_any_await_however_long_nobody_takes_its_place(gap_s: float) -> None:
    assert broken([[("turn", at)] for at in range(1, TURNS + 50)], gap_s) == {}
    assert broken([[("point", at)] for at in range(1, POINTS + 30)], gap_s) == {}


def test_the_next_controller_may_die_while_it_puts_things_right() -> None:
    # Behind the hand-over of one machine, with others under way.
    for first in (60, 140, 165, 180, 200, 215):
        assert broken([[("point", first), ("point", at)] for at in range(1, 40, 2)]) == {}


@pytest.mark.long
def test_whichever_two_controllers_die() -> None:
    plans = [[("point", first), ("point", second)] for first in range(1, POINTS, 5) for second in range(1, 80)]
    assert broken(plans) == {}


MACHINES = st.lists(
    st.tuples(st.sampled_from("abc"), st.sampled_from("abc")).filter(lambda pair: pair[0] != pair[1]),
    min_size=1,
    max_size=8,
)
CRASHES = st.lists(st.tuples(st.sampled_from(("point", "turn")), st.integers(1, 400)), max_size=6)
USERS = st.lists(
    st.tuples(st.floats(0, 20), st.sampled_from(("cancel", "cancel one", "pause", "resume", "slow", "fast"))),
    max_size=4,
)


def wish_of(name: str, at_s: float) -> Wish:
    calls: dict[str, Wish] = {
        "cancel": (at_s, lambda controller: controller.cancel("second")),
        "cancel one": (at_s, lambda controller: controller.cancel("first", "f0")),
        "pause": (at_s, lambda controller: controller.pause("first")),
        "resume": (at_s, lambda controller: controller.resume("first")),
        "slow": (at_s, lambda controller: controller.set_bandwidth("first", 100_000_000)),
        "fast": (at_s, lambda controller: controller.set_bandwidth("first", None)),
    }
    return calls[name]


@given(
    first=MACHINES,
    second=MACHINES,
    crashes=CRASHES,
    users=USERS,
    cut=st.sets(st.integers(0, 7)),
    gap_s=st.sampled_from((0.0, 1.0, 5.0)),
    limits=st.tuples(st.integers(1, 5), st.integers(1, 3), st.integers(1, 3)),
)
@settings(max_examples=60)
def test_larger_fleets_whatever_dies_and_whatever_users_want(
    first: list[tuple[str, str]],
    second: list[tuple[str, str]],
    crashes: list[CrashPlan],
    users: list[tuple[float, str]],
    cut: set[int],
    gap_s: float,
    limits: tuple[int, int, int],
) -> None:
    cluster, outbound, inbound = limits
    fleets = [
        (
            name,
            spec_of(
                *(machine(f"{name[0]}{n}", *pair) for n, pair in enumerate(pairs)),
                cluster=cluster,
                outbound=outbound,
                inbound=inbound,
            ),
        )
        for name, pairs in (("first", first), ("second", second))
    ]
    wishes = sorted((wish_of(name, at_s) for at_s, name in users), key=lambda wish: wish[0])
    # Somebody lets it go on at the end, or it would be paused for ever.
    wishes.append((60.0, lambda controller: controller.resume("first")))
    story = Story(fleets, crashes, wishes, gap_s)
    for number in cut:
        with story.world.guest(f"f{number}") as guest:
            guest.cuts = 1
    story.tell()
    assert story.world.broken == []
