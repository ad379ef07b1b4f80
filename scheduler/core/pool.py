"""One pool: who gets the next grant, and which slots are whose. Pure; `machine` is the only caller.

A grant is a quantum of budget for one flow, charged to its tags when it is made. What all flows have been granted and
not done yet never exceeds the pool's horizon by more than the part of the reserve, so grants follow completions,
whatever rate the device has (a bucket that is filled by what comes back, as in Seastar's I/O queue). A grant needs
slots; where there are none the flow whose turn it is waits, and nobody behind it is served meanwhile.

What belongs together is kept together: `capacity` (what the pool can do), `shares` (what each flow is worth of it),
`ledger` (work granted and done), `slots` (windows), `turns` (the order of service), `pool_leases` (their life),
`ticket_desk`, `device_watch`, and `answers` (what holders are told). Here is what happens when.
"""

from collections.abc import Iterator
from dataclasses import replace

from scheduler.core.answers import Answers
from scheduler.core.capacity import Capacity
from scheduler.core.control import NOMINAL, QueueDelay
from scheduler.core.counts import Counts, LeaseNumbers
from scheduler.core.device_watch import DeviceWatch
from scheduler.core.effects import Effect, Fenced, Reason, TicketDenied
from scheduler.core.events import DeviceSample, FlowOpened, FlowReport, PoolSettings, TicketRequested
from scheduler.core.flow import Flow
from scheduler.core.ledger import Ledger
from scheduler.core.pool_leases import PoolLeases
from scheduler.core.shares import Shares
from scheduler.core.slots import Slots
from scheduler.core.tags import charge_cap, charge_reservation
from scheduler.core.ticket_desk import TicketDesk
from scheduler.core.tickets import TicketBook
from scheduler.core.turns import Turns
from scheduler.core.units import Phase, ServiceClass

_FAR_NS = 1 << 62
#: A queue whose least wait is above so many leases is too long.
_DELAY_LEASES = 2
_CRITICAL = ServiceClass.CRITICAL
_UNHURRIED = (Phase.PRECOPY, Phase.BACKGROUND)


class PoolScheduler:
    """State and policy of one pool."""

    def __init__(self, settings: PoolSettings, epoch: int, numbers: LeaseNumbers, learning_until_ns: int) -> None:
        self.up = True
        #: Until then nothing but what the reserve keeps for this is granted anew.
        self.learning_until_ns = learning_until_ns
        self.flows: dict[str, Flow] = {}
        self.counts = Counts()
        self.capacity = Capacity(settings, NOMINAL)
        self.delay = QueueDelay(_DELAY_LEASES * self.capacity.lease_ns)
        self.book = TicketBook.of(settings)
        self.shares = Shares(self.capacity)
        self.ledger = Ledger(self.counts)
        self.watch = DeviceWatch()
        self.slots = Slots(self.capacity, self.shares, self.book, numbers)
        self.turns = Turns(self.capacity, self.shares, self.ledger, self.slots)
        self.leases = PoolLeases(self.capacity, self.slots, self.ledger, self.watch, self.counts)
        self.answers = Answers(epoch, self.capacity, self.shares, self.ledger, self.slots)
        self._desk = TicketDesk(epoch, numbers, self.capacity, self.book, self.slots, self.ledger)
        self._flows_seen = 0
        #: Flows whose holders must be told, in order; whether because they asked.
        self._touched: dict[Flow, bool] = {}

    @property
    def settings(self) -> PoolSettings:
        """As they were set last."""
        return self.capacity.settings

    @property
    def waiting(self) -> int:
        """Flows that could use more than they were given."""
        return sum(flow.backlogged for flow in self.flows.values())

    def learning(self, now_ns: int) -> bool:
        """Whether leases of the epoch before may still be in use."""
        return now_ns < self.learning_until_ns

    # The device comes and goes

    def reopen(self, settings: PoolSettings) -> None:
        """The device is back, or is not what it was. What holders may still have of before is counted until it ends."""
        self.up = True
        self.watch.opened()
        self.book.apply(settings)
        self.capacity.apply(settings, self.watch.control.vrate_permille)
        self.shares.changed()
        self.turns.capacity_changed()
        self.delay = replace(self.delay, target_ns=_DELAY_LEASES * self.capacity.lease_ns)

    def shut(self) -> None:
        """The device has gone."""
        self.up = False
        self.watch.closed()

    def take_sample(self, sample: DeviceSample, now_ns: int) -> None:
        """A look at the device: the rate follows it, and what holders reported is held against it."""
        self.watch.sample(
            sample,
            now_ns,
            self.capacity,
            used_ns=self.counts.used_ns,
            leased=self.slots.leased,
            waiters=self.turns.anybody_waits,
        )
        rate_permille = self.watch.control.vrate_permille
        if rate_permille != self.capacity.rate_permille:
            self.capacity.set_rate(rate_permille)
            self.shares.changed()

    # Flows come, change and go

    def open(self, event: FlowOpened, tenant_weight: int, now_ns: int) -> bool:
        """A flow is there, or is not what it was. False: without its reservation, which is more than there is left."""
        flow = self.flows.get(event.flow)
        if flow is None:
            self._flows_seen += 1
            host = event.host or self.settings.host
            queue = self.shares.queue_of(event.phase)
            tenant = self.shares.tenant(event.tenant, queue, tenant_weight)
            flow = Flow(
                event.flow, host, queue, tenant, event.weight, self._flows_seen, boost_ns=_FAR_NS, boost_at_ns=now_ns
            )
            self.flows[event.flow] = flow
        else:
            self.turns.leave(flow)
            self.shares.set_active(flow, active=False)
        self._become(flow, event, tenant_weight, now_ns)
        self.turns.enter(flow, now_ns)
        return flow.reservation_ns_s == event.reservation_ns_s

    def _become(self, flow: Flow, event: FlowOpened, tenant_weight: int, now_ns: int) -> None:
        flow.weight = event.weight
        self.shares.promise(flow, event.reservation_ns_s)
        flow.cap_ns_s = event.cap_ns_s
        flow.deadline_ns, flow.remaining_ns = event.deadline_ns, event.remaining_ns
        flow.phase = event.phase
        flow.unhurried = event.deadline_ns is None and event.phase in _UNHURRIED
        flow.plain = flow.unhurried and not event.cap_ns_s
        self.shares.changed()
        queue = self.shares.queue_of(event.phase)
        tenant = self.shares.tenant(event.tenant, queue, tenant_weight)
        if tenant is not flow.tenant:
            # Another queue has another virtual time.
            flow.queue, flow.tenant, flow.finish = queue, tenant, 0
        if flow.phase is Phase.STOPPED:
            self._desk.use(flow, now_ns)

    def close(self, name: str) -> None:
        """A flow has gone; its slots are counted until its holder cannot use them any more."""
        flow = self.flows.pop(name, None)
        if flow is None:
            return
        self.turns.leave(flow)
        self.leases.close(flow, self.book.tickets.pop(name, None))
        self.shares.set_active(flow, active=False)
        self.shares.promise(flow, 0)
        self.ledger.set_class(flow, flow.home_class)
        self._touched.pop(flow, None)

    # What holders say

    def report(self, flow: Flow, report: FlowReport, now_ns: int) -> Reason | None:
        """What a holder says of its flow, under this epoch; why its lease is void, None where it is not."""
        if report.used_ns > flow.used_ns:
            self.ledger.done(flow, report.used_ns, now_ns)
        flow.heard = True
        if now_ns - flow.judged_at_ns >= self.capacity.patience_ns:
            self.ledger.judge(flow, now_ns)
        demand_ns, most_ns = report.demand_ns, self.shares.most_ahead_ns(flow)
        flow.demand_ns = most_ns if demand_ns > most_ns else max(0, demand_ns)
        flow.wait_ns, flow.busy_retries = report.wait_ns, report.busy_retries
        self.counts.wait_ns += report.wait_ns
        self.counts.busy_retries += report.busy_retries
        void = self.leases.acknowledge(flow, report, learning=self.learning(now_ns)) if report.lease else None
        # Most of the time it waits where it waited before.
        if flow.entry is None or not flow.plain or not flow.backlogged:
            self.turns.move(flow, now_ns)
        if flow.lease:
            self.leases.renew(flow, now_ns)
        self._touched[flow] = True
        return void

    def adopt(self, flow: Flow, report: FlowReport, now_ns: int) -> Reason | None:
        """A holder presents a lease of the epoch before, while learning."""
        return self.leases.adopt(flow, report) or self.report(flow, _without_lease(report, flow.lease), now_ns)

    # Tickets

    def request_ticket(self, event: TicketRequested, now_ns: int) -> Effect:
        """Set slots of the reserve aside, or say when to ask again."""
        flow = self.flows.get(event.flow)
        if flow is None:
            host, pool, retry_ns = self.settings.host, self.settings.pool, self.settings.horizon_ns
            return TicketDenied(host, event.flow, pool, event.request, Reason.UNKNOWN_FLOW, retry_ns)
        return self._desk.request(flow, event, now_ns, up=self.up, learning=self.learning(now_ns))

    def close_ticket(self, name: str) -> None:
        """The guest runs again, or was never stopped: the slots are free."""
        self.book.tickets.pop(name, None)

    # Time

    def pass_time(self, now_ns: int) -> None:
        """End what is over, and let those back in whose caps allow it again."""
        for flow in self.leases.expired(now_ns):
            # Who does not report wants nothing.
            flow.demand_ns = 0
            self.turns.move(flow, now_ns)
        self.book.expire(now_ns)
        self.delay = self.delay.sample(self.answers.bulk_wait_ns, now_ns)
        self.turns.pass_time(now_ns)

    def next_wakeup(self, now_ns: int) -> int | None:
        """When time alone changes something; None: never."""
        times = self.turns.wakeups_ns(now_ns)
        if self.learning(now_ns):
            times.append(self.learning_until_ns)
        if (expiry_ns := self.leases.next_expiry_ns) is not None:
            times.append(expiry_ns)
        times += [ticket.expires_ns for ticket in self.book.tickets.values()]
        return max(now_ns, min(times)) if times else None

    # Grants

    def dispatch(self, now_ns: int) -> None:
        """Grant whatever can be granted now."""
        if not self.up:
            return
        learning = self.learning(now_ns)
        while True:
            flow, due = self.turns.next(now_ns, learning=learning)
            if flow is None:
                return
            if not flow.window and not flow.reserve_window:
                if not self.slots.make_room(flow, learning=learning):
                    self._reclaim(flow)
                    return
                self.leases.renew(flow, now_ns)
            self._grant(flow, now_ns, due=due)

    def _grant(self, flow: Flow, now_ns: int, *, due: bool) -> None:
        most_ns = self.capacity.critical_cost_ns if flow.service_class is _CRITICAL else self.capacity.lease_cost_ns
        # Above zero: it is backlogged.
        cost_ns = min(most_ns, flow.demand_ns - flow.granted_ns + flow.used_ns)
        self.ledger.grant(flow, cost_ns)
        if flow.entry is None:
            flow.boost_ns -= cost_ns
        flow.queue.charge(flow, cost_ns)
        if flow.reservation_ns_s:
            charge_reservation(flow, cost_ns, due=due)
        if flow.cap_ns_s:
            charge_cap(flow, cost_ns, now_ns)
        flow.grants += 1
        self.counts.grants += 1
        self.counts.granted_ns += cost_ns
        self.turns.served(flow, cost_ns, now_ns)
        if flow.reservation_entry is not None or flow.entry is None or flow.cap_ns_s or not flow.backlogged:
            self.turns.move(flow, now_ns)
        self._touched.setdefault(flow, False)

    def _reclaim(self, waiting: Flow) -> None:
        if waiting.service_class is not _CRITICAL:
            for flow in self.slots.reclaim(waiting):
                self._touched.setdefault(flow, False)

    # Effects

    def effects(self, now_ns: int) -> list[Effect]:
        """What holders must be told: of leases those that have one, of their outlook those that asked."""
        touched, self._touched = self._touched, {}
        return self.answers.tell(touched, up=self.up, learning=self.learning(now_ns))

    def fence_all(self, reason: Reason, now_ns: int) -> Iterator[Fenced]:
        """The device has gone: every lease is void."""
        for flow in self.flows.values():
            if flow.lease:
                self.leases.void(flow)
                self.turns.move(flow, now_ns)
                yield Fenced(flow.host, flow.name, self.settings.pool, reason)


def _without_lease(report: FlowReport, lease: int) -> FlowReport:
    return FlowReport(
        report.flow, report.pool, report.demand_ns, report.used_ns, lease, report.window, False,
        report.wait_ns, report.busy_retries,
    )  # fmt: skip
