"""Downtime tickets as they are asked for, used and given back; what they may promise is in `tickets`."""

from scheduler.core.capacity import Capacity
from scheduler.core.counts import LeaseNumbers
from scheduler.core.effects import Lease, Reason, TicketDenied, TicketGranted
from scheduler.core.events import TicketRequested
from scheduler.core.flow import Flow
from scheduler.core.leases import life_ns
from scheduler.core.ledger import Ledger
from scheduler.core.slots import Slots
from scheduler.core.tags import charge_cap
from scheduler.core.tickets import Ticket, TicketBook
from scheduler.core.units import ServiceClass


class TicketDesk:
    """One pool's."""

    def __init__(
        self, epoch: int, numbers: LeaseNumbers, capacity: Capacity, book: TicketBook, slots: Slots, ledger: Ledger
    ) -> None:
        self._epoch = epoch
        self._numbers = numbers
        self._capacity = capacity
        self._book = book
        self._slots = slots
        self._ledger = ledger

    def request(
        self, flow: Flow, event: TicketRequested, now_ns: int, *, up: bool, learning: bool
    ) -> TicketGranted | TicketDenied:
        """Set slots of the reserve aside, or say when to ask again."""
        book, settings = self._book, self._capacity.settings
        known = book.tickets.get(flow.name)
        if known is not None and known.request == event.request and self.left_ns(known, now_ns) > 0:
            return self._granted(flow, known, now_ns)
        slots = book.slots_for(event.cost_ns, event.within_ns)
        free = self._slots.reserve_free(learning=learning)
        if known is not None:
            # Its holder may not hear of the new one.
            slots, free = max(slots, known.slots), free + known.slots
        if not up or slots > free:
            book.denied += 1
            reason = Reason.NO_CAPACITY if up else Reason.DEVICE_DOWN
            retry_ns = book.retry_ns(now_ns) or settings.horizon_ns
            return TicketDenied(flow.host, flow.name, settings.pool, event.request, reason, retry_ns)
        expires_ns = now_ns + life_ns(settings.critical_ttl_ns, settings.clock_ppm, settings.drain_ns + event.within_ns)
        if known is not None:
            expires_ns = max(expires_ns, known.expires_ns)
        ticket = Ticket(
            flow.name, event.request, self._numbers.next(), slots, event.cost_ns, event.within_ns, now_ns, expires_ns
        )
        book.tickets[flow.name] = ticket
        book.issued += 1
        return self._granted(flow, ticket, now_ns)

    def use(self, flow: Flow, now_ns: int) -> None:
        """The guest has been stopped: what its ticket promised is granted, and charged like any other work."""
        ticket = self._book.tickets.get(flow.name)
        if ticket is not None and flow.ticket_used != ticket.lease:
            flow.ticket_used = ticket.lease
            self._ledger.grant(flow, ticket.cost_ns)
            flow.queue.charge(flow, ticket.cost_ns)
            if flow.cap_ns_s:
                charge_cap(flow, ticket.cost_ns, now_ns)

    def left_ns(self, ticket: Ticket, now_ns: int) -> int:
        """How long a ticket's holder may still stop its guest under it."""
        return self._capacity.settings.critical_ttl_ns - (now_ns - ticket.granted_ns)

    def _granted(self, flow: Flow, ticket: Ticket, now_ns: int) -> TicketGranted:
        lease = Lease(
            ticket.lease, flow.name, self._capacity.settings.pool, self._epoch, ServiceClass.CRITICAL, ticket.slots,
            ticket.cost_ns, self.left_ns(ticket, now_ns),
        )  # fmt: skip
        return TicketGranted(flow.host, ticket.request, lease)
