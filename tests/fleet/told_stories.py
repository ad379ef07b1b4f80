"""Stories of one fleet of one to three machines, told to their end, and what can be read off them."""

from collections.abc import Callable

from pipeline.fleet.fleet_status import FleetStatus
from tests.fleet.fleet_specs import machine, spec_of
from tests.fleet.fleet_story import Story, Wish
from tests.fleet.fleet_world import Guest

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
