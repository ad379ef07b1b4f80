"""What each flow is worth of its pool: by its weight among those that are active, or by its reservation.

A tenant's part of its class is that of its weight among the tenants with active flows, a flow's the same among those of
its tenant. Active is who could use more than it was given, or holds a lease. What a share comes to (work per second, a
window, work ahead) is asked for with every report and grant and changes seldom, so it is kept until something does.
"""

from collections.abc import Iterable

from scheduler.core.capacity import Capacity
from scheduler.core.fair import FairQueue, Tenant
from scheduler.core.flow import Flow
from scheduler.core.units import PERMILLE, Phase, ServiceClass


class Shares:
    """One pool's: its tenants, their queues in the two classes that are shared by weight, and who is active."""

    def __init__(self, capacity: Capacity) -> None:
        self.bulk, self.background = FairQueue(ServiceClass.BULK), FairQueue(ServiceClass.BACKGROUND)
        self.queues = (self.bulk, self.background)
        #: Active flows with reservations, and the sum of these.
        self.reserved: dict[Flow, None] = {}
        self.reserved_ns_s = 0
        #: Sum of the reservations of all flows, active or not.
        self.promised_ns_s = 0
        self._capacity = capacity
        self._tenants: dict[tuple[ServiceClass, str], Tenant] = {}
        #: Goes up when what flows are worth changes.
        self._version = 0

    @property
    def tenants(self) -> Iterable[Tenant]:
        """All that were ever seen, one for each class that they had flows in."""
        return self._tenants.values()

    def tenants_in(self, queue: FairQueue) -> list[Tenant]:
        """Those that were ever seen in a queue."""
        return [tenant for (of, _), tenant in self._tenants.items() if of is queue.service_class]

    def queue_of(self, phase: Phase) -> FairQueue:
        """Where flows in a phase wait and pay."""
        return self.background if phase is Phase.BACKGROUND else self.bulk

    def tenant(self, name: str, queue: FairQueue, weight: int) -> Tenant:
        """A tenant's place in a queue; `weight` is that of one that was not there yet."""
        key = (queue.service_class, name)
        if key not in self._tenants:
            self._tenants[key] = Tenant(name, weight, len(self._tenants))
        return self._tenants[key]

    def set_weight(self, name: str, weight: int) -> None:
        """A tenant's weight has changed: for grants from now on."""
        for queue in self.queues:
            tenant = self._tenants.get((queue.service_class, name))
            if tenant is not None:
                self.changed()
                if tenant.active_weight:
                    queue.active_weight += weight - tenant.weight
                tenant.weight = weight

    def set_active(self, flow: Flow, *, active: bool) -> None:
        """A flow is among those that share, or is not."""
        if flow.active == active:
            return
        flow.active = active
        self.changed()
        if flow.reservation_ns_s:
            self._reserve(flow, active=active)
        tenant = flow.tenant
        before = bool(tenant.active_weight)
        tenant.active_weight += flow.weight if active else -flow.weight
        if before != bool(tenant.active_weight):
            flow.queue.active_weight += tenant.weight if active else -tenant.weight

    def promise(self, flow: Flow, reservation_ns_s: int) -> None:
        """A flow that is not active has this reservation from now on, or none: more than can be kept is no promise to
        anybody."""
        self.promised_ns_s -= flow.reservation_ns_s
        kept = self.promised_ns_s + reservation_ns_s <= self._capacity.promisable_ns_s
        flow.reservation_ns_s = reservation_ns_s if kept else 0
        self.promised_ns_s += flow.reservation_ns_s

    def changed(self) -> None:
        """The rate, a weight, or something else has: what flows are worth is worked out anew."""
        self._version += 1

    def rate_ns_s(self, flow: Flow) -> int:
        """What a flow may expect of the pool, per second, among those that are active: what its weight gives it of what
        is not reserved, or its reservation."""
        if flow.valued != self._version:
            self._value(flow)
        return flow.share_ns_s

    def window(self, flow: Flow) -> int:
        """The window that a flow's share is worth."""
        if flow.valued != self._version:
            self._value(flow)
        return flow.worth

    def most_ahead_ns(self, flow: Flow) -> int:
        """Twice its share of the horizon and one grant, so that who is served a little later than others does not lose
        its turn for it; but what is left for the others is at least half of theirs, or who never says what it has done
        would keep all of it."""
        if flow.valued != self._version:
            self._value(flow)
        return flow.most_ahead_ns

    def _value(self, flow: Flow) -> None:
        capacity, tenant = self._capacity, flow.tenant
        weights = flow.queue.active_weight + (0 if tenant.active_weight else tenant.weight)
        own = tenant.active_weight + (0 if flow.active else flow.weight)
        rate_ns_s = capacity.rate_ns_s - min(self.reserved_ns_s, capacity.rate_ns_s)
        share = rate_ns_s * tenant.weight * flow.weight // (weights * own)
        if flow.queue is self.background and self.bulk.active_weight:
            share = share * capacity.settings.background_floor // PERMILLE
        share = max(share, flow.reservation_ns_s)
        most_ns, grant_ns = capacity.most_outstanding_ns, capacity.lease_cost_ns
        share_ns = most_ns * share // capacity.rate_ns_s
        flow.valued, flow.share_ns_s = self._version, share
        flow.worth = max(capacity.settings.least_window, capacity.usable_slots * share // capacity.rate_ns_s)
        flow.most_ahead_ns = max(grant_ns, min(grant_ns + 2 * share_ns, (most_ns + share_ns) // 2))

    def _reserve(self, flow: Flow, *, active: bool) -> None:
        if active:
            self.reserved[flow] = None
        else:
            del self.reserved[flow]
        self.reserved_ns_s += flow.reservation_ns_s if active else -flow.reservation_ns_s
