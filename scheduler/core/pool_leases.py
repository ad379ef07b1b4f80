"""The life of a pool's leases: taken over from the epoch before, renewed, acknowledged, given back, expired.

A lease ends when its holder releases it, or when its life (see `leases`) is over since it was renewed last. What was
granted under it and not done is not charged when it is released, as far as the device bears that out, and charged for
good when it expires: nobody knows what became of it.
"""

import heapq
from collections.abc import Iterator

from scheduler.core.capacity import Capacity
from scheduler.core.counts import Counts
from scheduler.core.device_watch import DeviceWatch
from scheduler.core.effects import Reason
from scheduler.core.events import FlowReport
from scheduler.core.flow import Flow
from scheduler.core.ledger import Ledger
from scheduler.core.slots import Slots
from scheduler.core.tickets import Ticket
from scheduler.core.units import ServiceClass

_CRITICAL = ServiceClass.CRITICAL


class PoolLeases:
    """One pool's."""

    def __init__(self, capacity: Capacity, slots: Slots, ledger: Ledger, watch: DeviceWatch, counts: Counts) -> None:
        #: Closed with slots that their holders may still be using.
        self.closing: dict[int, Flow] = {}
        self._capacity = capacity
        self._slots = slots
        self._ledger = ledger
        self._watch = watch
        self._counts = counts
        #: One entry for each flow with slots: when they might end, its number, and itself.
        self._expiries: list[tuple[int, int, Flow]] = []

    def renew(self, flow: Flow, now_ns: int) -> None:
        """The flow's holder has reported, or is told of a lease: it lives from now on."""
        self._counts.renewals += 1
        flow.ttl_ns, life_ns = self._capacity.life_of(flow)
        # Never sooner: the answer that shortens its life may be lost.
        flow.expires_ns = max(flow.expires_ns, now_ns + life_ns)
        if not flow.expiry_queued:
            self._queue_expiry(flow)

    def acknowledge(self, flow: Flow, report: FlowReport, *, learning: bool) -> Reason | None:
        """The flow's holder says which lease it knows, and the window that is in force there; why it is void."""
        if not flow.lease or report.lease > flow.lease:
            self._counts.fences += 1
            return Reason.EXPIRED
        if report.lease == flow.lease:
            window = flow.window + flow.reserve_window
            if report.released or report.window == window == 0:
                self._counts.releases += 1
                self.give_back(flow)
            elif report.window <= window:
                self._slots.count(flow, flow.window, flow.reserve_window)
                if flow.reserve_window and flow.service_class is not _CRITICAL:
                    self._slots.set_window(flow, flow.window, 0)
                if not learning:
                    self._slots.fit(flow)
        return None

    def give_back(self, flow: Flow) -> None:
        """A lease ends in order."""
        if flow.unused_ns > self._watch.unexplained_ns:
            flow.queue.refund(flow, flow.unused_ns - self._watch.unexplained_ns)
        self.end(flow)

    def end(self, flow: Flow) -> None:
        """Nobody can submit under the flow's lease any more."""
        self._ledger.withdraw(flow)
        flow.stuck = False
        flow.window = flow.reserve_window = flow.lease = 0
        flow.adopted = False
        self._slots.count(flow, 0, 0)

    def void(self, flow: Flow) -> None:
        """The flow's lease ends, and its holder has not heard of it: its slots are counted until they are free."""
        self._counts.fences += 1
        self._ledger.withdraw(flow)
        flow.window = flow.reserve_window = flow.lease = 0
        flow.adopted = False

    def adopt(self, flow: Flow, report: FlowReport) -> Reason | None:
        """A holder presents a lease of the epoch before, while learning: it goes on under this one.

        All that were in force then fit together, so they fit now; one that does not was not what it says.
        """
        if flow.adopted and not report.window:
            self.confirm(flow, presented=False)
        if not flow.lease and report.window > 0 and not report.released:
            if self._slots.general_free < report.window:
                return Reason.STALE_LEASE
            self._slots.set_window(flow, report.window, 0)
            self._slots.count(flow, max(flow.counted, report.window), flow.reserve_counted)
            flow.adopted = True
        return None

    def confirm(self, flow: Flow, *, presented: bool) -> None:
        """The holder of an adopted lease presents it, or has none: then it was told of too late, by a report that was
        long under way, and would be revived by an answer to this one."""
        flow.adopted = False
        if not presented:
            self.end(flow)

    def close(self, flow: Flow, ticket: Ticket | None) -> None:
        """A flow has gone; its slots and its ticket's are counted until its holder cannot use them any more."""
        if ticket is not None:
            self._slots.count(flow, flow.counted, flow.reserve_counted + ticket.slots)
            flow.expires_ns = max(flow.expires_ns, ticket.expires_ns)
            if not flow.expiry_queued:
                self._queue_expiry(flow)
        self._ledger.withdraw(flow)
        self._slots.forget(flow)
        if flow.counted or flow.reserve_counted:
            self.closing[flow.number] = flow

    def expired(self, now_ns: int) -> Iterator[Flow]:
        """The flows whose lease is over because nobody renewed it; those that are closed are forgotten with it."""
        while self._expiries and self._expiries[0][0] <= now_ns:
            _, _, flow = heapq.heappop(self._expiries)
            flow.expiry_queued = False
            if self.is_expired(flow, now_ns):
                self._counts.expiries += 1
                self.end(flow)
                if self.closing.pop(flow.number, None) is None:
                    yield flow
            elif flow.counted or flow.reserve_counted:
                self._queue_expiry(flow)

    @staticmethod
    def is_expired(flow: Flow, now_ns: int) -> bool:
        """Whether nobody can submit under the flow's lease any more."""
        return (flow.counted > 0 or flow.reserve_counted > 0) and flow.expires_ns <= now_ns

    @property
    def next_expiry_ns(self) -> int | None:
        """When the first lease might be over; None: there is none."""
        return self._expiries[0][0] if self._expiries else None

    def _queue_expiry(self, flow: Flow) -> None:
        # One entry for each flow: a lease that was renewed meanwhile is queued again when its turn comes.
        flow.expiry_queued = True
        heapq.heappush(self._expiries, (flow.expires_ns, flow.number, flow))
