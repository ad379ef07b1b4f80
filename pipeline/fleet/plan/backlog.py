"""Everything that waits, so arranged that a decision looks at few of it.

Requests of one fleet, priority and path (`occupancy.Path`) make a lane: only its best one need be looked at. A lane is
in one of two places: among its group's ready lanes, in order; or parked at the first need that was not met, in order,
too. The rule that makes this exact: while a need has room, the best lane parked at it is among the ready ones. So

* when a migration ends, each resource that it frees wakes the best lane of every group parked there, and no other;
* a lane that was woken and is dealt with (its head begins, or it parks elsewhere) wakes the next one if there is room.

The outcome is that of looking at all requests in order for every admission (tests/fleet/plan compare the two). Looking
at a lane costs O(log lanes); a few are looked at for each migration (7 with 50 hosts that all send to all).
"""

import heapq
from collections.abc import Iterator
from dataclasses import dataclass, field

from pipeline.fleet.plan.occupancy import Need, Occupancy, Path, Resource
from pipeline.fleet.plan.requests import Request

#: The order within a fleet: deadline, size, submission, id.
Rank = tuple[float, int, int, str]


def rank(request: Request) -> Rank:
    """The earliest deadline goes first, then the largest: what begins last should be short."""
    deadline = float("inf") if request.deadline_ns is None else request.deadline_ns
    return deadline, -request.memory_bytes, request.submitted, request.id


@dataclass(slots=True, eq=False)
class Lane:
    """Requests that differ in rank only."""

    path: Path
    requests: list[tuple[Rank, Request]] = field(default_factory=list)
    #: Where it stands, as an entry of one heap; another entry of it is out of date.
    entry: tuple[Rank, int] | None = None
    #: The need that it was woken for; whoever deals with it wakes the next.
    woken_for: Need | None = None
    parked_at: Need | None = None


Heap = list[tuple[Rank, int, Lane]]


class Group:
    """The lanes of one fleet's requests of one priority."""

    def __init__(self) -> None:
        self._lanes: dict[Path, Lane] = {}
        self._ready: Heap = []
        self._parked: dict[Need, Heap] = {}
        self._entries = 0
        #: Requests that wait.
        self.size = 0

    def add(self, request: Request, path: Path) -> None:
        """A request waits."""
        lane = self._lanes.get(path)
        if lane is None:
            lane = self._lanes[path] = Lane(path)
        heapq.heappush(lane.requests, (rank(request), request))
        self.size += 1
        if lane.requests[0][1] is request:
            # A new head stands elsewhere in the order.
            if lane.parked_at is not None:
                self._place(lane, self._parked[lane.parked_at])
            else:
                self._place(lane, self._ready)

    def first(self) -> Lane | None:
        """The best of the ready lanes; it stays where it is."""
        return self._top(self._ready)

    def take(self, lane: Lane) -> Request:
        """The head of the first ready lane; the rest of it is ready still."""
        heapq.heappop(self._ready)
        _, request = heapq.heappop(lane.requests)
        self.size -= 1
        if lane.requests:
            self._place(lane, self._ready)
        else:
            lane.entry = None
        return request

    def park(self, lane: Lane, need: Need) -> None:
        """Put the first ready lane aside until `need` has room."""
        heapq.heappop(self._ready)
        lane.parked_at = need
        self._place(lane, self._parked.setdefault(need, []))

    def wake(self, need: Need) -> bool:
        """Make the best lane that is parked at `need` ready; whether there was one."""
        heap = self._parked.get(need)
        lane = self._top(heap) if heap else None
        if heap is None or lane is None:
            self._parked.pop(need, None)
            return False
        heapq.heappop(heap)
        lane.parked_at, lane.woken_for = None, need
        self._place(lane, self._ready)
        return True

    def waiting(self) -> Iterator[tuple[Path, Request]]:
        """All requests."""
        for path, lane in self._lanes.items():
            for _, request in lane.requests:
                yield path, request

    def _place(self, lane: Lane, heap: Heap) -> None:
        self._entries += 1
        lane.entry = lane.requests[0][0], self._entries
        heapq.heappush(heap, (*lane.entry, lane))

    def _top(self, heap: Heap) -> Lane | None:
        while heap:
            *entry, lane = heap[0]
            if lane.entry == tuple(entry):
                return lane
            heapq.heappop(heap)
        return None


class Backlog:
    """The groups of all fleets and priorities, and which of them are parked where."""

    def __init__(self, occupancy: Occupancy) -> None:
        self._occupancy = occupancy
        self.groups: dict[int, dict[str, Group]] = {}
        self._parked: dict[Resource, dict[Need, dict[Group, None]]] = {}

    def add(self, request: Request, path: Path) -> None:
        """A request waits."""
        fleets = self.groups.setdefault(request.priority, {})
        group = fleets.get(request.fleet)
        if group is None:
            group = fleets[request.fleet] = Group()
        group.add(request, path)

    def park(self, group: Group, lane: Lane, need: Need) -> None:
        """The first ready lane of the group has to wait for `need`."""
        group.park(lane, need)
        self._parked.setdefault(need.resource, {}).setdefault(need, {})[group] = None

    def dealt_with(self, group: Group, lane: Lane) -> None:
        """What a lane was woken for may have room for the next one."""
        need, lane.woken_for = lane.woken_for, None
        if need is not None and lane.parked_at != need and self._occupancy.has_room(need):
            group.wake(need)

    def freed(self, path: Path) -> None:
        """A migration of this path has ended."""
        for resource, _ in self._occupancy.needs(path):
            parked = self._parked.get(resource)
            for need in list(parked or ()):
                if not self._occupancy.has_room(need):
                    continue
                for group in list(parked[need]) if parked else ():
                    if not group.wake(need) and parked:
                        del parked[need][group]
                if parked and not parked[need]:
                    del parked[need]
