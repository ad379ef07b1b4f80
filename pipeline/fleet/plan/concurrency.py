"""How many migrations a host should send or take at the same time, so that all of them are over soonest.

With k at a time each has a k-th of the host's link and workers. With memory M, writes of D per second and a set-up of
S, all three of the host's average migration, one is done every

    t(k) = (S + M / (r(k) - D)) / k,          r(k) = min(cap, alone / k)

seconds. Set-up speaks for many at a time (the link idles meanwhile), and so does a bandwidth cap that one alone cannot
get beyond. Writes speak for few: what a guest writes while it moves is sent again, and it moves longer the less it
gets. At r(k) <= D nothing ends at all. The k with the least t(k) is taken, and of those within 1 % of it the least: a
migration that has begun should be over soon. Never more than the limits allow. Images are not written to: for them the
limits are as good as anything.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from pipeline.fleet.plan.estimate import NS_PER_S, Load, Shared
from pipeline.fleet.plan.limits import Limits

_CLOSE_PERMILLE = 1010


def choose(loads: Sequence[Load], limits: Limits) -> Limits:
    """The same limits, or less for hosts where fewer at a time are done sooner."""
    leaving: dict[str, list[Load]] = defaultdict(list)
    arriving: dict[str, list[Load]] = defaultdict(list)
    for load in loads:
        leaving[load.request.source].append(load)
        arriving[load.request.destination].append(load)
    return replace(
        limits,
        outbound={**limits.outbound, **_best_of(leaving, limits.outbound_of)},
        inbound={**limits.inbound, **_best_of(arriving, limits.inbound_of)},
    )


def _best_of(loads: Mapping[str, list[Load]], limit_of: Callable[[str], int]) -> dict[str, int]:
    return {host: best for host, there in loads.items() if (best := best_parallel(there, limit_of(host))) is not None}


def best_parallel(loads: Sequence[Load], limit: int) -> int | None:
    """How many of these to have at the same time; None where the limit is as good as any: no guest is written to."""
    most = min(limit, len(loads))
    if not any(load.dirty_bytes_s for load in loads):
        return None
    shared = _shared_by_all(loads)
    times = {count: _ns_for_each(loads, shared, count) for count in range(1, most + 1)}
    least = min(times.values())
    best = next(count for count, time in times.items() if time * 1000 <= least * _CLOSE_PERMILLE)
    return best if best < most else None


def _shared_by_all(loads: Sequence[Load]) -> set[Shared]:
    return set.intersection(*({shared for shared, _ in load.alone} for load in loads))


def _ns_for_each(loads: Sequence[Load], shared: Iterable[Shared], count: int) -> int:
    users = dict.fromkeys(shared, count)
    total = 0
    for load in loads:
        speed = load.speed(users)
        total += load.setup_ns + load.request.memory_bytes * NS_PER_S // load.progress(speed)
    return total // len(loads) // count
