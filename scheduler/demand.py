"""How much work a flow could use, from what its workers asked for.

A worker that is denied does the work on its CPU and asks less often than it would: what it asked says little then, and
the answer is everything the pool does within its horizon. To claim too much gains nothing, the scheduler serves by
weight. Otherwise the answer is the rate it asked at, with a quarter to spare, over the horizon; it falls by half per
tick at most, because batches come in bursts.
"""

from scheduler.core.events import PoolSettings


class Demand:
    """One flow's. It begins with one lease's worth, so that the first batch finds credit."""

    def __init__(self, pool: PoolSettings) -> None:
        self._pool = pool
        self.demand_ns = pool.lease_ns * pool.engines

    def observe(self, asked_ns: int, denied: int, pending_ns: int, elapsed_ns: int) -> None:
        """What was asked and denied in the last `elapsed_ns`, and what is under way."""
        most_ns = self._pool.horizon_ns * self._pool.engines
        if denied:
            self.demand_ns = most_ns
            return
        asked_ns = asked_ns * self._pool.horizon_ns * 5 // (4 * max(1, elapsed_ns))
        self.demand_ns = min(most_ns, max(asked_ns, pending_ns, self.demand_ns // 2))
