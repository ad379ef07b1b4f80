"""The lease protocol as its rules say it, without a thought for speed: clocks, holders, messages and the device.

Time is true time, in ns; every host and the scheduler read it by a clock of their own that is off by some parts per
million. Whatever a holder may have in the device it has there, at every moment, so what is counted here is the worst
that the rules allow. The scheduler is the only thing here that is not a model.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from scheduler.core.effects import Effect, Fenced, Granted, Lease, TicketGranted
from scheduler.core.events import Event, FlowReport, HostReported, PoolSettings
from scheduler.core.machine import Scheduler

_MILLION = 1_000_000


@dataclass(frozen=True)
class Clock:
    """A clock that runs `ppm` too fast."""

    ppm: int

    def at(self, true_ns: int) -> int:
        """What it shows."""
        return true_ns * (_MILLION + self.ppm) // _MILLION

    def when(self, shown_ns: int) -> int:
        """The first moment at which it shows at least that."""
        return -(-shown_ns * _MILLION // (_MILLION + self.ppm))


@dataclass(eq=False)
class Held:
    """A lease as its holder has it; `general` and `reserve` are what its window is made of."""

    lease: Lease
    deadline_ns: int
    general: int
    reserve: int


@dataclass(eq=False)
class Holder:
    """One flow's side of the protocol. In the device: as much as was ever allowed and not taken out."""

    flow: str
    host: "Host"
    opened: bool = False
    held: Held | None = None
    #: The newest lease it has heard of, as (epoch, number).
    newest: tuple[int, int] = (0, 0)
    newest_window: int = 0
    acknowledged: int = 0
    general: int = 0
    reserve: int = 0
    #: When those beyond the window have left the device at the latest; None: there are none.
    leaving_ns: int | None = None
    ticket: Held | None = None
    ticket_leaving_ns: int = 0
    ticket_slots: int = 0
    used_ns: int = 0
    demand_ns: int = 0

    def occupied(self) -> int:
        """Slots in use."""
        return self.general + self.reserve

    def take(self, lease: Lease, parts: tuple[int, int], deadline_ns: int, now_ns: int, drain_ns: int) -> None:
        """A grant that was heard: a newer one replaces, an older one is no news."""
        number, (general, reserve) = (lease.epoch, lease.lease), parts
        if number < self.newest:
            return
        if self.held is not None and number == (self.held.lease.epoch, self.held.lease.lease):
            deadline_ns = max(deadline_ns, self.held.deadline_ns)
        if self.held is not None and lease.epoch != self.held.lease.epoch:
            lease = replace(lease, budget_until_ns=max(lease.budget_until_ns, self.held.lease.budget_until_ns))
        self.newest, self.newest_window = number, lease.window
        self.held = Held(lease, deadline_ns, general, reserve)
        if self.occupied() <= lease.window:
            self.general, self.reserve = general, reserve
            self.leaving_ns = None
        else:
            self.leaving_ns = now_ns + drain_ns

    def void(self, now_ns: int, drain_ns: int) -> None:
        """Nothing more is submitted; what is in the device leaves it."""
        if self.held is not None:
            self.held, self.leaving_ns = None, now_ns + drain_ns

    def pass_time(self, now_ns: int, drain_ns: int) -> None:
        """End what has ended by its host's clock."""
        if self.held is not None:
            over_ns = self.host.clock.when(self.held.deadline_ns)
            if over_ns <= now_ns:
                self.held, self.leaving_ns = None, over_ns + drain_ns
        if self.leaving_ns is not None and self.leaving_ns <= now_ns:
            self.drain()
        if self.ticket is not None:
            over_ns = self.host.clock.when(self.ticket.deadline_ns)
            if over_ns <= now_ns:
                self.ticket, self.ticket_leaving_ns = None, over_ns + drain_ns
        if self.ticket is None and self.ticket_leaving_ns <= now_ns:
            self.ticket_slots = 0

    def drain(self) -> None:
        """What is in the device beyond the window has left it."""
        self.leaving_ns = None
        self.general, self.reserve = (0, 0) if self.held is None else (self.held.general, self.held.reserve)

    def give_back(self) -> None:
        """Done: nothing is in the device and nothing will be submitted before a newer lease."""
        self.held = None
        self.drain()

    def report(self, pool: str, epoch: int) -> FlowReport:
        """What it says."""
        window = self.occupied()
        if window <= self.newest_window and self.newest[0] == epoch:
            self.acknowledged = self.newest[1]
        lease = self.acknowledged
        released = lease != 0 and self.held is None and window == 0
        return FlowReport(self.flow, pool, self.demand_ns, self.used_ns, lease, window, released)


@dataclass(eq=False)
class Call:
    """A host's report on its way, and the answer."""

    host: "Host"
    event: HostReported
    sent_ns: int
    #: By the host's clock: the time that leases are counted from.
    stamp_ns: int
    epoch: int = 0
    answer: list[tuple[Effect, int, int]] | None = None


@dataclass(eq=False)
class Host:
    """One client: it has one call under way at most, and an answer to another is not heard."""

    name: str
    clock: Clock
    flows: dict[str, Holder] = field(default_factory=dict)
    epoch: int = 0
    sequence: int = 0
    waits_for: Call | None = None
    awake: bool = True


class World:
    """Hosts, one pool and its scheduler. `handle` and `answer` are what a shell does."""

    def __init__(self, settings: PoolSettings, scheduler: Scheduler, hosts: Iterable[Host], clock: Clock) -> None:
        self.settings = settings
        self.scheduler = scheduler
        self.clock = clock
        self.now_ns = 0
        self.hosts = list(hosts)
        self.calls: list[Call] = []
        self.answers: list[Call] = []
        self._parts: dict[tuple[int, int], tuple[int, int]] = {}
        #: Holders whose client has gone.
        self.ghosts: list[Holder] = []

    @property
    def holders(self) -> list[Holder]:
        """Of all hosts, those whose flow was closed too."""
        return [*self.ghosts, *(holder for host in self.hosts for holder in host.flows.values())]

    def handle(self, event: Event) -> list[Effect]:
        """Let the scheduler handle something now."""
        return self.scheduler.handle(event, self.clock.at(self.now_ns))

    def wait(self, true_ns: int) -> None:
        """Let time pass until then."""
        self.now_ns = max(self.now_ns, true_ns)
        for holder in self.holders:
            holder.pass_time(self.now_ns, self.settings.drain_ns)

    def send(self, host: Host) -> Call:
        """A tick of a host: everything it knows, in one call."""
        host.sequence += 1
        reports = tuple(
            holder.report(self.settings.pool, host.epoch) for holder in host.flows.values() if holder.opened
        )
        event = HostReported(host.name, host.epoch or self.scheduler.epoch, host.sequence, reports)
        call = Call(host, event, self.now_ns, host.clock.at(self.now_ns))
        host.waits_for = call
        self.calls.append(call)
        return call

    def deliver(self, call: Call) -> None:
        """A call reaches the scheduler, for the first time or once more."""
        effects = self.handle(call.event)
        answered = replace(call, epoch=self.scheduler.epoch)
        answered.answer = [(effect, *self.parts_of(effect)) for effect in effects]
        self.answers.append(answered)

    def parts_of(self, effect: Effect) -> tuple[int, int]:
        """Of a lease's window, what is general and what is the reserve's, as the scheduler has it now."""
        if isinstance(effect, TicketGranted):
            return 0, effect.lease.window
        if not isinstance(effect, Granted):
            return 0, 0
        number = (effect.lease.epoch, effect.lease.lease)
        if number not in self._parts:
            flow = self.scheduler.pools[self.settings.pool].flows[effect.lease.flow]
            assert flow.window + flow.reserve_window == effect.lease.window, f"{flow.name}: a window of another size"
            self._parts[number] = flow.window, flow.reserve_window
        return self._parts[number]

    def hear(self, answered: Call) -> None:
        """An answer reaches its host."""
        host, call = answered.host, answered
        if not host.awake or host.waits_for is None or host.waits_for.event is not call.event or call.answer is None:
            return
        host.waits_for = None
        if answered.epoch != host.epoch:
            self._begin_epoch(host, answered)
        self.apply(host, call.answer, call.stamp_ns)
        for report in call.event.flows:
            holder = host.flows[report.flow]
            if report.released and holder.held is None and holder.newest == (host.epoch, report.lease):
                holder.newest_window, holder.acknowledged = 0, 0

    def apply(self, host: Host, answer: list[tuple[Effect, int, int]], stamp_ns: int) -> None:
        """What an answer says. Grants to other hosts, or for closed flows, are nobody's."""
        for effect, general, reserve in answer:
            if isinstance(effect, Granted) and effect.host == host.name:
                holder = host.flows[effect.lease.flow]
                if holder.opened:
                    deadline_ns = self.deadline_ns(host, effect, stamp_ns)
                    holder.take(effect.lease, (general, reserve), deadline_ns, self.now_ns, self.settings.drain_ns)
                    self.wait(self.now_ns)
            elif isinstance(effect, TicketGranted) and effect.host == host.name:
                self._take_ticket(host.flows[effect.lease.flow], effect, stamp_ns)
            elif isinstance(effect, Fenced) and effect.host == host.name:
                host.flows[effect.flow].void(self.now_ns, self.settings.drain_ns)

    def deadline_ns(self, host: Host, effect: Granted | TicketGranted, stamp_ns: int) -> int:
        """When a lease ends, by its host's clock: counted from when the report was sent."""
        return stamp_ns + effect.lease.ttl_ns

    def _take_ticket(self, holder: Holder, effect: TicketGranted, stamp_ns: int) -> None:
        holder.ticket = Held(effect.lease, self.deadline_ns(holder.host, effect, stamp_ns), 0, effect.lease.window)
        holder.ticket_slots = max(holder.ticket_slots, effect.lease.window)
        self.wait(self.now_ns)

    def _begin_epoch(self, host: Host, answered: Call) -> None:
        host.epoch = answered.epoch
        granted = {effect.lease.flow for effect, _, _ in answered.answer or [] if isinstance(effect, Granted)}
        for holder in host.flows.values():
            if holder.flow not in granted:
                holder.void(self.now_ns, self.settings.drain_ns)
                holder.newest, holder.newest_window, holder.acknowledged = (host.epoch, 0), 0, 0

    def check(self, *, learning: bool) -> None:
        """The slots in use, by whoever has them, fit; the reserve's by themselves, and all others by themselves.

        While learning only together: a lease of the epoch before is adopted as a general one, whatever it was.
        """
        general = sum(holder.general for holder in self.holders)
        reserve = sum(holder.reserve + holder.ticket_slots for holder in self.holders)
        usable = self.settings.slots - self.settings.critical_slots
        assert general + reserve <= self.settings.slots, f"{general} + {reserve} of {self.settings.slots} slots in use"
        if learning:
            return
        assert general <= usable, f"{general} of {usable} slots in use by general leases"
        assert reserve <= self.settings.critical_slots, f"{reserve} of the reserve in use"

    def times(self) -> list[int]:
        """Moments just before, at and just after which something changes, from now on."""
        marks = set()
        for holder in self.holders:
            for held in (holder.held, holder.ticket):
                if held is not None:
                    over_ns = holder.host.clock.when(held.deadline_ns)
                    marks |= {over_ns, over_ns + self.settings.drain_ns}
            if holder.leaving_ns is not None:
                marks.add(holder.leaving_ns)
            marks.add(holder.ticket_leaving_ns)
        pool = self.scheduler.pools.get(self.settings.pool)
        if pool is not None:
            marks.add(self.clock.when(pool.learning_until_ns))
            for flow in [*pool.flows.values(), *pool.leases.closing.values()]:
                marks |= {self.clock.when(flow.expires_ns), self.clock.when(flow.cap_tag_ns)}
            marks |= {self.clock.when(ticket.expires_ns) for ticket in pool.book.tickets.values()}
        near = {mark + step for mark in marks for step in (-1, 0, 1)}
        return sorted(mark for mark in near if mark > self.now_ns)
