"""What holders are told: of their leases, and of what to expect of the pool."""

from scheduler.core.capacity import Capacity
from scheduler.core.effects import Backpressure, Granted, Lease, Outlook, Reason
from scheduler.core.fair import SCALE
from scheduler.core.flow import Flow
from scheduler.core.ledger import Ledger
from scheduler.core.shares import Shares
from scheduler.core.slots import Slots
from scheduler.core.units import NS_PER_S

_QUEUED = Reason.QUEUED


class Answers:
    """One pool's."""

    def __init__(self, epoch: int, capacity: Capacity, shares: Shares, ledger: Ledger, slots: Slots) -> None:
        self._epoch = epoch
        self._capacity = capacity
        self._shares = shares
        self._ledger = ledger
        self._slots = slots

    def lease(self, flow: Flow) -> Granted:
        """The lease that a flow has."""
        window = flow.window + flow.reserve_window
        pool = self._capacity.settings.pool
        lease = Lease(
            flow.lease, flow.name, pool, self._epoch, flow.service_class, window, flow.granted_ns, flow.ttl_ns
        )
        return Granted(flow.host, lease)

    def outlook(self, flow: Flow, *, up: bool, learning: bool) -> Outlook:
        """What a flow that wants something may expect."""
        why = self._why(flow, up=up, learning=learning) if flow.granted_ns <= flow.used_ns else None
        pool = self._capacity.settings.pool
        return Outlook(flow.host, flow.name, pool, self.wait_ns(flow), self._shares.rate_ns_s(flow), why)

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

    def _why(self, flow: Flow, *, up: bool, learning: bool) -> Reason:
        if not up:
            return Reason.DEVICE_DOWN
        if learning:
            return Reason.LEARNING
        if flow.cap_entry is not None:
            return Reason.CAPPED
        return _QUEUED if flow.window or self._slots.general_free else Reason.NO_SLOTS
