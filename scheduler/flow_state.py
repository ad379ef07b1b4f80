"""One flow as its host's client has it: the lease, who works under it, and what the scheduler is told of it.

A lease ends for its holder at the time of sending of the tick that earned it, plus its time to live. The holder gives
it back before that when its budget is used up or nobody wants anything, so that another can have its slots: windows
are withdrawn first, and only with nothing in flight is it `released`.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace

from scheduler.core.answers import WITHHELD
from scheduler.core.effects import Lease, Outlook
from scheduler.core.events import FlowReport, PoolSettings
from scheduler.core.units import Phase, ServiceClass
from scheduler.demand import Demand
from scheduler.flow_split import FlowSplit
from scheduler.sub_leases import SubLeases, WorkerRow
from scheduler.ticks import OpenFlow

#: Why a batch got no credit, where that is no `Reason`.
USED_UP, UNKNOWN = "used-up", "unknown"
#: Everything that a batch without credit is counted under.
WHY_NONE = (USED_UP, UNKNOWN, *(reason.value for reason in WITHHELD))
#: Ticks without demand before a lease is given back.
IDLE_TICKS = 5


@dataclass(slots=True)
class HeldLease:
    """A lease and when it ends by this host's CLOCK_BOOTTIME."""

    lease: Lease
    deadline_ns: int


class FlowState:
    """What `open_flow` made; `SchedulerClient` calls the rest once per tick, in the order of the methods."""

    def __init__(self, opened: OpenFlow, due_ns: int | None, pool: PoolSettings, leases: SubLeases) -> None:
        self.opened = opened
        self.due_ns = due_ns
        self.pool = pool
        self.sub_leases = leases
        self.closing = False
        self.outlook: Outlook | None = None
        self.split = FlowSplit()
        self.held: HeldLease | None = None
        #: Slots set aside for the stop; on top of the lease, once the guest stands still.
        self.ticket: HeldLease | None = None
        #: Whether the scheduler is to be told that the ticket is done with, once its slots are not in use.
        self.ticket_over = False
        #: The newest lease that was told of, live or not, in its epoch.
        self.newest: Lease | None = None
        #: The newest of which no more than its window is in force here.
        self._acknowledged = 0
        #: Work done before the scheduler heard of this flow: its totals begin there.
        self._base_ns = 0
        self._demand = Demand(pool)
        self._before = leases.totals
        self._told = self._before
        self._reported = self._before
        self._observed_ns: int | None = None
        self._idle_ticks = 0
        #: Batches that got no credit, by why.
        self.fallbacks: Counter[str] = Counter()

    def observe(self, now_ns: int, alive: Callable[[WorkerRow], bool]) -> None:
        """Read the workers' counters."""
        for row in self.sub_leases.rows:
            if not row.dead and not alive(row):
                self.sub_leases.bury(row)
        self.sub_leases.observe()
        now = self.sub_leases.totals
        if self._observed_ns is not None:
            asked_ns, denied = now.asked_ns - self._before.asked_ns, now.denied - self._before.denied
            if denied:
                self.fallbacks[self._why_none()] += denied
            if now.asked_ns:
                self._demand.observe(asked_ns, denied, now.pending_ns, now_ns - self._observed_ns)
            self._idle_ticks = 0 if asked_ns or now.pending_ns else self._idle_ticks + 1
            self.split.observe(self._before, now, now_ns - self._observed_ns)
        self._before, self._observed_ns = now, now_ns

    def _why_none(self) -> str:
        """Why a batch got no credit, as far as is known here: the lease's slots or its budget were used up, or there is
        none, for the reason that the scheduler gave last."""
        if self.held is not None and self.held.lease.window:
            return USED_UP
        return UNKNOWN if self.outlook is None or self.outlook.withheld is None else self.outlook.withheld.value

    def decide(self, host_busy_permille: int) -> None:
        """Which share of the work is best given to the device."""
        critical = self.held is not None and self.held.lease.service_class is ServiceClass.CRITICAL
        self.split.decide(self.outlook, host_busy_permille, critical=critical)

    def end_what_is_over(self, now_ns: int) -> bool:
        """Withdraw what has run out or is to be given back; whether nothing is to be published but that."""
        self._expire(now_ns)
        if self.held is None or self._stopped_ticket() is not None:
            return False
        lease, now = self.held.lease, self._before
        done = now.used_ns >= lease.budget_until_ns or self._idle_ticks >= IDLE_TICKS or not lease.window
        if not self.closing and (now.in_flight or not done):
            return False
        self.sub_leases.withdraw()
        if self.sub_leases.quiet(now_ns):
            self.held = None
        return True

    def enforce(self, now_ns: int) -> None:
        """Publish what may be done from now on, by the lease and the ticket there are."""
        if self.end_what_is_over(now_ns):
            return
        if (effective := _together(self.held, self._stopped_ticket())) is not None:
            self.sub_leases.publish(effective.lease, effective.deadline_ns, self.split.device_permille, now_ns)

    def _expire(self, now_ns: int) -> None:
        over = False
        if self.held is not None and now_ns >= self.held.deadline_ns:
            self.held, over = None, True
        if self.ticket is not None and now_ns >= self.ticket.deadline_ns:
            self.ticket, over = None, True
        if over and self.held is None and self._stopped_ticket() is None:
            self.sub_leases.withdraw()

    def _stopped_ticket(self) -> HeldLease | None:
        return None if self.closing or self.opened.phase is not Phase.STOPPED else self.ticket

    def grant_ticket(self, lease: Lease, sent_ns: int) -> None:
        """A ticket that a tick sent at `sent_ns` brought; its budget counts from the stop."""
        self.ticket, self.ticket_over = HeldLease(lease, sent_ns + lease.ttl_ns), False
        if self.opened.phase is Phase.STOPPED:
            self.stop()

    def stop(self) -> None:
        """The guest stands still from now on."""
        if self.ticket is not None:
            self.sub_leases.observe()
            budget_ns = self.sub_leases.totals.used_ns + self.ticket.lease.budget_until_ns
            self.ticket = replace(self.ticket, lease=replace(self.ticket.lease, budget_until_ns=budget_ns))

    def close_ticket(self) -> None:
        """The guest runs again: the ticket's slots are used no more."""
        self.ticket, self.ticket_over = None, True
        if self.held is None:
            self.sub_leases.withdraw()

    def ticket_free(self, now_ns: int) -> bool:
        """Whether a ticket that is over has left the device."""
        window = 0 if self.held is None else self.held.lease.window
        return self.ticket_over and self.sub_leases.occupied(now_ns) <= window

    def grant(self, lease: Lease, sent_ns: int) -> None:
        """A lease that a tick sent at `sent_ns` brought."""
        newest, deadline_ns = self.newest, sent_ns + lease.ttl_ns
        if newest is not None and (lease.epoch, lease.lease) < (newest.epoch, newest.lease):
            return
        budget_ns = lease.budget_until_ns + self._base_ns
        if self.held is not None and (lease.epoch, lease.lease) == (self.held.lease.epoch, self.held.lease.lease):
            deadline_ns = max(deadline_ns, self.held.deadline_ns)
        if self.held is not None and lease.epoch != self.held.lease.epoch:
            # Adopted: the new epoch knows of the slots, not of what was still to be done with them.
            budget_ns = max(budget_ns, self.held.lease.budget_until_ns)
        self.newest = lease if budget_ns == lease.budget_until_ns else replace(lease, budget_until_ns=budget_ns)
        if not self.closing:
            self.held = HeldLease(self.newest, deadline_ns)

    def void(self) -> None:
        """Nothing may be submitted any more."""
        self.held = None
        if self._stopped_ticket() is None:
            self.sub_leases.withdraw()

    def report(self, now_ns: int) -> FlowReport:
        """What the scheduler is told."""
        now = self._reported = self._before
        # A ticket's slots are counted as the ticket's.
        ticket = self._stopped_ticket()
        window = max(0, self.sub_leases.occupied(now_ns) - (0 if ticket is None else ticket.lease.window))
        if self.newest is not None and window <= self.newest.window:
            self._acknowledged = self.newest.lease
        lease = self._acknowledged
        return FlowReport(
            self.opened.flow,
            self.opened.pool,
            0 if self.closing or self._idle_ticks >= IDLE_TICKS else self._demand.demand_ns,
            now.used_ns - self._base_ns,
            lease,
            window,
            lease != 0 and self.held is None and window == 0,
            now.wait_ns - self._told.wait_ns,
            now.busy_retries - self._told.busy_retries,
        )

    def reported(self, report: FlowReport) -> None:
        """That report has arrived."""
        self._told = self._reported
        if report.released and self.newest is not None and report.lease == self.newest.lease:
            self.newest, self._acknowledged = None, 0

    def forget_lease(self) -> None:
        """It was of an epoch that has ended, and was not adopted."""
        self.void()
        self.newest, self._acknowledged = None, 0

    def begin_again(self) -> None:
        """The scheduler is told of this flow as of a new one."""
        self._base_ns = self._before.used_ns

    @property
    def given_back(self) -> bool:
        """Whether the scheduler knows that this flow has no slots."""
        return self.newest is None

    def finished(self, now_ns: int) -> bool:
        """Whether a closing flow has nothing in the device and cannot submit."""
        return self.closing and not self.ticket_over and self.held is None and self.sub_leases.quiet(now_ns)


def _together(held: HeldLease | None, ticket: HeldLease | None) -> HeldLease | None:
    """What may be done under both, until the first of them ends; the next tick looks again."""
    if held is None or ticket is None:
        return held or ticket
    window = held.lease.window + ticket.lease.window
    budget_ns = max(held.lease.budget_until_ns, ticket.lease.budget_until_ns)
    lease = replace(held.lease, service_class=ServiceClass.CRITICAL, window=window, budget_until_ns=budget_ns)
    return HeldLease(lease, min(held.deadline_ns, ticket.deadline_ns))
