"""What running migrations take of every limit, and which limit stands in another's way.

Links are promised, not measured: a migration takes its bandwidth cap of both links, one without a cap an equal part
(capacity / migrations allowed there), and none more than there is. So the promises on a link never exceed it, in each
direction.
"""

from collections import Counter
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from enum import Enum
from typing import NamedTuple

from pipeline.fleet.plan.limits import Limits
from pipeline.fleet.plan.requests import Request


class Kind(Enum):
    """What may be used up."""

    OUTBOUND = "outbound"
    INBOUND = "inbound"
    LINK_OUT = "link out"
    LINK_IN = "link in"
    POOL = "pool"


class Resource(NamedTuple):
    """One thing that may be used up; `name` is a host or a pool."""

    kind: Kind
    name: str


class Need(NamedTuple):
    """How much of a resource something takes: a place, or bytes per second."""

    resource: Resource
    amount: int


class Path(NamedTuple):
    """All of a request that decides what it needs; requests of one path are admitted in their own order."""

    source: str
    destination: str
    rate_bytes_s: int | None
    pools: tuple[str, ...]


def path_of(request: Request) -> Path:
    """The path of a request."""
    return Path(request.source, request.destination, request.rate_bytes_s, request.pools)


class Occupancy:
    """How much of each limit is taken."""

    def __init__(self, limits: Limits, stopped_pools: AbstractSet[str]) -> None:
        self.limits = limits
        self.stopped_pools = stopped_pools
        self.running = 0
        self._used: Counter[Resource] = Counter()
        self._needs: dict[Path, tuple[Need, ...]] = {}

    def needs(self, path: Path) -> tuple[Need, ...]:
        """What a migration of this path takes, besides its place in the cluster."""
        needs = self._needs.get(path)
        if needs is None:
            needs = self._needs[path] = tuple(self._all_needs(path))
        return needs

    def begin(self, path: Path) -> None:
        """A migration of this path runs."""
        self.running += 1
        for resource, amount in self.needs(path):
            self._used[resource] += amount

    def end(self, path: Path) -> None:
        """One of this path runs no more."""
        self.running -= 1
        for resource, amount in self.needs(path):
            self._used[resource] -= amount

    def has_room(self, need: Need) -> bool:
        """Whether so much of the resource is left."""
        return self._used[need.resource] + need.amount <= self._limit(need.resource)

    def obstacle(self, path: Path) -> Need | None:
        """The first need that is not met."""
        for need in self.needs(path):
            if not self.has_room(need):
                return need
        return None

    def stopped(self, path: Path) -> str | None:
        """A pool that it would use and that admits nobody now."""
        return min((pool for pool in path.pools if pool in self.stopped_pools), default=None)

    @property
    def is_full(self) -> bool:
        """No place is left in the cluster."""
        return self.running >= self.limits.cluster

    def reason(self, need: Need) -> str:
        """Why an unmet need is one, e.g. "2/2 outbound on host-a"."""
        (kind, name), amount = need
        used, limit = self._used[need.resource], self._limit(need.resource)
        if kind in (Kind.LINK_OUT, Kind.LINK_IN):
            taken = f"{used / 1e6:.4g} of {limit / 1e6:.4g} MB/s"
            return f"{taken} promised {kind.value.removeprefix('link ')} on {name}, wants {amount / 1e6:.4g}"
        return f"{used}/{limit} {'flows' if kind is Kind.POOL else kind.value} on {name}"

    def _limit(self, resource: Resource) -> int:
        match resource.kind:
            case Kind.OUTBOUND:
                return self.limits.outbound_of(resource.name)
            case Kind.INBOUND:
                return self.limits.inbound_of(resource.name)
            case Kind.POOL:
                return self.limits.pool_flows[resource.name]
            case Kind.LINK_OUT | Kind.LINK_IN:
                return self.limits.link_bytes_s[resource.name]

    def _all_needs(self, path: Path) -> Iterator[Need]:
        limits = self.limits
        yield Need(Resource(Kind.OUTBOUND, path.source), 1)
        yield Need(Resource(Kind.INBOUND, path.destination), 1)
        ends = (
            (Kind.LINK_OUT, path.source, limits.outbound_of(path.source)),
            (Kind.LINK_IN, path.destination, limits.inbound_of(path.destination)),
        )
        for kind, host, most in ends:
            if (capacity := limits.link_bytes_s.get(host)) is not None:
                yield Need(Resource(kind, host), min(path.rate_bytes_s or capacity // most, capacity))
        for pool in dict.fromkeys(path.pools):
            if pool in limits.pool_flows:
                yield Need(Resource(Kind.POOL, pool), 1)
