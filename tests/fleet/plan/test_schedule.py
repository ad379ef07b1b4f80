"""The run in virtual time: durations by the formula, shares by who moves, nothing lost, work that stays small."""

import pytest
from hypothesis import given, settings

from pipeline.fleet.plan.estimate import NS_PER_S, Load, Shared
from pipeline.fleet.plan.limits import Limits
from pipeline.fleet.plan.requests import Request
from pipeline.fleet.plan.schedule import simulate
from tests.fleet.plan.test_admission import limits as any_limits
from tests.fleet.plan.test_admission import requests

MB = 10**6


def load(
    name: str, megabytes: int, *, source: str = "a", destination: str = "b", dirty: int = 0, link: int = 100
) -> Load:
    request = Request(f"f/{name}", "f", source, destination, 0, 1, megabytes * MB, 0)
    return Load(request, ((Shared("link out", source), link * MB),), NS_PER_S, None, dirty * MB)


def seconds(found: int) -> float:
    return round(found / NS_PER_S, 3)


def test_one_alone_takes_its_set_up_and_the_sum_of_its_rounds() -> None:
    # 1000 MB at 100 MB/s, 20 MB/s of it written again: 1000 / 80.
    slot = simulate([load("one", 1000, dirty=20)], Limits()).slots["f/one"]
    assert (seconds(slot.begins_ns), seconds(slot.ends_ns)) == (0, 13.5)


def test_two_share_a_link_until_one_is_done() -> None:
    slots = simulate([load("long", 1000), load("short", 200)], Limits()).slots
    # 50 MB/s each: the short one is over after 1 + 4 s, the long one has 800 MB left for 100 MB/s.
    assert seconds(slots["f/short"].ends_ns) == 5
    assert seconds(slots["f/long"].ends_ns) == 13


def test_who_waits_begins_when_a_place_is_free_and_says_what_it_waited_for() -> None:
    schedule = simulate([load("1", 300), load("2", 200), load("3", 100)], Limits(5, 2, 5))
    third = schedule.slots["f/3"]
    assert third.waits_for == "2/2 outbound on a"
    assert third.begins_ns == schedule.slots["f/2"].ends_ns
    assert list(schedule.slots) == ["f/1", "f/2", "f/3"]
    assert (schedule.most_at_once, schedule.whole_ns) == (2, max(slot.ends_ns for slot in schedule.slots.values()))


def test_a_cap_holds_where_there_would_be_more() -> None:
    request = Request("f/x", "f", "a", "b", 0, 1, 100 * MB, 0)
    assert simulate([Load(request, (), 0, 10 * MB)], Limits()).whole_ns == 10 * NS_PER_S


@pytest.mark.parametrize(("converge", "whole_s"), [(True, 21), (False, 201)])
def test_a_guest_that_outruns_its_link_is_slowed_down_or_far_too_late(converge: bool, whole_s: int) -> None:
    request = Request("f/x", "f", "a", "b", 0, 1, 1000 * MB, 0)
    mad = Load(request, ((Shared("link out", "a"), 100 * MB),), NS_PER_S, None, 500 * MB, converge)
    assert seconds(simulate([mad], Limits()).whole_ns) == whole_s


@settings(max_examples=40, deadline=None)
@given(requests(), any_limits)
def test_everything_runs_once_and_to_its_end(waiting: list[Request], most: Limits) -> None:
    loads = [Load(request, ((Shared("link out", request.source), 5 * MB),), 10) for request in waiting]
    schedule = simulate(loads, most)
    assert set(schedule.slots) == {request.id for request in waiting}
    assert all(slot.begins_ns < slot.ends_ns <= schedule.whole_ns for slot in schedule.slots.values())
    assert simulate(loads[::-1], most).slots == schedule.slots


def test_the_work_grows_with_the_migrations_and_not_with_their_square() -> None:
    work = {}
    for count in (400, 800):
        cores = Shared("cores", "this machine")
        loads = [
            Load(
                Request(f"f/{n}", "f", f"s{n % 40}", f"d{n % 37}", 0, 1, (1 + n % 7) * MB, n),
                ((Shared("link out", f"s{n % 40}"), 10 * MB), (cores, 1000 * MB)),
                10**6,
            )
            for n in range(count)
        ]
        schedule = simulate(loads, Limits(60, 2, 2))
        work[count] = schedule.updates + schedule.looks
    assert work[800] <= 40 * 800
    assert work[800] <= 2.5 * work[400]
