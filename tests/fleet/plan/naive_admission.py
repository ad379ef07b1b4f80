"""The rules of admission read aloud: all of `waiting` is looked at for each that begins."""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet

from pipeline.fleet.plan.limits import Limits
from pipeline.fleet.plan.requests import Request


def promised(request: Request, limits: Limits, host: str, most: int) -> int:
    capacity = limits.link_bytes_s[host]
    return min(request.rate_bytes_s or capacity // most, capacity)


def fits(request: Request, running: Sequence[Request], limits: Limits) -> bool:
    """Whether every limit still holds with `request` beside `running`."""
    return excess([*running, request], limits) == set()


def excess(running: Sequence[Request], limits: Limits) -> set[str]:
    """The limits that `running` exceeds."""
    found = {"cluster"} if len(running) > limits.cluster else set()
    for host in {name for request in running for name in (request.source, request.destination)}:
        out = [request for request in running if request.source == host]
        into = [request for request in running if request.destination == host]
        for way, there, most in (("out", out, limits.outbound_of(host)), ("in", into, limits.inbound_of(host))):
            if len(there) > most:
                found.add(f"{way} {host}")
            if host in limits.link_bytes_s:
                total = sum(promised(request, limits, host, most) for request in there)
                if total > limits.link_bytes_s[host]:
                    found.add(f"link {way} {host}")
    for pool, flows in limits.pool_flows.items():
        if sum(pool in request.pools for request in running) > flows:
            found.add(f"pool {pool}")
    return found


def order(request: Request) -> tuple[float, int, int, str]:
    deadline = float("inf") if request.deadline_ns is None else request.deadline_ns
    return deadline, -request.memory_bytes, request.submitted, request.id


def admit(
    waiting: Sequence[Request],
    running: Sequence[Request],
    limits: Limits,
    served: Mapping[str, int],
    stopped_pools: AbstractSet[str] = frozenset(),
) -> list[str]:
    now = {request.id: request for request in running}
    charged = dict(served)
    for request in now.values():
        charged[request.fleet] = charged.get(request.fleet, 0) + request.memory_bytes
    left = {
        request.id: request for request in waiting if request.id not in now and not stopped_pools & set(request.pools)
    }
    admitted: list[str] = []
    while left:
        top = max(request.priority for request in left.values())
        free = [r for r in left.values() if r.priority == top and fits(r, list(now.values()), limits)]
        if not free:
            break
        chosen = min(free, key=lambda r: (charged.get(r.fleet, 0) * (1 << 20) // r.weight, order(r)))
        now[chosen.id] = left.pop(chosen.id)
        charged[chosen.fleet] = charged.get(chosen.fleet, 0) + chosen.memory_bytes
        admitted.append(chosen.id)
    return admitted
