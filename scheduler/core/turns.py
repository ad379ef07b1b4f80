"""The order of service of a pool: in which queue each flow waits, and whose turn it is.

For every single grant:

    1. CRITICAL, as long as it stays within what the reserve is worth of the pool
    2. reservations that are due
    3. BULK and BACKGROUND, where they have had less than their floors
    4. CRITICAL, URGENT (the earliest deadline first), BULK, BACKGROUND (fair by weight, see `fair`)

A flow waits in one of: the queue of its class, or those whose caps do not allow them a grant yet. Beside that it waits
for its reservation, where it has one. No grant is anybody's while more than the pool's horizon is outstanding.
"""

from scheduler.core.capacity import Capacity
from scheduler.core.classes import class_of
from scheduler.core.fair import TaggedHeap
from scheduler.core.floors import Floors
from scheduler.core.flow import Flow
from scheduler.core.ledger import Ledger
from scheduler.core.shares import Shares
from scheduler.core.slots import Slots
from scheduler.core.tags import begin_reservation, may_be_served
from scheduler.core.units import ServiceClass

_FAR_NS = 1 << 62
#: What each grant asks for: to look up a member of an enumeration takes a tenth of a microsecond.
_CRITICAL, _BULK = ServiceClass.CRITICAL, ServiceClass.BULK


class Turns:
    """One pool's."""

    def __init__(self, capacity: Capacity, shares: Shares, ledger: Ledger, slots: Slots) -> None:
        #: Longest time without a grant, by class.
        self.gaps_ns = [0] * len(ServiceClass)
        self._capacity = capacity
        self._shares = shares
        self._ledger = ledger
        self._slots = slots
        self._bulk, self._background = self._queues = shares.queues
        self._critical: TaggedHeap[Flow] = TaggedHeap()
        self._urgent: TaggedHeap[Flow] = TaggedHeap()
        self._reservations: TaggedHeap[Flow] = TaggedHeap()
        self._capped: TaggedHeap[Flow] = TaggedHeap()
        self._floors = Floors(capacity)

    def capacity_changed(self) -> None:
        """The pool has other settings; the queues stay."""
        self._floors.apply(self._capacity)

    @property
    def anybody_waits(self) -> bool:
        """Whether somebody could be granted something, were there enough."""
        return self._bulk.waiting + self._background.waiting + self._urgent.size + self._critical.size > 0

    def next(self, now_ns: int, *, learning: bool) -> tuple[Flow | None, bool]:
        """Whose turn it is, and whether because its reservation is due."""
        ledger, capacity = self._ledger, self._capacity
        critical = self._critical.head() if self._critical.size else None
        if critical is not None and not self._slots.critical_has_room(critical, learning=learning):
            critical = None
        if critical is not None and ledger.critical_ns < capacity.most_critical_ns:
            return critical, False
        if learning or ledger.outstanding_ns >= capacity.most_outstanding_ns:
            return None, False
        due = self._reservations.head() if self._reservations.size else None
        if due is not None and due.reservation_tag_ns <= now_ns:
            return due, True
        for queue in self._queues:
            if queue.waiting and self._floors.due(queue.service_class):
                return queue.head(), False
        urgent = self._urgent.head() if self._urgent.size else None
        return critical or urgent or self._bulk.head() or self._background.head(), False

    def served(self, flow: Flow, cost_ns: int, now_ns: int) -> None:
        """A flow was granted work, which counts for and against the floors."""
        served = flow.service_class
        for queue in self._queues:
            if queue.waiting:
                demanding = queue.service_class
                self._floors.charge(demanding, served, cost_ns)
                if served is demanding and queue.wanting_since_ns is not None:
                    gap_ns = now_ns - queue.wanting_since_ns
                    queue.wanting_since_ns = now_ns
                    if gap_ns > self.gaps_ns[served]:
                        self.gaps_ns[served] = gap_ns

    def enter(self, flow: Flow, now_ns: int) -> None:
        """Put a flow that is in no queue where it belongs."""
        backlogged = flow.backlogged
        self._shares.set_active(flow, active=backlogged or flow.window > 0)
        self._ledger.set_class(flow, self._class(flow, now_ns))
        if not backlogged:
            flow.waiting_since_ns = None
            return
        if flow.waiting_since_ns is None:
            flow.waiting_since_ns = now_ns
            begin_reservation(flow, now_ns)
        if not may_be_served(flow, now_ns):
            flow.cap_entry = self._capped.push(flow.cap_tag_ns, flow)
            return
        if flow.reservation_ns_s:
            flow.reservation_entry = self._reservations.push(flow.reservation_tag_ns, flow)
        if flow.service_class < _BULK:
            deadline_ns = flow.deadline_ns if flow.deadline_ns is not None else _FAR_NS
            flow.urgent_entry = self._deadlines(flow).push(deadline_ns, flow)
            return
        if not flow.queue.waiting:
            self._floors.begin(flow.home_class)
            flow.queue.wanting_since_ns = now_ns
        flow.queue.enter(flow)

    def leave(self, flow: Flow) -> None:
        """Take a flow out of every queue it is in."""
        if flow.entry is not None:
            flow.queue.leave(flow)
            if not flow.queue.waiting:
                flow.queue.wanting_since_ns = None
        if flow.urgent_entry is not None:
            self._deadlines(flow).drop(flow.urgent_entry)
            flow.urgent_entry = None
        if flow.reservation_entry is not None:
            self._reservations.drop(flow.reservation_entry)
            flow.reservation_entry = None
        if flow.cap_entry is not None:
            self._capped.drop(flow.cap_entry)
            flow.cap_entry = None

    def move(self, flow: Flow, now_ns: int) -> None:
        """What decides where a flow waits may have changed."""
        self.leave(flow)
        self.enter(flow, now_ns)

    def pass_time(self, now_ns: int) -> None:
        """Let those back in whose caps allow it again."""
        while self._capped.size and (capped := self._capped.head()) is not None and capped.cap_tag_ns <= now_ns:
            self.move(capped, now_ns)

    def wakeups_ns(self, now_ns: int) -> list[int]:
        """When a cap allows the next grant, and when the next reservation is due."""
        times = []
        if (capped := self._capped.head()) is not None:
            times.append(capped.cap_tag_ns)
        if (due := self._reservations.head_tag()) is not None and due > now_ns:
            times.append(due)
        return times

    def _class(self, flow: Flow, now_ns: int) -> ServiceClass:
        if flow.unhurried:
            return flow.home_class
        return class_of(flow, self._shares.rate_ns_s(flow), self._capacity.settings.horizon_ns, now_ns)

    def _deadlines(self, flow: Flow) -> TaggedHeap[Flow]:
        return self._critical if flow.service_class is _CRITICAL else self._urgent
