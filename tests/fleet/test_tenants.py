"""A controller's fleets are the scheduler's tenants: told once each, again where nobody heard, and when they end."""

import asyncio

from pipeline.fleet.controller_actor import tell_tenants


class Looks:
    """The fleets under way at each look; the last look ends it."""

    def __init__(self, *fleets: dict[str, int]) -> None:
        self._left = list(fleets)

    def __call__(self) -> dict[str, int]:
        if not self._left:
            raise asyncio.CancelledError
        return self._left.pop(0)


def told(looks: Looks, deaf: int = 0) -> list[tuple[str, int | None]]:
    """What a scheduler is told that does not hear the first so many times."""
    asked: list[tuple[str, int | None]] = []

    async def tell(fleet: str, weight: int | None) -> bool:
        asked.append((fleet, weight))
        return len(asked) > deaf

    async def run() -> None:
        try:
            await tell_tenants(looks, tell, 0)
        except asyncio.CancelledError:
            return

    asyncio.run(run())
    return asked


def test_a_fleet_is_told_once_and_when_it_is_over() -> None:
    assert told(Looks({"a": 8}, {"a": 8}, {"a": 8, "b": 1}, {"b": 1}, {"b": 1})) == [("a", 8), ("b", 1), ("a", None)]


def test_what_nobody_heard_is_told_again() -> None:
    assert told(Looks({"a": 8}, {"a": 8}, {"a": 8}), deaf=1) == [("a", 8), ("a", 8)]


def test_a_fleet_that_ends_unheard_is_not_told_at_all_afterwards() -> None:
    assert told(Looks({"a": 8}, {}, {}), deaf=9) == [("a", 8)]
