"""What must be true of every grant, found by looking at all flows, and what all that is granted must add up to.

Order within a class and tenant is by tag or deadline; of several flows with one tag any may be next. Whether the tags
are right is seen from what was granted alone: the lag of each pair of flows that wait side by side, the work that a
capped flow got, the work that others got while a class had to wait.
"""

from collections.abc import Callable
from dataclasses import dataclass

from scheduler.core.flow import Flow
from scheduler.core.pool import PoolScheduler
from scheduler.core.units import NS_PER_S, PERMILLE, ServiceClass

#: Rounding of a rate times a time.
_ROUNDING_NS = 4


@dataclass
class Bucket:
    """What a capped flow has been granted beyond its rate."""

    level_ns: int = 0
    at_ns: int = 0


class NaivePolicy:
    """Watches one pool of one epoch."""

    def __init__(self) -> None:
        #: Newest lease of each flow.
        self.newest: dict[str, int] = {}
        #: Work per flow since both of a pair have been backlogged.
        self._pairs: dict[tuple[Flow, Flow], int] = {}
        self._expected_ns: dict[Flow, int] = {}
        self._buckets: dict[Flow, Bucket] = {}
        self._gap_ns = dict.fromkeys((ServiceClass.BULK, ServiceClass.BACKGROUND), 0)

    def watch(self, pool: PoolScheduler, learning: Callable[[], bool]) -> None:
        """Look at each grant before it is made."""
        grant = pool._grant

        def watched(flow: Flow, now_ns: int, *, due: bool) -> None:
            self._allowed(flow, now_ns, due=due, learning=learning())
            before_ns = flow.granted_ns
            grant(flow, now_ns, due=due)
            self._granted(flow, flow.granted_ns - before_ns, now_ns)

        self.pool, self._learning = pool, learning
        pool._grant = watched  # type: ignore[method-assign]

    def restart(self) -> None:
        """Weights or the device changed: intervals begin anew."""
        self._pairs.clear()

    def _of(self, service_class: ServiceClass) -> list[Flow]:
        """Those of a class that could be served, seen without any queue."""
        return [
            flow
            for flow in self.pool.flows.values()
            if flow.service_class is service_class and flow.demand_ns > flow.granted_ns - flow.used_ns
        ]

    def _allowed(self, flow: Flow, now_ns: int, *, due: bool, learning: bool) -> None:
        pool = self.pool
        assert pool.up, "a grant on a device that is down"
        assert flow.demand_ns > flow.granted_ns - flow.used_ns, f"{flow.name} has all it wants"
        assert not flow.cap_ns_s or flow.cap_tag_ns <= now_ns, f"{flow.name} is capped"
        assert not learning or flow.service_class is ServiceClass.CRITICAL, f"{flow.name} was served while learning"
        if flow.service_class is ServiceClass.CRITICAL or due:
            assert not due or flow.reservation_tag_ns <= now_ns, f"{flow.name}: its reservation is not due"
            return
        for other in self._of(flow.service_class):
            eligible = not other.cap_ns_s or other.cap_tag_ns <= now_ns
            if eligible and flow.service_class is ServiceClass.URGENT:
                assert (flow.deadline_ns or 0) <= (other.deadline_ns or 0), f"{other.name} is due before {flow.name}"
            elif eligible and other.tenant is flow.tenant:
                assert other.start >= flow.start, f"{other.name} of {flow.tenant.name} comes before {flow.name}"
        self._starved(flow)

    def _starved(self, flow: Flow) -> None:
        for service_class in self._gap_ns:
            if flow.service_class is service_class:
                self._gap_ns[service_class] = 0
                continue
            floor = self.pool.settings.bulk_floor
            floor = floor if service_class is ServiceClass.BULK else self.pool.settings.background_floor
            bound_ns = self.pool.capacity.lease_cost_ns * PERMILLE // floor + 2 * self.pool.capacity.lease_cost_ns
            assert self._gap_ns[service_class] <= bound_ns, f"{service_class.name} starves"

    def _granted(self, flow: Flow, cost_ns: int, now_ns: int) -> None:
        assert 0 < cost_ns <= self.pool.capacity.lease_cost_ns, f"{flow.name} was granted {cost_ns}"
        for service_class in self._gap_ns:
            if flow.service_class is service_class or not any(not other.cap_ns_s for other in self._of(service_class)):
                self._gap_ns[service_class] = 0
            elif flow.service_class is not ServiceClass.CRITICAL and not flow.reservation_ns_s:
                self._gap_ns[service_class] += cost_ns
        self._expected_ns[flow] = self._expected_ns.get(flow, flow.granted_ns - cost_ns) + cost_ns
        for pair in self._pairs:
            if flow is pair[0]:
                self._pairs[pair] += cost_ns * pair[1].weight
            elif flow is pair[1]:
                self._pairs[pair] -= cost_ns * pair[0].weight
        if flow.cap_ns_s:
            bucket = self._buckets.setdefault(flow, Bucket())
            left_ns = bucket.level_ns - (now_ns - bucket.at_ns) * flow.cap_ns_s // NS_PER_S
            bucket.level_ns, bucket.at_ns = max(0, left_ns) + cost_ns, now_ns
            assert bucket.level_ns <= self.pool.capacity.lease_cost_ns + _ROUNDING_NS, f"{flow.name} is beyond its cap"

    def conserved(self) -> None:
        """After a report: nobody waits who could be served, unless it is for slots."""
        pool = self.pool
        waiting = [flow for service_class in ServiceClass for flow in self._of(service_class)]
        if pool.up and not self._learning() and all(flow.window or flow.reserve_window for flow in waiting):
            uncapped = [flow.name for flow in waiting if not flow.cap_ns_s]
            full = pool.ledger.outstanding_ns >= pool.settings.horizon_ns * pool.capacity.rate_ns_s // NS_PER_S
            assert full or not uncapped, f"{uncapped[0]} waits for nothing"

    def settle(self) -> None:
        """After an event: who is backlogged beside whom, and how far they are apart."""
        if not hasattr(self, "pool"):
            return
        flows = self.pool.flows.values()
        plain = [flow for flow in flows if self._is_plain(flow)]
        # Work that was given back, or done without a grant, begins an interval anew.
        changed = {flow for flow in flows if flow.granted_ns != self._expected_ns.get(flow)}
        self._expected_ns = {flow: flow.granted_ns for flow in flows}
        lease_ns = self.pool.capacity.lease_cost_ns
        pairs = {}
        for number, one in enumerate(plain):
            for other in plain[number + 1 :]:
                if one.tenant is other.tenant:
                    apart = 0 if one in changed or other in changed else self._pairs.get((one, other), 0)
                    # | W1/w1 - W2/w2 | <= l/w1 + l/w2, times both weights.
                    bound = lease_ns * (one.weight + other.weight) + one.weight * other.weight
                    assert abs(apart) <= bound, f"{one.name} and {other.name} are {apart} apart, {bound} at most"
                    pairs[one, other] = apart
        self._pairs = pairs

    @staticmethod
    def _is_plain(flow: Flow) -> bool:
        return (
            flow.demand_ns > flow.granted_ns - flow.used_ns
            and flow.service_class is flow.home_class
            and not flow.cap_ns_s
            and not flow.reservation_ns_s
        )
