"""A flow's lease as its simulated host holds it: what `scheduler.credit` and `scheduler.flow_state` do, in one process.

Slots and device-ns are those of the core, so a simulated batch that stands for several packets one after the other has
one packet's slots, and may wait for them as long as those packets might together.
"""

from collections import deque
from dataclasses import dataclass

import simpy

from scheduler.core.effects import Lease, Outlook
from scheduler.core.events import FlowReport, PoolSettings
from scheduler.core.split import SplitState
from scheduler.core.units import PERMILLE
from scheduler.demand import Demand
from scheduler.flow_state import IDLE_TICKS
from scheduler.simulate.host import Host
from scheduler.simulate.migration import Migration


@dataclass(slots=True)
class Ticket:
    """The lease of a guest that may be stopped, and when it ends; its budget counts from the stop on."""

    lease: Lease
    deadline_ns: int
    in_flight: int = 0
    used_ns: int = 0

    def usable(self, now_ns: int) -> bool:
        """Whether it still allows anything."""
        return now_ns < self.deadline_ns and self.used_ns < self.lease.budget_until_ns


@dataclass(slots=True)
class _Waiter:
    slots: int
    turn: simpy.Event


class CreditBook:
    """One migration on one pool of one host, all its threads."""

    def __init__(self, env: simpy.Environment, migration: Migration, host: Host, settings: PoolSettings) -> None:
        self._env = env
        self.migration = migration
        self.host = host
        self.settings = settings
        self.flow = migration.spec.name
        self.lease: Lease | None = None
        self.outlook: Outlook | None = None
        self.split: SplitState | None = None
        self.closing = False
        #: Set when it was granted, in force once the guest is stopped.
        self.ticket: Ticket | None = None
        self.in_flight = 0
        self._deadline_ns = 0
        self._newest = self._turn = 0
        self._stopped = False
        self._used_ns = self._pending_ns = self._asked_ns = self._denied = self._wait_ns = 0
        self._told_asked_ns = self._told_denied = self._told_wait_ns = self._idle_ticks = 0
        self._told_at_ns = int(env.now)
        self._demand = Demand(settings)
        self._waiting: deque[_Waiter] = deque()

    def grant(self, lease: Lease, sent_ns: int) -> None:
        """A lease came with the answer to the report that was sent at `sent_ns`."""
        if lease.lease < self._newest or self.closing:
            return
        self.lease, self._newest = lease, lease.lease
        self._deadline_ns = sent_ns + lease.ttl_ns
        self._idle_ticks = 0
        self._serve()

    def void(self) -> None:
        """Nothing may be submitted any more."""
        self.lease = None
        self._serve()

    @property
    def stopped(self) -> bool:
        """Whether batches go under the ticket: the guest stands still, they wait behind nobody's bulk."""
        return self._stopped

    def stop(self) -> None:
        """The guest is stopped from now on."""
        self._stopped = True
        self._serve()

    def usable(self) -> bool:
        """Whether a batch may be submitted, slots permitting."""
        now_ns = int(self._env.now)
        if self._stopped:
            return self.ticket is not None and self.ticket.usable(now_ns)
        lease = self.lease
        return (
            lease is not None
            and lease.window > 0
            and now_ns < self._deadline_ns
            and self._used_ns + self._pending_ns < lease.budget_until_ns
        )

    def ask(self, cost_ns: int) -> None:
        """Count work that could be given to the device, whether it is or not."""
        self._asked_ns += cost_ns

    def next_turn(self, permille: int) -> bool:
        """Whether the next batch is the device's, so that `permille` of them are, evenly spread."""
        self._turn += permille
        if self._turn < PERMILLE:
            return False
        self._turn -= PERMILLE
        return True

    def deny(self) -> None:
        """Count a batch that got nothing."""
        self._denied += 1

    def take(self, slots: int, *, last: bool = False) -> int:
        """Slots for a batch now: a thread's share, or with `last` whatever is free; 0 for none."""
        if not self.usable():
            return 0
        window, in_flight = self._window()
        wanted = min(slots, max(1, window // self.migration.spec.channels))
        free = window - in_flight
        return min(wanted, free) if free >= (1 if last else wanted) else 0

    def _window(self) -> tuple[int, int]:
        """What is in force, and how much of it is taken."""
        if self._stopped:
            assert self.ticket is not None
            return self.ticket.lease.window, self.ticket.in_flight
        assert self.lease is not None
        return self.lease.window, self.in_flight

    def wait_turn(self, slots: int) -> simpy.Event:
        """Fires when a batch of so many slots should look again; it is first come, first served."""
        turn = self._env.event()
        self._waiting.append(_Waiter(slots, turn))
        return turn

    def waited(self, turn: simpy.Event, since_ns: int) -> None:
        """A wait is over, for one reason or the other."""
        self._waiting = deque(waiter for waiter in self._waiting if waiter.turn is not turn)
        self._wait_ns += int(self._env.now) - since_ns

    @property
    def contended(self) -> bool:
        """Whether others wait already."""
        return bool(self._waiting)

    def hold(self, slots: int, cost_ns: int) -> Ticket | None:
        """A batch begins; returns the ticket it goes under, None for the lease."""
        self._pending_ns += cost_ns
        if self._stopped and self.ticket is not None:
            self.ticket.in_flight += slots
            return self.ticket
        self.in_flight += slots
        return None

    def release(self, slots: int, cost_ns: int, used_ns: int, ticket: Ticket | None) -> None:
        """A batch has ended; `used_ns` of device work were done, under the ticket it began with."""
        self._pending_ns -= cost_ns
        self._used_ns += used_ns
        if ticket is None:
            self.in_flight -= slots
        else:
            ticket.in_flight -= slots
            ticket.used_ns += used_ns
        self._serve()

    def report(self) -> FlowReport:
        """What the scheduler is told now; gives the lease back when it is used up, or nobody has asked for long."""
        now_ns = int(self._env.now)
        asked_ns, denied = self._asked_ns - self._told_asked_ns, self._denied - self._told_denied
        if self._asked_ns:
            self._demand.observe(asked_ns, denied, self._pending_ns, now_ns - self._told_at_ns)
        self._idle_ticks = 0 if asked_ns or self._pending_ns else self._idle_ticks + 1
        self._give_back()
        waited_ns = self._wait_ns - self._told_wait_ns
        self._told_asked_ns, self._told_denied, self._told_wait_ns = self._asked_ns, self._denied, self._wait_ns
        self._told_at_ns = now_ns
        window = max(self.in_flight, self.lease.window if self.lease is not None else 0)
        idle = self.closing or self._idle_ticks >= IDLE_TICKS
        return FlowReport(
            self.flow,
            self.settings.pool,
            0 if idle else self._demand.demand_ns,
            self._used_ns,
            self._newest,
            window,
            released=self._newest != 0 and window == 0,
            wait_ns=waited_ns,
        )

    def _give_back(self) -> None:
        lease = self.lease
        if lease is None:
            return
        used_up = self._used_ns >= lease.budget_until_ns
        expired = int(self._env.now) >= self._deadline_ns
        if expired or self.closing or ((used_up or self._idle_ticks >= IDLE_TICKS) and not self.in_flight):
            self.void()

    def _serve(self) -> None:
        """Tell the first that waits to look again."""
        if self._waiting:
            waiter = self._waiting[0]
            if not waiter.turn.triggered and (not self.usable() or self.take(waiter.slots)):
                waiter.turn.succeed()
