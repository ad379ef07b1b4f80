"""A controller is taken for dead after a time of silence in which it could have been heard."""

import asyncio

from pipeline.fleet.silence import Silence


class World:
    """A clock and a sleep that lasts as long as it is told, the last length for ever."""

    def __init__(self, *sleeps_s: float) -> None:
        self.now_s = 100.0
        self.slept = 0
        self._sleeps_s = sleeps_s
        self.silence = Silence(lambda: self.now_s, self._sleep)
        self.heard_after: set[int] = set()

    async def _sleep(self, _seconds: float) -> None:
        self.now_s += self._sleeps_s[min(self.slept, len(self._sleeps_s) - 1)]
        self.slept += 1
        if self.slept in self.heard_after:
            self.silence.heard()


def silent_for_s(world: World, limit_s: float) -> float:
    began_s = world.now_s
    asyncio.run(world.silence.lasts(limit_s))
    return world.now_s - began_s


def test_silence_lasts_its_limit_on_a_machine_with_time() -> None:
    assert silent_for_s(World(1.0), 15) == 15


def test_who_is_heard_begins_it_anew() -> None:
    world = World(1.0)
    world.heard_after = {10, 20}
    assert silent_for_s(world, 15) == 35


def test_time_in_which_the_process_did_not_run_hardly_counts() -> None:
    # Twenty seconds without a turn, then all is well.
    world = World(20.0, 1.0)
    assert silent_for_s(world, 15) > 15 + 18
