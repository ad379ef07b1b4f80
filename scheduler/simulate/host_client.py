"""A simulated host's client of the scheduler: one report per tick for all its migrations, and what comes back.

The core is the live one, `scheduler.core.machine.Scheduler`; what stands between it and a host is simulated: calls take
a fixed time, effects for a host wait for its next call.
"""

from collections import defaultdict
from collections.abc import Iterable
from typing import TYPE_CHECKING

import simpy

from scheduler.client import PERIOD_NS
from scheduler.core.effects import Alarm, Effect, EpochBegan, Fenced, Granted, Outlook, TicketDenied, TicketGranted
from scheduler.core.events import (
    DeviceSample,
    Event,
    FlowClosed,
    FlowOpened,
    HostReported,
    PoolClosed,
    PoolOpened,
    PoolSettings,
    Ticked,
    TicketClosed,
    TicketRequested,
)
from scheduler.core.machine import Scheduler
from scheduler.core.units import AcceleratorKind, Phase
from scheduler.simulate.credit_book import CreditBook, Ticket
from scheduler.simulate.device import Device
from scheduler.simulate.host import Host, Process
from scheduler.simulate.parameters import DeviceModel
from scheduler.simulate.split_inputs import split_now

if TYPE_CHECKING:
    from scheduler.simulate.world import World

#: A flow that has just been opened, or a guest that may be stopped, does not wait for the next: a call so long after
#: the one before.
NEWS_NS = 10_000_000
#: A call to a Ray actor that serves many hosts: p99 is 5 to 8 ms (scheduling.md 2.4).
CALL_NS = 5_000_000
#: Of the slots, those kept for CRITICAL: 16 of 128 (scheduling.md 2.6).
_CRITICAL_PART = 8

#: Of one device's work: a lease, and what may be granted and not done yet (two ticks and a half).
_LEASE_NS, _HORIZON_NS = 25_000_000, 250_000_000


class Exchange:
    """The scheduler, and what it has to tell hosts that have not called since."""

    def __init__(self, env: simpy.Environment) -> None:
        self._env = env
        self.core = Scheduler(1, int(env.now), learning=False)
        self._outbox: defaultdict[str, list[Effect]] = defaultdict(list)
        self.events = 0

    def tell(self, event: Event) -> None:
        """Handle an event now."""
        self.events += 1
        for effect in self.core.handle(event, int(self._env.now)):
            if not isinstance(effect, EpochBegan | Alarm):
                self._outbox[effect.host].append(effect)

    def call(self, host: str, events: Iterable[Event]) -> list[Effect]:
        """A host's call: its events, and all there is for it."""
        now_ns = int(self._env.now)
        wakeup_ns = self.core.next_wakeup()
        if wakeup_ns is not None and wakeup_ns <= now_ns:
            self.tell(Ticked())
        for event in events:
            self.tell(event)
        return self._outbox.pop(host, [])


class HostClient:
    """One host. `flows` are its credit books by (flow, pool)."""

    def __init__(self, world: "World", host: Host, exchange: Exchange, phase_ns: int) -> None:
        self._world = world
        self._env = world.env
        self._host = host
        self._exchange = exchange
        self._news: list[Event] = []
        self._news_came = self._env.event()
        self._sequence = self._requests = 0
        self._tickets: dict[int, simpy.Event] = {}
        self.flows: dict[tuple[str, str], CreditBook] = {}
        self.pools = {
            kind: _settings(host.name, kind, world.parameters.devices[kind], len(devices))
            for kind, devices in host.devices.items()
        }
        self._up = dict.fromkeys(self.pools, True)
        self._news += [PoolOpened(settings) for settings in self.pools.values()]
        self._env.process(self._run(phase_ns))

    def open_flow(self, book: CreditBook) -> None:
        """From the next tick on the scheduler knows of it."""
        self.flows[book.flow, book.settings.pool] = book
        self._tell(book, book.migration.spec.phase)

    def book(self, flow: str, kind: AcceleratorKind) -> CreditBook | None:
        """A flow's on the pool of a kind; None where there is none."""
        pool = self.pools.get(kind)
        return None if pool is None else self.flows.get((flow, pool.pool))

    def stop(self, book: CreditBook) -> None:
        """Its guest is stopped from now on; a ticket that it has is in force at once."""
        book.stop()
        book.split = split_now(self._world, book)
        self._tell(book, Phase.STOPPED)

    def _tell(self, book: CreditBook, phase: Phase) -> None:
        spec, pool = book.migration.spec, book.settings.pool
        self._add(
            FlowOpened(
                book.flow, pool, spec.tenant, spec.weight, self._host.name, phase=phase, deadline_ns=spec.deadline_ns
            )
        )

    def close_flow(self, book: CreditBook) -> None:
        """It is closed with the next tick, after its slots were given back."""
        book.closing = True

    def request_ticket(self, book: CreditBook, cost_ns: int, within_ns: int) -> simpy.Event:
        """Fires with the answer (`TicketGranted` or `TicketDenied`)."""
        self._requests += 1
        answer = self._env.event()
        self._tickets[self._requests] = answer
        self._add(TicketRequested(book.flow, book.settings.pool, self._requests, cost_ns, within_ns))
        return answer

    def close_ticket(self, book: CreditBook) -> None:
        """The guest runs again."""
        self._news.append(TicketClosed(book.flow, book.settings.pool))

    def _add(self, news: Event) -> None:
        self._news.append(news)
        if not self._news_came.triggered:
            self._news_came.succeed()

    def _run(self, phase_ns: int) -> Process:
        yield self._env.timeout(phase_ns)
        while True:
            sent_ns = int(self._env.now)
            events = self._events()
            yield self._env.timeout(CALL_NS)
            for effect in self._exchange.call(self._host.name, events):
                self._apply(effect, sent_ns)
            for book in self.flows.values():
                book.split = split_now(self._world, book)
            self._news_came = self._env.event()
            if self._news:
                self._news_came.succeed()
            yield self._env.timeout(NEWS_NS - CALL_NS)
            yield self._news_came | self._env.timeout(PERIOD_NS - NEWS_NS)

    def _events(self) -> list[Event]:
        self._watch_devices()
        self._sequence += 1
        reports = [book.report() for book in self.flows.values()]
        samples = tuple(self._sample(kind, settings) for kind, settings in self.pools.items() if self._up[kind])
        news, self._news = self._news, []
        epoch = self._exchange.core.epoch
        closed = [(key, book) for key, book in self.flows.items() if book.closing and not book.in_flight]
        ended = []
        for key, book in closed:
            del self.flows[key]
            ended.append(FlowClosed(book.flow, book.settings.pool))
        return [*news, HostReported(self._host.name, epoch, self._sequence, tuple(reports), samples), *ended]

    def _watch_devices(self) -> None:
        for kind, settings in self.pools.items():
            up = any(device.up for device in self._host.devices[kind])
            if up != self._up[kind]:
                self._up[kind] = up
                self._news.append(PoolOpened(settings) if up else PoolClosed(settings.pool))

    def _sample(self, kind: AcceleratorKind, settings: PoolSettings) -> DeviceSample:
        devices = self._host.devices[kind]
        return DeviceSample(
            settings.pool,
            busy_ns=sum(device.busy_ns() for device in devices),
            completed=sum(device.completed for device in devices) // self._world.scale,
            refused=sum(device.refused for device in devices),
            occupancy=sum(device.occupancy() for device in devices) // self._world.scale,
            latency_p99_ns=max(device.wait_ns() for device in devices) // self._world.scale,
        )

    def _apply(self, effect: Effect, sent_ns: int) -> None:
        if isinstance(effect, TicketGranted | TicketDenied) and effect.request in self._tickets:
            self._tickets.pop(effect.request).succeed(effect)
        if isinstance(effect, Granted | TicketGranted):
            book = self.flows.get((effect.lease.flow, effect.lease.pool))
            if book is not None and isinstance(effect, Granted):
                book.grant(effect.lease, sent_ns)
            elif book is not None:
                book.ticket = Ticket(effect.lease, sent_ns + effect.lease.ttl_ns)
        elif isinstance(effect, Outlook | Fenced):
            book = self.flows.get((effect.flow, effect.pool))
            if book is not None and isinstance(effect, Outlook):
                book.outlook = effect
            elif book is not None:
                book.void()


def least_loaded(devices: list[Device]) -> Device | None:
    """Of those that are up, the one that would begin first."""
    return min((device for device in devices if device.up), key=Device.wait_ns, default=None)


def _settings(host: str, kind: AcceleratorKind, model: DeviceModel, count: int) -> PoolSettings:
    """A pool of `count` devices.

    Budgets that fill the horizon must have the windows to be worked off with, or leases are out and devices idle: a
    holder's least window is the slots' part that a lease is of the horizon. And a lease is worth a time of one device,
    however many there are, so that more of them serve more holders at once.
    """
    slots = model.slots * count
    critical_slots = slots // _CRITICAL_PART
    lease_ns = _LEASE_NS // count
    return PoolSettings(
        pool=f"{host}/{kind.value}/0",
        host=host,
        kind=kind,
        slots=slots,
        critical_slots=critical_slots,
        engines=model.engines * count,
        lease_ns=lease_ns,
        horizon_ns=_HORIZON_NS,
        least_window=(slots - critical_slots) * lease_ns // _HORIZON_NS,
    )
