"""How much work a flow could use, from what its workers asked for.

The answer is the rate it asked at over the pool's horizon, with a quarter to spare; twice that while it is denied,
because a batch that goes to the CPU takes longer and the next one is asked for later: so it doubles from tick to tick
until it gets what it can use. It falls by half per tick at most, since batches come in bursts. To claim more would not
speed it up (the scheduler serves by weight), but what it was given and cannot use in time keeps others waiting.
"""

from scheduler.core.events import PoolSettings


class Demand:
    """One flow's. It begins with one engine's part of a lease, so that the first batches find credit."""

    def __init__(self, pool: PoolSettings) -> None:
        self._pool = pool
        self.demand_ns = pool.lease_ns

    def observe(self, asked_ns: int, denied: int, pending_ns: int, elapsed_ns: int) -> None:
        """What was asked and denied in the last `elapsed_ns`, and what is under way."""
        most_ns = self._pool.horizon_ns * self._pool.engines
        quarters = 8 if denied else 5
        rate_ns = asked_ns * self._pool.horizon_ns * quarters // (4 * max(1, elapsed_ns))
        self.demand_ns = min(most_ns, max(rate_ns, pending_ns, self.demand_ns // 2))
