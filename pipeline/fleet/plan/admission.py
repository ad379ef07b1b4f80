"""Who may begin now: every limit at once, strict priority, and fairness between fleets by the byte.

The rules, in this order:

* A migration begins only if all that it needs is free: a place in the cluster, one at its source and one at its
  destination, its bandwidth on both links, a place in each accelerator pool (`occupancy`).
* Nothing begins while something of higher priority waits, even at other hosts. Only what waits for a pool that has
  stopped admission holds nobody back.
* Of one priority the fleet that has had the least goes first: (served + its running migrations') bytes / weight.
  A migration is charged when it begins, so two fleets that could both go on are never farther apart than the larger of
  their migrations (by weight). A fleet that cannot go on does not keep the others waiting.
* Of one fleet: the earliest deadline, then the largest (what begins last should be short), then by submission and id.

`served` begins at zero for the first fleets only. One that comes later would otherwise have everything until it has had
as much as those that have worked for hours: give it `head_start`.
"""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from pipeline.fleet.plan.backlog import Backlog, Group, Lane, Rank
from pipeline.fleet.plan.limits import Limits
from pipeline.fleet.plan.occupancy import Occupancy, Path, path_of
from pipeline.fleet.plan.requests import Request

#: Bytes per weight are whole numbers of this part of a byte.
_PART = 1 << 20


@dataclass(frozen=True, slots=True)
class Decision:
    """What may begin, in order, and why the others may not."""

    admitted: tuple[str, ...]
    #: Reason by id, e.g. "2/2 outbound on host-a".
    waiting: Mapping[str, str]


def admit(
    waiting: Sequence[Request],
    running: Sequence[Request],
    limits: Limits,
    served: Mapping[str, int],
    stopped_pools: AbstractSet[str] = frozenset(),
) -> Decision:
    """Decide for all of `waiting`. `served`: bytes done so far per fleet, without those of `running`.

    What is in both lists runs, and what is in one of them twice is there once.
    """
    admission = Admission(limits, served, stopped_pools)
    for request in running:
        admission.began(request)
    for request in waiting:
        admission.add(request)
    admitted = tuple(request.id for request in admission.admit())
    return Decision(admitted, admission.reasons())


def head_start(served: Mapping[str, int], weights: Mapping[str, int], weight: int) -> int:
    """What a fleet of `weight` that joins now counts as served: by weight, as little as any fleet with work left has.

    `weights` names the fleets with work left; without any it is nothing.
    """
    return min((served.get(fleet, 0) * weight // other for fleet, other in weights.items()), default=0)


class Admission:
    """The same decisions, one after the other, at a cost that does not grow with what waits (`backlog`)."""

    def __init__(
        self, limits: Limits, served: Mapping[str, int], stopped_pools: AbstractSet[str] = frozenset()
    ) -> None:
        self._used = Occupancy(limits, stopped_pools)
        self._backlog = Backlog(self._used)
        self._charged = dict(served)
        self._running: dict[str, tuple[Request, Path]] = {}
        self._known: set[str] = set()
        #: What waits for a pool that has stopped admission.
        self._held: list[tuple[Request, str]] = []
        #: Lanes looked at so far.
        self.looks = 0

    def began(self, request: Request) -> None:
        """It runs already, or from now on."""
        if request.id in self._running:
            return
        path = path_of(request)
        self._known.add(request.id)
        self._running[request.id] = request, path
        self._used.begin(path)
        self._charged[request.fleet] = self._charged.get(request.fleet, 0) + request.memory_bytes

    def add(self, request: Request) -> None:
        """It waits, unless it is known already."""
        if request.id in self._known:
            return
        self._known.add(request.id)
        path = path_of(request)
        if pool := self._used.stopped(path):
            self._held.append((request, f"{pool} is overloaded"))
        else:
            self._backlog.add(request, path)

    def ended(self, request_id: str) -> None:
        """It runs no more, and what it was charged stays charged. KeyError where it did not run."""
        _, path = self._running.pop(request_id)
        self._used.end(path)
        self._backlog.freed(path)

    def admit(self) -> list[Request]:
        """What may begin now, in order; it runs from here on."""
        admitted: list[Request] = []
        while not self._used.is_full and (found := self._next()) is not None:
            group, lane = found
            self.looks += 1
            need = self._used.obstacle(lane.path)
            if need is None:
                request = group.take(lane)
                self.began(request)
                admitted.append(request)
            else:
                self._backlog.park(group, lane, need)
            self._backlog.dealt_with(group, lane)
        return admitted

    def reasons(self) -> dict[str, str]:
        """Why each request that waits does."""
        top = self._top_priority()
        found = {request.id: reason for request, reason in self._held}
        for priority, fleets in self._backlog.groups.items():
            for group in fleets.values():
                for path, request in group.waiting():
                    found[request.id] = self._reason(path, priority, top)
        return found

    def _reason(self, path: Path, priority: int, top: int | None) -> str:
        if need := self._used.obstacle(path):
            return self._used.reason(need)
        if top is not None and priority < top:
            count = sum(group.size for group in self._backlog.groups[top].values())
            return f"behind {count} of priority {top}"
        return f"{self._used.running}/{self._used.limits.cluster} in the cluster"

    def _top_priority(self) -> int | None:
        busy = (
            priority
            for priority, fleets in self._backlog.groups.items()
            if any(group.size for group in fleets.values())
        )
        return max(busy, default=None)

    def _next(self) -> tuple[Group, Lane] | None:
        top = self._top_priority()
        if top is None:
            return None
        ready = [(group, lane) for group in self._backlog.groups[top].values() if (lane := group.first())]
        return min(ready, key=self._turn, default=None)

    def _turn(self, found: tuple[Group, Lane]) -> tuple[int, Rank]:
        rank, request = found[1].requests[0]
        return self._charged.get(request.fleet, 0) * _PART // request.weight, rank
