"""A fleet's migration in virtual time: the same admission as live, with durations that are estimates.

Every migration is admitted, set up, moves at the speed that `estimate` gives it beside all others that move at that
moment, and ends. When one begins or ends to move, the speeds of those that share something with it change. Where more
than ten share a thing their shares are adjusted for each tenth that comes or goes, so that the work for a fleet
grows with its migrations and not with their square.
"""

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.fleet.plan.admission import Admission
from pipeline.fleet.plan.estimate import NS_PER_S, Load, Shared
from pipeline.fleet.plan.limits import Limits


@dataclass(frozen=True, slots=True)
class Slot:
    """When one migration is expected to begin and to be over, ns from the start."""

    begins_ns: int
    ends_ns: int
    #: Why it waits at first; None where it begins at once.
    waits_for: str | None


@dataclass(frozen=True, slots=True)
class Schedule:
    """What is expected: migrations by id in the order in which they begin."""

    slots: Mapping[str, Slot]
    whole_ns: int
    most_at_once: int
    #: Lanes that admission looked at, and speeds that were computed: the work that it took.
    looks: int
    updates: int


@dataclass(slots=True, eq=False)
class _Moving:
    load: Load
    began_ns: int
    left_bytes: int
    progress: int = 0
    since_ns: int = 0
    #: Events of older speeds are out of date.
    version: int = 0
    moves: bool = False


class _Simulation:
    def __init__(self, loads: Sequence[Load], limits: Limits, served: Mapping[str, int]) -> None:
        self.loads = {load.request.id: load for load in loads}
        self.admission = Admission(limits, served)
        for load in loads:
            self.admission.add(load.request)
        self.now_ns = 0
        self.slots: dict[str, Slot] = {}
        self.reasons: dict[str, str] = {}
        self.running: dict[str, _Moving] = {}
        self.most_at_once = 0
        self.updates = 0
        self._events: list[tuple[int, int, int, str]] = []
        self._sequence = 0
        self._members: dict[Shared, dict[str, None]] = {}
        #: Users by which shares are computed.
        self._users: dict[Shared, int] = {}

    def run(self) -> Schedule:
        self._admit()
        self.reasons = self.admission.reasons()
        while self._events:
            at_ns, _, version, name = heapq.heappop(self._events)
            moving = self.running.get(name)
            if moving is None or moving.version != version:
                continue
            self.now_ns = at_ns
            if not moving.moves:
                self._begin_to_move(moving)
                continue
            self._end(moving)
            self._admit()
        return Schedule(self._ordered(), self.now_ns, self.most_at_once, self.admission.looks, self.updates)

    def _ordered(self) -> dict[str, Slot]:
        return dict(sorted(self.slots.items(), key=lambda item: item[1].begins_ns))

    def _admit(self) -> None:
        for request in self.admission.admit():
            load = self.loads[request.id]
            # Its place: what begins at the same time keeps the order of admission.
            self.slots[request.id] = Slot(self.now_ns, self.now_ns, self.reasons.get(request.id))
            self.running[request.id] = _Moving(load, self.now_ns, request.memory_bytes)
            self._push(self.now_ns + load.setup_ns, self.running[request.id])
        self.most_at_once = max(self.most_at_once, len(self.running))

    def _begin_to_move(self, moving: _Moving) -> None:
        moving.moves = True
        moving.since_ns = self.now_ns
        changed = {moving.load.request.id: moving}
        for shared, _ in moving.load.alone:
            self._members.setdefault(shared, {})[moving.load.request.id] = None
            changed |= self._changed(shared)
        self._update(changed)

    def _end(self, moving: _Moving) -> None:
        name = moving.load.request.id
        del self.running[name]
        changed: dict[str, _Moving] = {}
        for shared, _ in moving.load.alone:
            del self._members[shared][name]
            changed |= self._changed(shared)
        self._update(changed)
        slot = self.slots[name]
        self.slots[name] = Slot(slot.begins_ns, self.now_ns, slot.waits_for)
        self.admission.ended(name)

    def _changed(self, shared: Shared) -> dict[str, _Moving]:
        """Who has another share, now that somebody has come or gone."""
        members = self._members[shared]
        count, counted = len(members), self._users.get(shared, 0)
        if abs(count - counted) * 10 < counted:
            return {}
        self._users[shared] = count
        return {name: self.running[name] for name in members}

    def _update(self, changed: Mapping[str, _Moving]) -> None:
        for moving in changed.values():
            self.updates += 1
            moved = moving.progress * (self.now_ns - moving.since_ns) // NS_PER_S
            moving.left_bytes = max(0, moving.left_bytes - moved)
            moving.since_ns = self.now_ns
            moving.progress = moving.load.progress(moving.load.speed(self._users))
            moving.version += 1
            self._push(self.now_ns - (-moving.left_bytes * NS_PER_S // moving.progress), moving)

    def _push(self, at_ns: int, moving: _Moving) -> None:
        self._sequence += 1
        heapq.heappush(self._events, (at_ns, self._sequence, moving.version, moving.load.request.id))


def simulate(loads: Sequence[Load], limits: Limits, served: Mapping[str, int] | None = None) -> Schedule:
    """Run all of `loads` to their end in virtual time."""
    return _Simulation(loads, limits, served or {}).run()
