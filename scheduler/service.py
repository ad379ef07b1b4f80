"""The scheduler as hosts reach it: one call per host and tick in, its effects out. `scheduler.actor` is the Ray shell.

The core decides; this keeps what makes its events safe to send over a network that loses, repeats and reorders (see
`scheduler.ticks`): per host the newest sequence, the news that was handled, and the effects that were not acknowledged.
What it knows dies with its process. The next one claims a new epoch, learns from the hosts what they hold, and has the
tenants, which the controller alone sets, from the store.

A host that is silent for `SILENT_NS` is forgotten: its flows and pools are closed, and it is told so when it is back.
"""

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

from scheduler.core.effects import Alarm, Effect
from scheduler.core.events import (
    Event,
    FlowClosed,
    FlowOpened,
    HostReported,
    PoolClosed,
    PoolOpened,
    TenantRemoved,
    TenantSet,
    Ticked,
    TicketClosed,
    TicketRequested,
)
from scheduler.epochs import EpochStore, claim_epoch
from scheduler.outbox import Outbox, host_of
from scheduler.ticks import (
    CloseFlow,
    ClosePool,
    CloseTicket,
    News,
    OpenFlow,
    OpenPool,
    RequestTicket,
    Tick,
    TickAnswer,
    flow_opened,
)

#: Leases of a host that says nothing have ended long before.
SILENT_NS = 10_000_000_000
_KEPT_ALARMS = 100
#: How often time is let pass in all pools: half a tick's period.
_LOOK_EVERY_NS = 50_000_000
#: Clients of a host before the one that speaks now, whose late messages are known as such.
_KEPT_REPLACED = 8


class Core(Protocol):
    """`core.machine.Scheduler`, or what stands for it in a test."""

    def handle(self, event: Event, now_ns: int) -> list[Effect]:
        """What is to be done about an event."""

    def next_wakeup(self) -> int | None:
        """When time alone changes something."""

    def statistics(self) -> Any:
        """A snapshot."""


@dataclass(slots=True)
class _Host:
    incarnation: int
    heard_ns: int
    sequence: int = -1
    answer: TickAnswer | None = None
    news: int = 0
    outbox: Outbox = field(default_factory=Outbox)
    flows: set[tuple[str, str]] = field(default_factory=set)
    pools: set[str] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class ServiceStatistics:
    """What the service has seen since it began, and the core's own snapshot."""

    epoch: int
    hosts: int
    ticks: int
    #: Ticks that were overtaken by a later one, came twice, or came from a client that was replaced.
    stale: int
    repeated: int
    replaced: int
    #: News that no event could be made of.
    refused: int
    alarms: tuple[Alarm, ...]
    core: Any
    #: Alarms since it began; the last ones are above.
    alarm_count: int = 0
    #: Time spent on ticks.
    tick_ns: int = 0
    #: The hosts that are there, by the name their clients have.
    host_names: frozenset[str] = frozenset()


class SchedulerService:
    """`core(epoch, now_ns, learning)` makes the core; `clock` is monotonic, ns. Raises what the store raises."""

    def __init__(self, store: EpochStore, core: Callable[[int, int, bool], Core], clock: Callable[[], int]) -> None:
        self._store = store
        self._clock = clock
        self.epoch = claim_epoch(store)
        self._core = core(self.epoch, clock(), self.epoch > 1)
        self._hosts: dict[str, _Host] = {}
        self._look_ns = 0
        self._replaced: deque[tuple[str, int]] = deque(maxlen=_KEPT_REPLACED)
        #: Sequences of the core's own reports: a host's may begin again with a new client.
        self._reports = 0
        self._alarms: deque[Alarm] = deque(maxlen=_KEPT_ALARMS)
        self._alarm_count = self._tick_ns = 0
        self._ticks = self._stale = self._repeated = self._silenced = self._refused = 0
        self._tenants = store.load_tenants()
        for tenant, weight in self._tenants.items():
            self._handle(TenantSet(tenant, weight), clock())

    def set_tenant(self, tenant: str, weight: int) -> None:
        """For the controller only: a fleet and its weight. Raises ValueError for a weight below 1."""
        self._handle(TenantSet(tenant, weight), self._clock())
        self._tenants[tenant] = weight
        self._store.save_tenants(self._tenants)

    def remove_tenant(self, tenant: str) -> None:
        """For the controller only: a fleet is done."""
        self._handle(TenantRemoved(tenant), self._clock())
        self._tenants.pop(tenant, None)
        self._store.save_tenants(self._tenants)

    def tick(self, tick: Tick) -> TickAnswer:
        """A host's call. Handled once, however often it comes."""
        now_ns = self._clock()
        try:
            return self._tick(tick, now_ns)
        finally:
            self._ticks += 1
            self._tick_ns += self._clock() - now_ns

    def _tick(self, tick: Tick, now_ns: int) -> TickAnswer:
        self._forget_silent(now_ns)
        if (tick.host, tick.incarnation) in self._replaced:
            self._silenced += 1
            return TickAnswer(tick.sequence, self.epoch, replaced=True)
        host = self._hosts.get(tick.host)
        if host is None or host.incarnation != tick.incarnation:
            if not tick.complete:
                return TickAnswer(tick.sequence, self.epoch, unknown=True)
            host = self._replace(tick, host, now_ns)
        if host.answer is not None and tick.sequence == host.sequence:
            self._repeated += 1
            return host.answer
        if tick.sequence < host.sequence:
            self._stale += 1
            return TickAnswer(tick.sequence, self.epoch, acknowledged=host.news)
        return self._answer(tick, host, now_ns)

    def statistics(self) -> ServiceStatistics:
        """A snapshot."""
        return ServiceStatistics(
            self.epoch,
            len(self._hosts),
            self._ticks,
            self._stale,
            self._repeated,
            self._silenced,
            self._refused,
            tuple(self._alarms),
            self._core.statistics(),
            self._alarm_count,
            self._tick_ns,
            frozenset(self._hosts),
        )

    def _answer(self, tick: Tick, host: _Host, now_ns: int) -> TickAnswer:
        host.heard_ns, host.sequence = now_ns, tick.sequence
        host.outbox.acknowledge(tick.acknowledged)
        host.outbox.forget_leases()
        self._pass_time(now_ns)
        for number, news in enumerate(tick.news, start=tick.first_news):
            if number > host.news:
                host.news = number
                self._handle_news(tick.host, host, news, now_ns)
        self._reports += 1
        # A client that has never heard of an epoch holds no lease of any.
        epoch = tick.epoch or self.epoch
        self._handle(HostReported(tick.host, epoch, self._reports, tick.flows, tick.samples), now_ns)
        host.answer = TickAnswer(
            tick.sequence, self.epoch, acknowledged=host.news, effects=host.outbox.tell(self._clock())
        )
        return host.answer

    def _pass_time(self, now_ns: int) -> None:
        """Let time pass in the pools of other hosts; in this one's a report does. To look costs as much as a report of
        many pools, so it is done now and then: what it finds late is slots that are free a little later."""
        if now_ns < self._look_ns:
            return
        self._look_ns = now_ns + _LOOK_EVERY_NS
        wakeup_ns = self._core.next_wakeup()
        if wakeup_ns is not None and wakeup_ns <= now_ns:
            self._handle(Ticked(), now_ns)

    def _handle_news(self, name: str, host: _Host, news: News, now_ns: int) -> None:
        try:
            event = _event(name, news, now_ns)
        except ValueError:
            self._refused += 1
            return
        if isinstance(event, PoolOpened):
            host.pools.add(event.settings.pool)
        elif isinstance(event, PoolClosed):
            host.pools.discard(event.pool)
        elif isinstance(event, FlowOpened):
            host.flows.add((event.flow, event.pool))
        elif isinstance(event, FlowClosed):
            host.flows.discard((event.flow, event.pool))
        self._handle(event, now_ns, name)

    def _replace(self, tick: Tick, before: _Host | None, now_ns: int) -> _Host:
        """A client speaks for a host for the first time; whoever did before has gone."""
        if before is not None:
            self._replaced.append((tick.host, before.incarnation))
            kept = {news.settings.pool for news in tick.news if isinstance(news, OpenPool)}
            self._close(before.flows, before.pools - kept, now_ns)
        self._hosts[tick.host] = _Host(tick.incarnation, now_ns)
        return self._hosts[tick.host]

    def _forget_silent(self, now_ns: int) -> None:
        silent = [name for name, host in self._hosts.items() if now_ns - host.heard_ns > SILENT_NS]
        for name in silent:
            host = self._hosts.pop(name)
            self._close(host.flows, host.pools, now_ns)

    def _close(self, flows: Iterable[tuple[str, str]], pools: Iterable[str], now_ns: int) -> None:
        for flow, pool in sorted(flows):
            self._handle(FlowClosed(flow, pool), now_ns)
        for pool in sorted(pools):
            self._handle(PoolClosed(pool), now_ns)

    def _handle(self, event: Event, now_ns: int, asking: str = "") -> None:
        """`asking`: the host that is answered where the core does not know whose a flow is."""
        for effect in self._core.handle(event, now_ns):
            if isinstance(effect, Alarm):
                self._alarms.append(effect)
                self._alarm_count += 1
            elif (told := host_of(effect)) is not None and (host := self._hosts.get(told.host or asking)) is not None:
                host.outbox.put(told, now_ns)


def _event(host: str, news: News, now_ns: int) -> Event:
    """The core's word for it. Raises ValueError for what makes no sense, or is not this host's to say."""
    match news:
        case OpenPool(settings):
            if settings.host != host:
                raise ValueError(f"{host} opens a pool of {settings.host}")
            return PoolOpened(settings)
        case ClosePool(pool):
            return PoolClosed(pool)
        case OpenFlow():
            return flow_opened(news, host, now_ns)
        case CloseFlow(flow, pool):
            return FlowClosed(flow, pool)
        case RequestTicket(flow, pool, request, cost_ns, within_ns):
            return TicketRequested(flow, pool, request, cost_ns, within_ns)
        case CloseTicket(flow, pool):
            return TicketClosed(flow, pool)
