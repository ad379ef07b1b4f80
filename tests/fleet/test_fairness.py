"""Several fleets on one controller, for real: equal ones end together by the byte, an urgent one goes first."""

from collections.abc import Iterator
from itertools import pairwise

import pytest

from pipeline.fleet.events import Event
from tests.demo.running_guest import wait_until
from tests.fleet.live_pair import MIB
from tests.fleet.ray_head import ray_head
from tests.fleet.real_fleets import Images, RealCluster, event_problems, final_states, fleet_fields

pytestmark = [pytest.mark.ray, pytest.mark.long, pytest.mark.timeout(300)]

_SETTINGS = {
    "codec": "none",
    "bandwidthPerMigration": "2MB",
    "parallelMigrationsPerCluster": 4,
    "parallelOutboundMigrationsPerNode": 4,
    "parallelInboundMigrationsPerNode": 4,
}


@pytest.fixture(scope="module")
def cluster() -> Iterator[RealCluster]:
    with ray_head() as (address, home):
        yield RealCluster(address, home)


def begun_s(events: list[Event]) -> float:
    return min(event.time_ns for event in events if event.state == "Admitted") / 1e9


def ended_s(events: list[Event], fleet: str) -> float:
    return max(event.time_ns for event in events if event.fleet == fleet and event.state == "Succeeded") / 1e9


def test_two_fleets_submitted_together_end_within_a_tenth_of_each_other_by_the_byte(cluster: RealCluster) -> None:
    sets = {"red": Images(cluster.home / "red", 1), "blue": Images(cluster.home / "blue", 2)}
    sizes = {"red": 4 * MIB, "blue": 8 * MIB}
    whole = 192 * MIB
    fleets = [
        fleet_fields(name, images.add(whole // sizes[name], sizes[name]), **_SETTINGS) for name, images in sets.items()
    ]
    cluster.submit_together(*fleets)
    for name in sets:
        cluster.attach(name)
    events = cluster.events(*sets)
    assert set(final_states(events).values()) == {"Succeeded"}
    assert event_problems(events, *fleets) == []
    for images in sets.values():
        assert images.problems(final_states(events)) == []
    # Both have as many bytes, so seconds compare as seconds by the byte do.
    red, blue = (ended_s(events, name) - begun_s(events) for name in sets)
    assert 0.9 <= red / blue <= 1.1
    # And at no time did one get ahead by more than the largest machine, from when both were there until one had begun.
    both = max(n for n, event in enumerate(events) if event.state == "Submitted")
    begun = {"red": 0, "blue": 0}
    for event in events[both:]:
        if event.state == "Admitted":
            begun[event.fleet] += sizes[event.fleet]
            assert abs(begun["red"] - begun["blue"]) <= max(sizes.values()) or max(begun.values()) > 0.9 * whole


def test_an_urgent_fleet_begins_with_the_next_free_place_and_has_them_all_until_its_last_has_begun(
    cluster: RealCluster,
) -> None:
    calm, urgent = Images(cluster.home / "calm", 3), Images(cluster.home / "urgent", 4)
    fleets = [
        fleet_fields("calm", calm.add(60, 4 * MIB), **_SETTINGS),
        fleet_fields("urgent", urgent.add(6, 4 * MIB), priority="system-critical", **_SETTINGS),
    ]
    cluster.submit(fleets[0])
    wait_until(lambda: "Succeeded" in {each["state"] for each in cluster.status("calm").values()}, "it moves", 100)
    cluster.submit(fleets[1])
    for name in ("calm", "urgent"):
        cluster.attach(name)
    events = cluster.events("calm", "urgent")
    assert set(final_states(events).values()) == {"Succeeded"}
    assert event_problems(events, *fleets) + calm.problems(final_states(events)) == []
    submitted = next(n for n, event in enumerate(events) if (event.fleet, event.state) == ("urgent", "Submitted"))
    admitted = [n for n, event in enumerate(events) if (event.fleet, event.state) == ("urgent", "Admitted")]
    waiting = events[submitted : admitted[0]]
    assert sum(event.state == "Succeeded" for event in waiting) <= 1
    between = [event.fleet for event in events[submitted : admitted[-1]] if event.state == "Admitted"]
    assert between == ["urgent"] * (len(admitted) - 1)
    # Or nothing of the other fleet was left to be held back.
    assert any(event.fleet == "calm" and event.state == "Admitted" for event in events[admitted[-1] :])
    assert all(first.sequence < second.sequence for first, second in pairwise(events))
