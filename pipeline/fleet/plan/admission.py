"""Who may begin now: every limit at once, strict priority, and fairness between fleets by the byte.

The rules, in this order:

* A migration begins only if all that it needs is free: a place in the cluster, one at its source and one at its
  destination, its bandwidth on both links, a place in each accelerator pool.
* Nothing begins while something of higher priority waits, even at other hosts. Only what waits for a pool that has
  stopped admission holds nobody back.
* Of one priority the fleet that has had the least goes first: (served + its running migrations') bytes / weight.
  A migration is charged when it begins, so two fleets that could both go on are never farther apart than the larger of
  their migrations (by weight).
* Of one fleet: the earliest deadline, then the largest (what begins last should be short), then by submission and id.
"""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from pipeline.fleet.plan.limits import Limits
from pipeline.fleet.plan.requests import Request


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
    """Decide for all of `waiting`. `served`: bytes done so far per fleet, without those of `running`."""
    used = _Used(limits, stopped_pools)
    charged = dict(served)
    for request in running:
        used.add(request)
        charged[request.fleet] = charged.get(request.fleet, 0) + request.memory_bytes
    under_way = {request.id for request in running}
    left = {request.id: request for request in waiting if request.id not in under_way}
    admitted: list[str] = []
    while left:
        top = max((r.priority for r in left.values() if not stopped_pools & set(r.pools)), default=None)
        free = [r for r in left.values() if r.priority == top and used.obstacle(r) is None]
        if not free:
            break
        chosen = min(free, key=lambda r: (charged.get(r.fleet, 0) / r.weight, _order(r)))
        del left[chosen.id]
        used.add(chosen)
        charged[chosen.fleet] = charged.get(chosen.fleet, 0) + chosen.memory_bytes
        admitted.append(chosen.id)
    behind = max((r.priority for r in left.values() if not stopped_pools & set(r.pools)), default=0)
    return Decision(
        tuple(admitted),
        {r.id: used.obstacle(r) or f"behind migrations of priority {behind}" for r in left.values()},
    )


def _order(request: Request) -> tuple[float, int, int, str]:
    deadline = float("inf") if request.deadline_ns is None else request.deadline_ns
    return deadline, -request.memory_bytes, request.submitted, request.id


class _Used:
    def __init__(self, limits: Limits, stopped_pools: AbstractSet[str]) -> None:
        self.limits = limits
        self.stopped_pools = stopped_pools
        self.running = 0
        self.outbound: dict[str, int] = {}
        self.inbound: dict[str, int] = {}

    def add(self, request: Request) -> None:
        self.running += 1
        self.outbound[request.source] = self.outbound.get(request.source, 0) + 1
        self.inbound[request.destination] = self.inbound.get(request.destination, 0) + 1

    def obstacle(self, request: Request) -> str | None:
        outbound, inbound = self.outbound.get(request.source, 0), self.inbound.get(request.destination, 0)
        if outbound >= (most := self.limits.outbound_of(request.source)):
            return f"{outbound}/{most} outbound on {request.source}"
        if inbound >= (most := self.limits.inbound_of(request.destination)):
            return f"{inbound}/{most} inbound on {request.destination}"
        if stopped := sorted(self.stopped_pools & set(request.pools)):
            return f"{stopped[0]} is overloaded"
        if self.running >= self.limits.cluster:
            return f"{self.running}/{self.limits.cluster} in the cluster"
        return None
