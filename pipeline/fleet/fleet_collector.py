"""A controller's figures: fleets under way as samples, and a look at them once a second for what a snapshot lacks.

`FleetWatch.run` is the look, on the controller's loop: it reads new events, and remembers how far each fleet was in
the last minute. A scrape reads what the last look left, so it neither waits for the loop nor keeps it.
"""

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import Protocol

from pipeline.fleet.events import Event
from pipeline.fleet.fleet_statistics import FleetFacts, MigrationFacts
from pipeline.fleet.lifecycle import FINAL, UNDER_WAY, State
from pipeline.fleet.migration_tally import MigrationTally
from pipeline.fleet.results import MigrationResult
from pipeline.metrics import (
    FLEET_BYTES,
    FLEET_ETA,
    FLEET_LONGEST_WAIT,
    FLEET_MIGRATIONS,
    FLEET_MOVED,
    FLEET_PROGRESS,
    FLEET_SUBMITTED,
    FLEET_WEIGHT,
    FLEETS,
    IN_PENDING,
    IN_PHASE,
    IN_RUNNING,
    IN_SCHEDULING,
    VM_PHASE,
)
from scheduler.core.units import NS_PER_S
from scheduler.readings import Readings

LOOK_S = 1.0
#: What a fleet's pace is measured over, at most and at least.
_PACE_LOOKS = 60
_LEAST_PACE_S = 3.0
#: KubeVirt's phases in the words of ours.
_KUBEVIRT = (
    (IN_PENDING, frozenset((State.PENDING, State.PAUSED))),
    (IN_SCHEDULING, frozenset((State.ADMITTED, State.PREPARING))),
    (IN_RUNNING, frozenset((State.RUNNING, State.SWITCHOVER, State.VERIFYING))),
)


class Watched(Protocol):
    """What is looked at: `controller.Controller`."""

    def statistics(self) -> list[FleetFacts]:
        """The fleets under way."""

    def last_event(self) -> int:
        """The newest event."""

    def events(self, fleet_id: str | None = None, after: int = 0) -> list[Event]:
        """Events after that one, only so many."""

    def results(self, fleet_id: str) -> Sequence[MigrationResult]:
        """Of migrations that have ended."""


class FleetWatch:
    """A part of an `Exposition`; `begin`, then `run`. `clock` is that of events, nanoseconds since 1970."""

    def __init__(self, watched: Watched, clock: Callable[[], int]) -> None:
        self.tally = MigrationTally()
        self._watched = watched
        self._clock = clock
        self._after = 0
        self._fleets: list[FleetFacts] = []
        #: By fleet: when it was looked at, and what it had moved by then.
        self._paces: dict[str, deque[tuple[int, int]]] = {}

    async def begin(self) -> None:
        """Learn what was before, so that only what comes is counted."""
        self._after = self._watched.last_event()
        for fleet in self._watched.statistics():
            after = 0
            while after < self._after and (events := self._watched.events(fleet.fleet, after)):
                self.tally.learn(event for event in events if event.sequence <= self._after)
                after = events[-1].sequence
                await asyncio.sleep(0)

    async def run(self) -> None:
        """Look, for ever."""
        while True:
            await self.look()
            await asyncio.sleep(LOOK_S)

    async def look(self) -> None:
        """Count what is new."""
        while events := self._watched.events(None, self._after):
            self._after = events[-1].sequence
            for name, vms in self.tally.count(events).items():
                for result in self._watched.results(name):
                    if result.vm in vms:
                        self.tally.result(result)
            await asyncio.sleep(0)
        fleets = self._watched.statistics()
        names = [fleet.fleet for fleet in fleets]
        self.tally.forget_all_but(names)
        self._paces = {name: self._paces.get(name) or deque(maxlen=_PACE_LOOKS) for name in names}
        now_ns = self._clock()
        for fleet in fleets:
            self._paces[fleet.fleet].append((now_ns, _moved(fleet)))
        self._fleets = fleets

    def __call__(self, readings: Readings) -> None:
        fleets = self._fleets
        states = Counter("Paused" if fleet.paused else "Active" for fleet in fleets)
        for state in ("Active", "Paused"):
            readings.put(FLEETS, states[state], state)
        for fleet in fleets:
            self._fleet(readings, fleet)

    def _fleet(self, readings: Readings, fleet: FleetFacts) -> None:
        name, phases = fleet.fleet, Counter(each.state for each in fleet.migrations)
        for state in State:
            readings.put(IN_PHASE, phases[state], name, state)
        for metric, states in _KUBEVIRT:
            readings.put(metric, sum(phases[state] for state in states), name)
        total, moved = sum(each.memory_bytes for each in fleet.migrations), _moved(fleet)
        ended = sum(phases[state] for state in FINAL)
        readings.put(FLEET_MIGRATIONS, len(fleet.migrations), name)
        readings.put(FLEET_BYTES, total, name)
        readings.put(FLEET_MOVED, moved, name)
        readings.put(FLEET_PROGRESS, moved / total if total else ended / len(fleet.migrations), name)
        readings.put(FLEET_SUBMITTED, fleet.submitted_ns / NS_PER_S, name)
        readings.put(FLEET_WEIGHT, fleet.weight, name)
        readings.put(FLEET_LONGEST_WAIT, self._longest_wait_s(fleet), name)
        if (rate_bytes_s := self._pace_bytes_s(name)) > 0:
            readings.put(FLEET_ETA, (total - moved) / rate_bytes_s, name)
        for each in fleet.migrations:
            if each.state in UNDER_WAY:
                readings.put(VM_PHASE, 1, name, each.vm, each.state, each.kind, each.source, each.destination)

    def _longest_wait_s(self, fleet: FleetFacts) -> float:
        now_ns = self._clock()
        since = (self._since_ns(fleet, each) for each in fleet.migrations if each.state is State.PENDING)
        return max(0, now_ns - min(since, default=now_ns)) / NS_PER_S

    def _since_ns(self, fleet: FleetFacts, each: MigrationFacts) -> int:
        since_ns = self.tally.waiting_since_ns(fleet.fleet, each.vm)
        return fleet.submitted_ns if since_ns is None else since_ns

    def _pace_bytes_s(self, fleet: str) -> float:
        looks = list(self._paces.get(fleet, ()))
        if len(looks) < 2:
            return 0.0
        (began_ns, before), (now_ns, now) = looks[0], looks[-1]
        took_s = (now_ns - began_ns) / NS_PER_S
        return (now - before) / took_s if took_s >= _LEAST_PACE_S else 0.0


def _moved(fleet: FleetFacts) -> int:
    return sum(each.moved_bytes for each in fleet.migrations)
