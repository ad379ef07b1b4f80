"""What a cluster's scheduler says of its pools, for those who only look: not waited for, and nothing where it is not.

A scheduler that is missing, dying or busy has no pools to show; that is no error of whoever looks.
"""

from collections.abc import Callable
from concurrent.futures import Future, wait

from scheduler.core.statistics import PoolStatistics
from scheduler.service import ServiceStatistics

#: How often it is asked, at most.
PERIOD_S = 1.0
#: The first answer is waited for so long, or a view that ends at once would have none; the others are not.
_FIRST_S = 1.0
#: An answer that is older says nothing of now.
STALE_S = 5.0

Answer = Future[ServiceStatistics]


class PoolLooks:
    """`ask` begins to ask, and returns None where there is nobody; one question is under way at a time."""

    def __init__(self, ask: Callable[[], Answer | None]) -> None:
        self._ask = ask
        self._asked: Answer | None = None
        self._asked_s: float | None = None
        self._answered_s = 0.0
        self._pools: tuple[PoolStatistics, ...] = ()

    def look(self, now_s: float) -> tuple[PoolStatistics, ...]:
        """Pools of hosts that are there, as they were a moment ago; `now_s` is monotonic."""
        first = self._asked_s is None
        if self._asked is None and (self._asked_s is None or now_s - self._asked_s >= PERIOD_S):
            self._asked, self._asked_s = self._ask(), now_s
        if self._asked is not None and wait([self._asked], _FIRST_S if first else 0.0).done:
            self._pools = _pools(self._asked)
            self._asked, self._answered_s = None, now_s
        return self._pools if now_s - self._answered_s <= STALE_S else ()


def _pools(answer: Answer) -> tuple[PoolStatistics, ...]:
    if answer.exception() is not None:
        return ()
    found = answer.result()
    return tuple(pool for pool in found.core.pools if pool.host in found.host_names)
