"""One pool: who gets the next grant, and which slots are whose. Pure; `machine` is the only caller.

A grant is a quantum of budget for one flow, charged to its tags when it is made. What all flows have been granted and
not done yet never exceeds the pool's horizon by more than the part of the reserve, so grants follow completions,
whatever rate the device has (a bucket that is filled by what comes back, as in Seastar's I/O queue). A grant needs
slots: a flow that has no lease gets one with the window that its share of the weights is worth. Where there is no room
the flow whose turn it is waits, nobody behind it is served meanwhile, and leases are made smaller or ended until there
is.

The order, for every single grant:

    1. CRITICAL, as long as it stays within what the reserve is worth of the pool
    2. reservations that are due
    3. BULK and BACKGROUND, where they have had less than their floors
    4. CRITICAL, URGENT (the earliest deadline first), BULK, BACKGROUND (fair by weight, see `fair`)

Slots: `counted` is what may be in force at holders; its sum over all flows never exceeds the slots that are not the
reserve's, and a smaller window counts only once its holder has acknowledged that lease.
"""

import heapq
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from scheduler.core.classes import class_of
from scheduler.core.control import Control, QueueDelay, target_latency_ns
from scheduler.core.effects import (
    Backpressure,
    Effect,
    Fenced,
    Granted,
    Lease,
    Outlook,
    Reason,
    TicketDenied,
    TicketGranted,
)
from scheduler.core.events import DeviceSample, FlowOpened, FlowReport, PoolSettings, TicketRequested
from scheduler.core.fair import SCALE, FairQueue, TaggedHeap, Tenant
from scheduler.core.floors import Floors
from scheduler.core.flow import Flow
from scheduler.core.leases import life_ns
from scheduler.core.tags import begin_reservation, charge_cap, charge_reservation, may_be_served
from scheduler.core.tickets import Ticket, TicketBook
from scheduler.core.units import NS_PER_S, PERMILLE, Phase, ServiceClass

_FAR_NS = 1 << 62
#: Of the capacity outside the critical reserve, what reservations may take.
_PROMISED_PERMILLE = 800
#: Descriptors that may be on their way out while their leases are counted as over.
_SLACK_SLOTS = 4
_OVER_OCCUPIED_SAMPLES = 2
#: How long a holder may take for half of what it was granted.
_PATIENCE_HORIZONS = 4
#: Of a window, what may be missing or too much.
_SMALL_PART = 8
#: What each grant asks for: to look up a member of an enumeration takes a tenth of a microsecond.
_CRITICAL, _BULK, _QUEUED = ServiceClass.CRITICAL, ServiceClass.BULK, Reason.QUEUED
_LOW = (ServiceClass.BULK, ServiceClass.BACKGROUND)


@dataclass(slots=True)
class Counts:
    """What happened so far."""

    grants: int = 0
    granted_ns: int = 0
    used_ns: int = 0
    renewals: int = 0
    expiries: int = 0
    releases: int = 0
    fences: int = 0
    #: As holders report them: how long batches waited for credit, and submissions that had to be repeated.
    wait_ns: int = 0
    busy_retries: int = 0


class LeaseNumbers:
    """Numbers of leases, of all pools of an epoch: each higher than any before."""

    def __init__(self) -> None:
        self.last = 0

    def next(self) -> int:
        """A new one."""
        self.last += 1
        return self.last


class PoolScheduler:
    """State and policy of one pool."""

    def __init__(self, settings: PoolSettings, epoch: int, numbers: LeaseNumbers, learning_until_ns: int) -> None:
        self.settings = settings
        self.up = True
        #: Until then nothing but what the reserve keeps for this is granted anew.
        self.learning_until_ns = learning_until_ns
        self.flows: dict[str, Flow] = {}
        #: Closed with slots that their holders may still be using.
        self.closing: dict[int, Flow] = {}
        self.counts = Counts()
        self.control = Control()
        #: Goes up when what flows are worth changes.
        self._values = 0
        self.book = TicketBook.of(settings)
        self._apply(settings)
        self.delay = QueueDelay(2 * self.lease_ns)
        self._busy_base_ns = self._used_base_ns = 0
        self._over_occupied = 0
        #: More device time than anybody reports; whoever gives work back undone is believed only beyond this.
        self.unexplained_ns = 0
        self.outstanding_ns = 0
        self.critical_outstanding_ns = 0
        self.general_counted = 0
        self.reserve_counted = 0
        #: Longest time without a grant, by class.
        self.gaps_ns = [0] * len(ServiceClass)
        self.bulk, self.background = (FairQueue(service_class) for service_class in _LOW)
        self._queues = (self.bulk, self.background)
        self._epoch = epoch
        self._numbers = numbers
        self._tenants: dict[tuple[ServiceClass, str], Tenant] = {}
        self._critical: TaggedHeap[Flow] = TaggedHeap()
        self._urgent: TaggedHeap[Flow] = TaggedHeap()
        self._reservations: TaggedHeap[Flow] = TaggedHeap()
        #: Sum of the reservations of all flows, active or not.
        self.promised_ns_s = 0
        self._capped: TaggedHeap[Flow] = TaggedHeap()
        self._expiries: list[tuple[int, int, Flow]] = []
        self._flows_seen = 0
        #: Active flows with reservations, and the sum of these.
        self._reserved: dict[Flow, None] = {}
        self.reserved_ns_s = 0
        #: Flows with slots, in the order they got them; not those that are closing.
        self._holders: dict[Flow, None] = {}
        #: Flows whose holders must be told, in order; whether because they asked.
        self._touched: dict[Flow, bool] = {}
        self._floors = Floors(
            {ServiceClass.BULK: settings.bulk_floor, ServiceClass.BACKGROUND: settings.background_floor},
            self.lease_cost_ns,
        )

    # What the pool is worth

    def _apply(self, settings: PoolSettings) -> None:
        """Settings, and what follows from them; kept, because every grant needs it."""
        self.settings = settings
        self.lease_ns = lease_ns(settings)
        #: The most that one grant is worth, and one of CRITICAL.
        self.lease_cost_ns = self.lease_ns * settings.engines
        self._critical_cost_ns = settings.critical_lease_ns * settings.engines
        #: Slots that are not the reserve's.
        self.usable_slots = settings.slots - settings.critical_slots
        self.book.slots = settings.critical_slots
        self.book.rate_permille = settings.engines * settings.critical_slots * PERMILLE // settings.slots
        self._life_ns = life_ns(settings.ttl_ns, settings.clock_ppm, settings.drain_ns)
        self._critical_life_ns = life_ns(settings.critical_ttl_ns, settings.clock_ppm, settings.drain_ns)
        self._apply_rate()

    def _apply_rate(self) -> None:
        self._values += 1
        #: Device-ns per second, as the controller has it now.
        self.rate_ns_s = self.settings.engines * NS_PER_S * self.rate_permille // PERMILLE
        #: The most that may be granted and not done, and of it what CRITICAL may have before all others.
        self._most_outstanding_ns = self.settings.horizon_ns * self.rate_ns_s // NS_PER_S
        self._most_critical_ns = self.settings.horizon_ns * self.book.rate_permille // PERMILLE

    @property
    def rate_permille(self) -> int:
        """Of what the engines can do, what is handed out."""
        return self.control.vrate_permille

    @property
    def waiting(self) -> int:
        """Flows that could use more than they were given."""
        return sum(flow.backlogged for flow in self.flows.values())

    def learning(self, now_ns: int) -> bool:
        """Whether leases of the epoch before may still be in use."""
        return now_ns < self.learning_until_ns

    def share_ns_s(self, flow: Flow) -> int:
        """What a flow may expect of the pool, per second, among those that are active: what its weight gives it of what
        is not reserved, or its reservation."""
        if flow.valued != self._values:
            self._value(flow)
        return flow.share_ns_s

    def window_of(self, flow: Flow) -> int:
        """The window that a flow's share is worth."""
        if flow.valued != self._values:
            self._value(flow)
        return flow.worth

    def _most_ahead_ns(self, flow: Flow) -> int:
        """Twice its share of the horizon and one grant, so that who is served a little later than others does not lose
        its turn for it; but what is left for the others is at least half of theirs, or who never says what it has done
        would keep all of it."""
        if flow.valued != self._values:
            self._value(flow)
        return flow.most_ahead_ns

    def _value(self, flow: Flow) -> None:
        """What a flow is worth until the rate, a weight, or who is active changes; asked for much more often."""
        tenant = flow.tenant
        weights = flow.queue.active_weight + (0 if tenant.active_weight else tenant.weight)
        own = tenant.active_weight + (0 if flow.active else flow.weight)
        rate_ns_s = self.rate_ns_s - min(self.reserved_ns_s, self.rate_ns_s)
        share = rate_ns_s * tenant.weight * flow.weight // (weights * own)
        if flow.queue is self.background and self.bulk.active_weight:
            share = share * self.settings.background_floor // PERMILLE
        share = max(share, flow.reservation_ns_s)
        most_ns, grant_ns = self._most_outstanding_ns, self.lease_cost_ns
        share_ns = most_ns * share // self.rate_ns_s
        flow.valued, flow.share_ns_s = self._values, share
        flow.worth = max(self.settings.least_window, self.usable_slots * share // self.rate_ns_s)
        flow.most_ahead_ns = max(grant_ns, min(grant_ns + 2 * share_ns, (most_ns + share_ns) // 2))

    # Flows come, change and go

    def open(self, event: FlowOpened, tenant_weight: int, now_ns: int) -> bool:
        """A flow is there, or is not what it was. False: without its reservation, which is more than there is left."""
        flow = self.flows.get(event.flow)
        if flow is None:
            self._flows_seen += 1
            host = event.host or self.settings.host
            queue = self._queue_of(event.phase)
            tenant = self._tenant(event.tenant, queue, tenant_weight)
            flow = Flow(event.flow, host, queue, tenant, event.weight, self._flows_seen, boost_at_ns=now_ns)
            self.flows[event.flow] = flow
            self._become(flow, event, tenant_weight, now_ns)
            flow.boost_ns = _FAR_NS
        else:
            self._unqueue(flow)
            self._set_active(flow, active=False)
            self._become(flow, event, tenant_weight, now_ns)
        self._requeue(flow, now_ns)
        return flow.reservation_ns_s == event.reservation_ns_s

    @property
    def promisable_ns_s(self) -> int:
        """What reservations may sum up to: most of what is not the critical reserve."""
        capacity_ns_s = self.settings.engines * NS_PER_S
        return capacity_ns_s * self.usable_slots * _PROMISED_PERMILLE // (self.settings.slots * PERMILLE)

    def close(self, name: str) -> None:
        """A flow has gone; its slots are counted until its holder cannot use them any more."""
        flow = self.flows.get(name)
        if flow is None:
            return
        if (ticket := self.book.tickets.pop(name, None)) is not None:
            self._count(flow, flow.counted, flow.reserve_counted + ticket.slots)
            flow.expires_ns = max(flow.expires_ns, ticket.expires_ns)
            if not flow.expiry_queued:
                self._queue_expiry(flow)
        self.promised_ns_s -= flow.reservation_ns_s
        self._unqueue(flow)
        self._withdraw(flow)
        self._set_active(flow, active=False)
        self._set_class(flow, flow.home_class)
        self._touched.pop(flow, None)
        self._holders.pop(flow, None)
        del self.flows[name]
        if flow.counted or flow.reserve_counted:
            self.closing[flow.number] = flow

    def set_weight(self, tenant_name: str, weight: int) -> None:
        """A tenant's weight has changed: for grants from now on."""
        for queue in self._queues:
            tenant = self._tenants.get((queue.service_class, tenant_name))
            if tenant is not None:
                self._values += 1
                if tenant.active_weight:
                    queue.active_weight += weight - tenant.weight
                tenant.weight = weight

    # What holders say

    def report(self, report: FlowReport, now_ns: int) -> Reason | None:
        """What a holder says of its flow, under this epoch; why its lease is void, None where it is not."""
        flow = self.flows.get(report.flow)
        if flow is None:
            return Reason.UNKNOWN_FLOW
        if report.used_ns > flow.used_ns:
            self._done(flow, report.used_ns, now_ns)
        flow.heard = True
        if now_ns - flow.judged_at_ns >= _PATIENCE_HORIZONS * self.settings.horizon_ns:
            self._judge(flow, now_ns)
        flow.demand_ns = max(0, min(report.demand_ns, self._most_ahead_ns(flow)))
        flow.wait_ns, flow.busy_retries = report.wait_ns, report.busy_retries
        self.counts.wait_ns += report.wait_ns
        self.counts.busy_retries += report.busy_retries
        void = self._acknowledge(flow, report, now_ns) if report.lease else None
        # Most of the time it waits where it waited before.
        if flow.entry is None or flow.demand_ns <= flow.unused_ns or not flow.plain:
            self._unqueue(flow)
            self._requeue(flow, now_ns)
        if flow.lease:
            self._renew(flow, now_ns)
        self._touched[flow] = True
        return void

    def adopt(self, report: FlowReport, now_ns: int) -> Reason | None:
        """A holder presents a lease of the epoch before, while learning: it goes on under this one.

        All that were in force then fit together, so they fit now; one that does not was not what it says.
        """
        flow = self.flows.get(report.flow)
        if flow is None:
            return Reason.UNKNOWN_FLOW
        if flow.adopted and not report.window:
            self.confirm(flow, presented=False)
        if not flow.lease and report.window > 0 and not report.released:
            if self.general_counted + report.window > self.usable_slots:
                return Reason.STALE_LEASE
            self._set_window(flow, report.window, 0)
            self._count(flow, max(flow.counted, report.window), flow.reserve_counted)
            flow.adopted = True
        return self.report(_without_lease(report, flow.lease), now_ns)

    def confirm(self, flow: Flow, *, presented: bool) -> None:
        """The holder of an adopted lease presents it, or has none: then it was told of too late, by a report that was
        long under way, and would be revived by an answer to this one."""
        flow.adopted = False
        if not presented:
            self._withdraw(flow)
            self._end_lease(flow)

    def take_sample(self, sample: DeviceSample, now_ns: int) -> None:
        """A look at the device: the rate follows it, and what holders reported is held against it."""
        last = self.control.last
        if last is None or sample.busy_ns < last.busy_ns:
            # The device counts anew: so does the comparison.
            self._busy_base_ns, self._used_base_ns = sample.busy_ns, self.counts.used_ns
        else:
            more_ns = (sample.busy_ns - self._busy_base_ns) - (self.counts.used_ns - self._used_base_ns)
            # One grant's worth may be in the device and not reported yet.
            self.unexplained_ns = max(0, more_ns - self.lease_cost_ns)
        service_ns = max(1, sample.busy_ns // max(1, sample.completed))
        target_ns = target_latency_ns(self.settings.slots, self.settings.engines, service_ns)
        waiters = self.bulk.waiting + self.background.waiting + self._urgent.size + self._critical.size
        self.control = self.control.sample(sample, now_ns, waiters > 0, target_ns)
        self._apply_rate()
        leased = self.general_counted + self.reserve_counted + self.book.taken
        self._over_occupied = self._over_occupied + 1 if sample.occupancy > leased + _SLACK_SLOTS else 0

    @property
    def over_occupied(self) -> bool:
        """Whether more was seen in the device than was leased, twice in a row: somebody submits without a lease."""
        return self._over_occupied >= _OVER_OCCUPIED_SAMPLES

    def reopen(self, settings: PoolSettings) -> None:
        """The device is back, or is not what it was. What holders may still have of before is counted until it ends."""
        self.up = True
        self.control = self.control.opened()
        self._apply(settings)

    def shut(self) -> None:
        """The device has gone."""
        self.up = False
        self.control = self.control.closed()

    # Tickets

    def request_ticket(self, event: TicketRequested, now_ns: int) -> Effect:
        """Set slots of the reserve aside, or say when to ask again."""
        flow = self.flows.get(event.flow)
        pool = self.settings.pool
        if flow is None:
            return TicketDenied(
                self.settings.host, event.flow, pool, event.request, Reason.UNKNOWN_FLOW, self.settings.horizon_ns
            )
        known = self.book.tickets.get(event.flow)
        if known is not None and known.request == event.request and self._ticket_left_ns(known, now_ns) > 0:
            return self._ticket_granted(flow, known, now_ns)
        slots = self.book.slots_for(event.cost_ns, event.within_ns)
        if known is not None:
            # Its holder may not hear of the new one.
            slots = max(slots, known.slots)
        free = self.reserve_free(learning=self.learning(now_ns)) + (known.slots if known is not None else 0)
        if not self.up or slots > free:
            self.book.denied += 1
            reason = Reason.NO_CAPACITY if self.up else Reason.DEVICE_DOWN
            retry_ns = self.book.retry_ns(now_ns) or self.settings.horizon_ns
            return TicketDenied(flow.host, event.flow, pool, event.request, reason, retry_ns)
        expires_ns = now_ns + life_ns(
            self.settings.critical_ttl_ns, self.settings.clock_ppm, self.settings.drain_ns + event.within_ns
        )
        if known is not None:
            expires_ns = max(expires_ns, known.expires_ns)
        ticket = Ticket(
            event.flow, event.request, self._numbers.next(), slots, event.cost_ns, event.within_ns, now_ns, expires_ns
        )
        self.book.tickets[event.flow] = ticket
        self.book.issued += 1
        return self._ticket_granted(flow, ticket, now_ns)

    def close_ticket(self, name: str) -> None:
        """The guest runs again, or was never stopped: the slots are free."""
        self.book.tickets.pop(name, None)

    def _ticket_left_ns(self, ticket: Ticket, now_ns: int) -> int:
        return self.settings.critical_ttl_ns - (now_ns - ticket.granted_ns)

    def _ticket_granted(self, flow: Flow, ticket: Ticket, now_ns: int) -> TicketGranted:
        lease = Lease(
            ticket.lease, flow.name, self.settings.pool, self._epoch, _CRITICAL, ticket.slots,
            ticket.cost_ns, self._ticket_left_ns(ticket, now_ns),
        )  # fmt: skip
        return TicketGranted(flow.host, ticket.request, lease)

    def _use_ticket(self, flow: Flow, now_ns: int) -> None:
        """The guest has been stopped: what its ticket promised is granted, and charged like any other work."""
        ticket = self.book.tickets.get(flow.name)
        if ticket is not None and flow.ticket_used != ticket.lease:
            flow.ticket_used = ticket.lease
            self._outstanding(flow, flow.granted_ns + ticket.cost_ns, flow.used_ns)
            flow.queue.charge(flow, ticket.cost_ns)
            if flow.cap_ns_s:
                charge_cap(flow, ticket.cost_ns, now_ns)

    # Time

    def pass_time(self, now_ns: int) -> None:
        """End what is over, and let those back in whose caps allow it again."""
        while self._expiries and self._expiries[0][0] <= now_ns:
            _, _, flow = heapq.heappop(self._expiries)
            flow.expiry_queued = False
            if self.is_expired(flow, now_ns):
                self._expire(flow, now_ns)
            elif flow.counted or flow.reserve_counted:
                self._queue_expiry(flow)
        self.book.expire(now_ns)
        self.delay = self.delay.sample(self.bulk_wait_ns, now_ns)
        while (capped := self._capped.head()) is not None and capped.cap_tag_ns <= now_ns:
            self._unqueue(capped)
            self._requeue(capped, now_ns)

    @staticmethod
    def is_expired(flow: Flow, now_ns: int) -> bool:
        """Whether nobody can submit under the flow's lease any more."""
        return (flow.counted > 0 or flow.reserve_counted > 0) and flow.expires_ns <= now_ns

    def next_wakeup(self, now_ns: int) -> int | None:
        """When time alone changes something; None: never."""
        times = [self.learning_until_ns] if self.learning(now_ns) else []
        if self._expiries:
            times.append(self._expiries[0][0])
        if (capped := self._capped.head()) is not None:
            times.append(capped.cap_tag_ns)
        if (due := self._reservations.head_tag()) is not None and due > now_ns:
            times.append(due)
        times += [ticket.expires_ns for ticket in self.book.tickets.values()]
        return max(now_ns, min(times)) if times else None

    # Grants

    def dispatch(self, now_ns: int) -> None:
        """Grant whatever can be granted now."""
        if not self.up:
            return
        learning = self.learning(now_ns)
        while True:
            flow, due = self._next(now_ns, learning=learning)
            if flow is None:
                return
            if not flow.window and not flow.reserve_window:
                if not self._make_room(flow, learning=learning):
                    return
                self._renew(flow, now_ns)
            self._grant(flow, now_ns, due=due)

    def _next(self, now_ns: int, *, learning: bool) -> tuple[Flow | None, bool]:
        """Whose turn it is, and whether because its reservation is due."""
        critical = self._critical.head() if self._critical.size else None
        if critical is not None and not self._has_room(critical, learning):
            critical = None
        if critical is not None and self.critical_outstanding_ns < self._most_critical_ns:
            return critical, False
        if learning or self.outstanding_ns >= self._most_outstanding_ns:
            return None, False
        due = self._reservations.head() if self._reservations.size else None
        if due is not None and due.reservation_tag_ns <= now_ns:
            return due, True
        for queue in self._queues:
            if queue.waiting and self._floors.due(queue.service_class):
                return queue.head(), False
        return critical or self._urgent.head() or self.bulk.head() or self.background.head(), False

    def _grant(self, flow: Flow, now_ns: int, *, due: bool) -> None:
        most_ns = self._critical_cost_ns if flow.service_class is _CRITICAL else self.lease_cost_ns
        # Above zero: it is backlogged.
        cost_ns = min(most_ns, flow.demand_ns - flow.granted_ns + flow.used_ns)
        self._outstanding(flow, flow.granted_ns + cost_ns, flow.used_ns)
        if flow.entry is None:
            flow.boost_ns -= cost_ns
        flow.queue.charge(flow, cost_ns)
        if flow.reservation_ns_s:
            charge_reservation(flow, cost_ns, due=due)
        if flow.cap_ns_s:
            charge_cap(flow, cost_ns, now_ns)
        self._note_service(flow, cost_ns, now_ns)
        if flow.reservation_entry is not None or flow.entry is None or flow.cap_ns_s or not flow.backlogged:
            self._unqueue(flow)
            self._requeue(flow, now_ns)
        self._touched.setdefault(flow, False)

    def _note_service(self, flow: Flow, cost_ns: int, now_ns: int) -> None:
        flow.grants += 1
        self.counts.grants += 1
        self.counts.granted_ns += cost_ns
        served = flow.service_class
        for queue in self._queues:
            if queue.waiting:
                self._floors.charge(queue.service_class, served, cost_ns)
                if served is queue.service_class and queue.wanting_since_ns is not None:
                    self.gaps_ns[served] = max(self.gaps_ns[served], now_ns - queue.wanting_since_ns)
                    queue.wanting_since_ns = now_ns

    # Slots

    def _has_room(self, flow: Flow, learning: bool) -> bool:
        """Whether a CRITICAL flow has slots or can get some now."""
        if flow.window or flow.reserve_window:
            return True
        return self.reserve_free(learning=learning) > 0 or (not learning and self.general_free > 0)

    @property
    def general_free(self) -> int:
        """Slots outside the reserve that nobody can be using."""
        return self.usable_slots - self.general_counted

    def reserve_free(self, *, learning: bool) -> int:
        """Slots of the reserve that nobody has."""
        return self.book.usable(learning=learning) - self.book.taken - self.reserve_counted

    def _room_for(self, flow: Flow) -> int:
        """Slots that a flow may have: all that are free but those that others need for what they have reserved."""
        kept = sum(max(0, self.window_of(other) - other.counted) for other in self._reserved if other is not flow)
        return self.general_free - kept

    def _make_room(self, flow: Flow, *, learning: bool) -> bool:
        """Give slots to a flow that has none; False where it must wait for them."""
        if flow.service_class is _CRITICAL:
            reserve = min(self.settings.least_window, self.reserve_free(learning=learning))
            if reserve > 0:
                self._set_window(flow, 0, reserve)
                # Its holder may not have heard yet that it has lost what it had.
                self._count(flow, flow.counted, max(flow.reserve_counted, reserve))
                return True
        room = self._room_for(flow) if self._reserved else self.general_free
        window = min(self.window_of(flow), room)
        if window < self.settings.least_window and flow.service_class is not _CRITICAL:
            self._reclaim(room)
            return False
        if window <= 0:
            return False
        self._set_window(flow, window, 0)
        self._count(flow, max(flow.counted, window), flow.reserve_counted)
        return True

    def _reclaim(self, room: int) -> None:
        """Somebody's turn has come and there is too little room: windows shrink to shares, idle ones end."""
        promised = sum(flow.counted - flow.window for flow in self._holders)
        if room + promised >= self.settings.least_window:
            return
        for flow in self._holders:
            if not flow.window:
                continue
            target = self.window_of(flow) if flow.unused_ns else 0
            if target < flow.window:
                self._set_window(flow, target, flow.reserve_window)
                self._touched.setdefault(flow, False)

    def _fit(self, flow: Flow) -> None:
        """Let a holder have what its share is worth, as far as there is room: who has more slots gets more done."""
        target = min(self.window_of(flow), flow.counted + self._room_for(flow))
        # Small steps are not worth a lease that must be acknowledged.
        if flow.window and target > flow.window + flow.window // _SMALL_PART:
            self._set_window(flow, target, flow.reserve_window)
            self._count(flow, target, flow.reserve_counted)
        elif flow.window > self.window_of(flow) * (_SMALL_PART + 1) // _SMALL_PART:
            self._set_window(flow, self.window_of(flow), flow.reserve_window)

    def _set_window(self, flow: Flow, window: int, reserve_window: int) -> None:
        if (window, reserve_window) != (flow.window, flow.reserve_window):
            flow.window, flow.reserve_window = window, reserve_window
            # A new number, or an acknowledgement of the window before could be taken for one of this.
            flow.lease = self._numbers.next()

    def _count(self, flow: Flow, counted: int, reserve_counted: int) -> None:
        self.general_counted += counted - flow.counted
        self.reserve_counted += reserve_counted - flow.reserve_counted
        flow.counted, flow.reserve_counted = counted, reserve_counted
        if counted or reserve_counted:
            self._holders[flow] = None
        else:
            self._holders.pop(flow, None)

    # Leases

    def _acknowledge(self, flow: Flow, report: FlowReport, now_ns: int) -> Reason | None:
        if not flow.lease or report.lease > flow.lease:
            self.counts.fences += 1
            return Reason.EXPIRED
        if report.lease == flow.lease:
            window = flow.window + flow.reserve_window
            if report.released or report.window == window == 0:
                self.counts.releases += 1
                self._give_back(flow)
            elif report.window <= window:
                self._count(flow, flow.window, flow.reserve_window)
                if flow.reserve_window and flow.service_class is not _CRITICAL:
                    self._set_window(flow, flow.window, 0)
                if not self.learning(now_ns):
                    self._fit(flow)
        return None

    def _give_back(self, flow: Flow) -> None:
        """A lease ends in order: what was not done is not charged, as far as the device bears that out."""
        unused_ns = flow.unused_ns
        if unused_ns:
            if unused_ns > self.unexplained_ns:
                flow.queue.refund(flow, unused_ns - self.unexplained_ns)
            self._withdraw(flow)
        self._end_lease(flow)

    def _withdraw(self, flow: Flow) -> None:
        if flow.unused_ns:
            self._outstanding(flow, flow.used_ns, flow.used_ns)

    def _end_lease(self, flow: Flow) -> None:
        flow.stuck = False
        flow.window = flow.reserve_window = flow.lease = 0
        flow.adopted = False
        self._count(flow, 0, 0)

    def _expire(self, flow: Flow, now_ns: int) -> None:
        self.counts.expiries += 1
        self._unqueue(flow)
        # Charged for good: nobody knows what became of it.
        self._withdraw(flow)
        self._end_lease(flow)
        if self.closing.pop(flow.number, None) is not None:
            return
        # Who does not report wants nothing.
        flow.demand_ns = 0
        self._requeue(flow, now_ns)

    def _renew(self, flow: Flow, now_ns: int) -> None:
        self.counts.renewals += 1
        flow.ttl_ns = self._ttl_ns(flow)
        # Never sooner: the answer that shortens its life may be lost.
        flow.expires_ns = max(flow.expires_ns, now_ns + self.lease_life_ns(flow))
        if not flow.expiry_queued:
            self._queue_expiry(flow)

    def _queue_expiry(self, flow: Flow) -> None:
        # One entry for each flow: a lease that was renewed meanwhile is queued again when its turn comes.
        flow.expiry_queued = True
        heapq.heappush(self._expiries, (flow.expires_ns, flow.number, flow))

    def lease_life_ns(self, flow: Flow) -> int:
        """How long after now the flow's lease must be taken to be in use; see `leases`."""
        return self._critical_life_ns if flow.service_class is _CRITICAL else self._life_ns

    def _ttl_ns(self, flow: Flow) -> int:
        critical = flow.service_class is _CRITICAL
        return self.settings.critical_ttl_ns if critical else self.settings.ttl_ns

    def validate(self) -> None:
        """Raise AssertionError, with the facts, if what must hold does not."""
        every = [*self.flows.values(), *self.closing.values()]
        name = self.settings.pool
        general = sum(flow.counted for flow in every)
        reserve = sum(flow.reserve_counted for flow in every)
        assert general == self.general_counted, f"{name}: {general} slots are in use, {self.general_counted} counted"
        assert reserve == self.reserve_counted, f"{name}: {reserve} of the reserve, {self.reserve_counted} counted"
        assert general <= self.usable_slots, f"{name}: {general} of {self.usable_slots} slots leased"
        assert reserve + self.book.taken <= self.settings.critical_slots, f"{name}: {reserve}+{self.book.taken} reserve"
        outstanding = sum(flow.pending_ns for flow in self.flows.values())
        assert outstanding == self.outstanding_ns, f"{name}: {outstanding} granted, {self.outstanding_ns} counted"
        critical = sum(flow.pending_ns for flow in self.flows.values() if flow.service_class is _CRITICAL)
        assert critical == self.critical_outstanding_ns, f"{name}: {critical}, {self.critical_outstanding_ns} critical"
        for flow in self.flows.values():
            assert flow.granted_ns >= flow.used_ns, f"{name}: {flow.name} did {flow.used_ns} of {flow.granted_ns}"
            queued = sum(entry is not None for entry in (flow.entry, flow.urgent_entry, flow.cap_entry))
            assert queued == flow.backlogged, f"{name}: {flow.name} in {queued} queues, backlogged: {flow.backlogged}"
            assert flow.window <= flow.counted, f"{name}: {flow.name} may use {flow.window}, {flow.counted} counted"
            assert not flow.window or flow.lease, f"{name}: {flow.name} has a window of {flow.window} and no lease"
        for queue in self._queues:
            tenants = [tenant for (of, _), tenant in self._tenants.items() if of is queue.service_class]
            weights = sum(tenant.weight for tenant in tenants if tenant.active_weight)
            assert weights == queue.active_weight, f"{name}: {queue.service_class.name} weighs {weights}"

    # Effects

    def effects(self, now_ns: int) -> list[Effect]:
        """What holders must be told: of leases those that have one, of their outlook those that asked."""
        touched, self._touched = self._touched, {}
        pool = self.settings.pool
        told: list[Effect] = []
        for flow, asked in touched.items():
            if flow.lease:
                told.append(Granted(flow.host, self._lease(flow)))
            if asked and flow.demand_ns:
                why = self._why(flow, now_ns) if flow.granted_ns <= flow.used_ns else None
                told.append(Outlook(flow.host, flow.name, pool, self.wait_ns(flow), self.share_ns_s(flow), why))
        return told

    def fence_all(self, reason: Reason, now_ns: int) -> Iterator[Fenced]:
        """The device has gone: every lease is void."""
        for flow in self.flows.values():
            if flow.lease:
                self.counts.fences += 1
                self._unqueue(flow)
                self._withdraw(flow)
                flow.window = flow.reserve_window = flow.lease = 0
                flow.adopted = False
                self._requeue(flow, now_ns)
                yield Fenced(flow.host, flow.name, self.settings.pool, reason)

    def backpressure(self, host: str, *, stop_admission: bool) -> Backpressure:
        """How long a BULK grant would wait that is asked for now."""
        return Backpressure(host, self.settings.pool, self.bulk_wait_ns, stop_admission)

    @property
    def bulk_wait_ns(self) -> int:
        """The wait of the flow that is next in BULK."""
        flow = self.bulk.head()
        return self.wait_ns(flow) if flow is not None else 0

    def wait_ns(self, flow: Flow) -> int:
        """How long until a flow's next grant, by its tags: none while it has something left."""
        if flow.granted_ns > flow.used_ns or flow.entry is None:
            return 0
        queue, tenant = flow.queue, flow.tenant
        # Who is queued is active, and never before V by more than was given back.
        own = (flow.start - tenant.virtual) * tenant.active_weight // tenant.weight
        ahead = (tenant.start - queue.virtual + own) * queue.active_weight // SCALE
        return max(0, ahead + self.outstanding_ns) * NS_PER_S // self.rate_ns_s

    def _why(self, flow: Flow, now_ns: int) -> Reason:
        if not self.up:
            return Reason.DEVICE_DOWN
        if self.learning(now_ns):
            return Reason.LEARNING
        if flow.cap_entry is not None:
            return Reason.CAPPED
        return _QUEUED if flow.window or self.general_free else Reason.NO_SLOTS

    def _lease(self, flow: Flow) -> Lease:
        window = flow.window + flow.reserve_window
        pool = self.settings.pool
        return Lease(flow.lease, flow.name, pool, self._epoch, flow.service_class, window, flow.granted_ns, flow.ttl_ns)

    # Queues

    @property
    def tenants(self) -> Iterable[Tenant]:
        """All that were ever seen, one for each class that they had flows in."""
        return self._tenants.values()

    def _queue_of(self, phase: Phase) -> FairQueue:
        return self.background if phase is Phase.BACKGROUND else self.bulk

    def _tenant(self, name: str, queue: FairQueue, weight: int) -> Tenant:
        key = (queue.service_class, name)
        if key not in self._tenants:
            self._tenants[key] = Tenant(name, weight, len(self._tenants))
        return self._tenants[key]

    def _become(self, flow: Flow, event: FlowOpened, tenant_weight: int, now_ns: int) -> None:
        flow.weight = event.weight
        self.promised_ns_s -= flow.reservation_ns_s
        # More than can be kept is no promise to anybody.
        kept = self.promised_ns_s + event.reservation_ns_s <= self.promisable_ns_s
        flow.reservation_ns_s = event.reservation_ns_s if kept else 0
        self.promised_ns_s += flow.reservation_ns_s
        flow.cap_ns_s = event.cap_ns_s
        flow.deadline_ns, flow.remaining_ns = event.deadline_ns, event.remaining_ns
        flow.phase = event.phase
        self._values += 1
        queue = self._queue_of(event.phase)
        tenant = self._tenant(event.tenant, queue, tenant_weight)
        if tenant is not flow.tenant:
            # Another queue has another virtual time.
            flow.queue, flow.tenant, flow.finish = queue, tenant, 0
        if flow.phase is Phase.STOPPED:
            self._use_ticket(flow, now_ns)

    def _set_active(self, flow: Flow, *, active: bool) -> None:
        if flow.active == active:
            return
        flow.active = active
        self._values += 1
        if flow.reservation_ns_s:
            self._reserve(flow, active=active)
        tenant = flow.tenant
        before = bool(tenant.active_weight)
        tenant.active_weight += flow.weight if active else -flow.weight
        if before != bool(tenant.active_weight):
            flow.queue.active_weight += tenant.weight if active else -tenant.weight

    def _reserve(self, flow: Flow, *, active: bool) -> None:
        if active:
            self._reserved[flow] = None
        else:
            del self._reserved[flow]
        self.reserved_ns_s += flow.reservation_ns_s if active else -flow.reservation_ns_s

    def _class(self, flow: Flow, now_ns: int) -> ServiceClass:
        if flow.deadline_ns is None and flow.phase in (Phase.PRECOPY, Phase.BACKGROUND):
            return flow.home_class
        return class_of(flow, self.share_ns_s(flow), self.settings.horizon_ns, now_ns)

    def _set_class(self, flow: Flow, service_class: ServiceClass) -> None:
        """Only while it is in no queue."""
        if flow.service_class is not service_class:
            if flow.service_class is _CRITICAL:
                self.critical_outstanding_ns -= flow.pending_ns
            if service_class is _CRITICAL:
                self.critical_outstanding_ns += flow.pending_ns
            flow.service_class = service_class

    def _requeue(self, flow: Flow, now_ns: int) -> None:
        """Put a flow that is in no queue where it belongs."""
        backlogged = flow.backlogged
        self._set_active(flow, active=backlogged or flow.window > 0)
        self._set_class(flow, self._class(flow, now_ns))
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

    def _unqueue(self, flow: Flow) -> None:
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

    def _deadlines(self, flow: Flow) -> TaggedHeap[Flow]:
        return self._critical if flow.service_class is _CRITICAL else self._urgent

    # Work

    def _done(self, flow: Flow, used_ns: int, now_ns: int) -> None:
        """Work was done; what nobody granted is paid for as if it had been."""
        if not flow.heard:
            # Where its counter stands when it is first heard of is no work of ours.
            flow.granted_ns += used_ns - flow.used_ns
            flow.used_ns = used_ns
            return
        self.counts.used_ns += used_ns - flow.used_ns
        flow.tenant.used_ns += used_ns - flow.used_ns
        overrun_ns = used_ns - flow.granted_ns
        if overrun_ns <= 0:
            self._outstanding(flow, flow.granted_ns, used_ns)
        else:
            self._outstanding(flow, used_ns, used_ns)
            flow.queue.charge(flow, overrun_ns)
            if flow.cap_ns_s:
                charge_cap(flow, overrun_ns, now_ns)

    def _judge(self, flow: Flow, now_ns: int) -> None:
        """Who does not half of its work in the time of several horizons must not keep others waiting for theirs."""
        stuck = flow.used_ns - flow.judged_used_ns < flow.judged_unused_ns // 2
        flow.judged_at_ns, flow.judged_used_ns, flow.judged_unused_ns = now_ns, flow.used_ns, flow.unused_ns
        before_ns, flow.stuck = flow.pending_ns, stuck
        self._pending(flow, flow.pending_ns - before_ns)

    def _outstanding(self, flow: Flow, granted_ns: int, used_ns: int) -> None:
        change = granted_ns - used_ns - flow.granted_ns + flow.used_ns
        flow.granted_ns, flow.used_ns = granted_ns, used_ns
        if not flow.stuck:
            self._pending(flow, change)

    def _pending(self, flow: Flow, change: int) -> None:
        self.outstanding_ns += change
        if flow.service_class is _CRITICAL:
            self.critical_outstanding_ns += change


def lease_ns(settings: PoolSettings) -> int:
    """What one grant is worth, in time of the whole pool.

    No more flows can hold a lease than windows fit. The work that may be granted ahead, and what is done until its
    holders have reported that it is (half as much again), must be spread over fewer than that: or all slots are held by
    flows that wait for their next grant, and the device runs dry (measured: 13 % idle with 100 flows, none after this).
    """
    holders = max(1, (settings.slots - settings.critical_slots) // settings.least_window)
    least_ns = settings.horizon_ns * 15 // (8 * holders)
    return min(settings.horizon_ns, max(settings.lease_ns, least_ns))


def _without_lease(report: FlowReport, lease: int) -> FlowReport:
    return FlowReport(
        report.flow, report.pool, report.demand_ns, report.used_ns, lease, report.window, False,
        report.wait_ns, report.busy_retries,
    )  # fmt: skip
