"""What a cluster's scheduler says of its pools, for those who only look: not waited for, and nothing where it is not.

A scheduler that is missing, dying or busy has no pools to show; that is no error of whoever looks.
"""

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import ray
from ray.exceptions import RayError

from scheduler.actor import ACTOR_NAME, NAMESPACE
from scheduler.core.statistics import PoolStatistics
from scheduler.service import ServiceStatistics

#: How often it is asked, at most.
PERIOD_S = 1.0
#: The first answer is waited for so long, or a view that ends at once would have none; the others are not.
_FIRST_S = 1.0
#: An answer that is older says nothing of now.
STALE_S = 5.0


def ask_scheduler() -> "Future[ServiceStatistics] | None":
    """Its snapshot, once it has come; None where there is no scheduler. For a process that is part of the cluster."""
    try:
        actor: Any = ray.get_actor(ACTOR_NAME, namespace=NAMESPACE)
        answer: Future[ServiceStatistics] = actor.statistics.remote().future()
    except (ValueError, RayError):
        return None
    return answer


class ClusterPools:
    """`ask` begins to ask; one question is under way at a time."""

    def __init__(self, ask: "Callable[[], Future[ServiceStatistics] | None]" = ask_scheduler) -> None:
        self._ask = ask
        self._asked: Future[ServiceStatistics] | None = None
        self._asked_s: float | None = None
        self._answered_s = 0.0
        self._pools: tuple[PoolStatistics, ...] = ()

    def look(self, now_s: float) -> tuple[PoolStatistics, ...]:
        """Pools of hosts that are there, as they were a moment ago; `now_s` is monotonic."""
        first = self._asked_s is None
        if self._asked is None and (self._asked_s is None or now_s - self._asked_s >= PERIOD_S):
            self._asked, self._asked_s = self._ask(), now_s
        if self._asked is not None:
            self._hear(self._asked, now_s, _FIRST_S if first else 0.0)
        return self._pools if now_s - self._answered_s <= STALE_S else ()

    def _hear(self, asked: "Future[ServiceStatistics]", now_s: float, wait_s: float) -> None:
        try:
            found = asked.result(wait_s)
        except TimeoutError:
            return
        except RayError:
            self._pools = ()
        else:
            self._pools = tuple(pool for pool in found.core.pools if pool.host in found.host_names)
        self._asked, self._answered_s = None, now_s
