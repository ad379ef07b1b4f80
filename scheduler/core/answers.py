"""What holders are told: of their leases, and of what to expect of the pool where that is not what they know.

Leases are told every time: to be told is what renews them.
"""

from collections.abc import Mapping

from scheduler.core.capacity import Capacity
from scheduler.core.effects import Backpressure, Effect, Granted, Lease, Outlook, Reason
from scheduler.core.fair import SCALE
from scheduler.core.flow import Flow
from scheduler.core.ledger import Ledger
from scheduler.core.shares import Shares
from scheduler.core.slots import Slots
from scheduler.core.units import NS_PER_S

_QUEUED = Reason.QUEUED
#: Why a flow that wants something has nothing, as its holder is told.
WITHHELD = (Reason.QUEUED, Reason.NO_SLOTS, Reason.CAPPED, Reason.DEVICE_DOWN, Reason.LEARNING)
#: What changes by less than such a part is no news.
_SMALL_PART = 8


class Answers:
    """One pool's."""

    def __init__(self, epoch: int, capacity: Capacity, shares: Shares, ledger: Ledger, slots: Slots) -> None:
        self._epoch = epoch
        self._capacity = capacity
        self._shares = shares
        self._ledger = ledger
        self._slots = slots

    def tell(self, touched: Mapping[Flow, bool], *, up: bool, learning: bool) -> list[Effect]:
        """Those that have a lease are told of it; `touched` says who has asked, and is told what to expect."""
        told: list[Effect] = []
        for flow, asked in touched.items():
            if flow.lease:
                told.append(self.lease(flow))
            if asked and flow.demand_ns and (outlook := self._outlook(flow, up=up, learning=learning)) is not None:
                told.append(outlook)
        return told

    def lease(self, flow: Flow) -> Granted:
        """The lease that a flow has."""
        window = flow.window + flow.reserve_window
        pool = self._capacity.settings.pool
        lease = Lease(
            flow.lease, flow.name, pool, self._epoch, flow.service_class, window, flow.granted_ns, flow.ttl_ns
        )
        return Granted(flow.host, lease)

    def backpressure(self, host: str, *, stop_admission: bool) -> Backpressure:
        """How long a BULK grant would wait that is asked for now."""
        return Backpressure(host, self._capacity.settings.pool, self.bulk_wait_ns, stop_admission)

    @property
    def bulk_wait_ns(self) -> int:
        """The wait of the flow that is next in BULK."""
        flow = self._shares.bulk.head()
        return self.wait_ns(flow) if flow is not None else 0

    def wait_ns(self, flow: Flow) -> int:
        """How long until a flow's next grant, by its tags: none while it has something left."""
        if flow.granted_ns > flow.used_ns or flow.entry is None:
            return 0
        queue, tenant = flow.queue, flow.tenant
        # Who is queued is active, and never before V by more than was given back.
        own = (flow.start - tenant.virtual) * tenant.active_weight // tenant.weight
        ahead = (tenant.start - queue.virtual + own) * queue.active_weight // SCALE
        return max(0, ahead + self._ledger.outstanding_ns) * NS_PER_S // self._capacity.rate_ns_s

    def _outlook(self, flow: Flow, *, up: bool, learning: bool) -> Outlook | None:
        why = self._why(flow, up=up, learning=learning) if flow.granted_ns <= flow.used_ns else None
        wait_ns, share_ns_s, known = self.wait_ns(flow), self._shares.rate_ns_s(flow), flow.outlook
        if (
            known is not None
            and known.withheld is why
            and _alike(known.wait_ns, wait_ns)
            and _alike(known.share_ns_s, share_ns_s)
        ):
            return None
        flow.outlook = Outlook(flow.host, flow.name, self._capacity.settings.pool, wait_ns, share_ns_s, why)
        return flow.outlook

    def _why(self, flow: Flow, *, up: bool, learning: bool) -> Reason:
        if not up:
            return Reason.DEVICE_DOWN
        if learning:
            return Reason.LEARNING
        if flow.cap_entry is not None:
            return Reason.CAPPED
        return _QUEUED if flow.window or self._slots.general_free else Reason.NO_SLOTS


def _alike(told: int, now: int) -> bool:
    return told == now or abs(now - told) * _SMALL_PART < told
