"""What has become of migrations, counted as it happens: from a controller's events, and the results they tell of.

The rule: an event is counted once, by its sequence; events of before this process are not counted again, only read to
know since when each migration of a fleet under way has been in its phase. Times are those of the events, so that how
often they are read changes nothing. What a fleet's machine is called is forgotten with the fleet.

Series are there with 0 before their first event, or rate() and increase() would not see it: those of phases from the
beginning, those of a fleet's outcomes from its submission.
"""

import bisect
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from pipeline.fleet.events import Event
from pipeline.fleet.lifecycle import FINAL, State
from pipeline.fleet.results import MigrationResult
from pipeline.metrics import (
    DOWNTIME,
    DURATION,
    FINISHED,
    FROM_CREATION,
    MIGRATED_BYTES,
    MIGRATED_WIRE_BYTES,
    PHASE_DURATION,
    PHASE_TRANSITIONS,
    QEMU_DOWNTIME,
    QUEUE_WAIT,
    RETRIES,
    ROUNDS,
    TICKET_WAIT,
)
from scheduler.core.units import NS_PER_S
from scheduler.metric import OTHER, Metric
from scheduler.readings import Readings

#: So many fleets have an outcome of their own.
MOST_NAMED = 20
_MS_PER_S = 1000
_STATES = frozenset(State)


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a migration is, and since when."""

    state: State
    since_ns: int
    submitted_ns: int
    #: Whether it has had a slot.
    begun: bool = False


class Distribution:
    """One histogram, without labels or with one, whose values are `known`: it is there before anything is counted."""

    def __init__(self, metric: Metric, known: Iterable[str] = ()) -> None:
        self._metric = metric
        self._counts: dict[tuple[str, ...], list[int]] = {}
        self._totals: dict[tuple[str, ...], float] = {}
        for labels in [(value,) for value in known] if metric.labels else [()]:
            self._counts[labels] = [0] * (len(metric.buckets) + 1)

    def see(self, value: float, *labels: str) -> None:
        """Count one."""
        counts = self._counts[labels]
        counts[bisect.bisect_left(self._metric.buckets, value)] += 1
        self._totals[labels] = self._totals.get(labels, 0.0) + value

    def put(self, readings: Readings) -> None:
        """Its series."""
        for labels, counts in list(self._counts.items()):
            readings.put_distribution(self._metric, list(counts), self._totals.get(labels, 0.0), *labels)


class MigrationTally:
    """A part of an `Exposition`; fed on the controller's loop, read by scrapes."""

    def __init__(self) -> None:
        self._places: dict[tuple[str, str], _Place] = {}
        self._submitted_ns: dict[str, int] = {}
        self._outcomes: Counter[tuple[str, str]] = Counter()
        self._named: set[str] = set()
        self._transitions: Counter[str] = Counter(dict.fromkeys(State, 0))
        self._retries = 0
        self._raw_bytes = self._wire_bytes = 0
        self._from_creation = Distribution(FROM_CREATION, State)
        self._durations = Distribution(PHASE_DURATION, (state for state in State if state not in FINAL))
        self._queue_wait = Distribution(QUEUE_WAIT)
        self._of_results = {
            metric: Distribution(metric) for metric in (DURATION, DOWNTIME, QEMU_DOWNTIME, TICKET_WAIT, ROUNDS)
        }

    def learn(self, events: Iterable[Event]) -> None:
        """Events of before: nothing is counted."""
        for event in events:
            self._follow(event)

    def count(self, events: Iterable[Event]) -> dict[str, set[str]]:
        """New events, oldest first. By fleet, the machines that have succeeded: their results are to be told now."""
        succeeded: dict[str, set[str]] = {}
        for event in events:
            if (step := self._follow(event)) is None:
                continue
            before, now = step
            self._step(event.fleet, before, now)
            if now.state is State.SUCCEEDED:
                succeeded.setdefault(event.fleet, set()).add(event.vm)
        return succeeded

    def result(self, result: MigrationResult) -> None:
        """A migration has succeeded; to be told once."""
        for metric, value, scale in (
            (DURATION, result.total_ms, _MS_PER_S),
            (DOWNTIME, result.downtime_ms, _MS_PER_S),
            (QEMU_DOWNTIME, result.qemu_downtime_ms, _MS_PER_S),
            (TICKET_WAIT, result.ticket_wait_ms, _MS_PER_S),
            (ROUNDS, result.rounds, 1),
        ):
            if value is not None:
                self._of_results[metric].see(value / scale)
        self._raw_bytes += result.raw_bytes
        self._wire_bytes += result.wire_bytes

    def waiting_since_ns(self, fleet: str, vm: str) -> int | None:
        """Since when a migration has been pending; None where nothing was heard of it but that its fleet is there."""
        place = self._places.get((fleet, vm))
        return place.since_ns if place is not None and place.state is State.PENDING else None

    def forget_all_but(self, fleets: Iterable[str]) -> None:
        """These are under way; the machines of others need not be remembered."""
        there = set(fleets)
        self._places = {key: place for key, place in self._places.items() if key[0] in there}
        self._submitted_ns = {fleet: at for fleet, at in self._submitted_ns.items() if fleet in there}

    def __call__(self, readings: Readings) -> None:
        for (fleet, outcome), count in sorted(self._outcomes.items()):
            readings.put(FINISHED, count, fleet, outcome)
        for phase, count in sorted(self._transitions.items()):
            readings.put(PHASE_TRANSITIONS, count, phase)
        readings.put(RETRIES, self._retries)
        readings.put(MIGRATED_BYTES, self._raw_bytes)
        readings.put(MIGRATED_WIRE_BYTES, self._wire_bytes)
        for each in (self._from_creation, self._durations, self._queue_wait, *self._of_results.values()):
            each.put(readings)

    def _follow(self, event: Event) -> tuple[_Place, _Place] | None:
        """Where the migration of an event was and is from then on; None where the event changes nothing of that."""
        if not event.vm:
            self._submitted_ns.setdefault(event.fleet, event.time_ns)
            for state in FINAL:
                self._outcomes[self._name(event.fleet), state.lower()] += 0
            return None
        submitted_ns = self._submitted_ns.get(event.fleet, event.time_ns)
        # That a machine is pending from its fleet's submission on is no event of its own.
        before = self._places.get((event.fleet, event.vm)) or _Place(State.PENDING, submitted_ns, submitted_ns)
        if event.state not in _STATES or before.state == event.state:
            return None
        begun = before.begun or before.state is State.ADMITTED
        now = _Place(State(event.state), event.time_ns, submitted_ns, begun)
        self._places[event.fleet, event.vm] = now
        return before, now

    def _step(self, fleet: str, before: _Place, now: _Place) -> None:
        self._transitions[now.state] += 1
        since_submitted_s = _seconds(now.since_ns - now.submitted_ns)
        self._from_creation.see(since_submitted_s, now.state)
        self._durations.see(_seconds(now.since_ns - before.since_ns), before.state)
        if now.state is State.ADMITTED and not now.begun:
            self._queue_wait.see(since_submitted_s)
        if now.state is State.PENDING and before.state is not State.PAUSED:
            self._retries += 1
        if now.state in FINAL:
            self._outcomes[self._name(fleet), now.state.lower()] += 1

    def _name(self, fleet: str) -> str:
        if len(self._named) < MOST_NAMED:
            self._named.add(fleet)
        return fleet if fleet in self._named else OTHER


def _seconds(ns: int) -> float:
    return max(0, ns) / NS_PER_S
