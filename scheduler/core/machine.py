"""The scheduler: events in, effects out, and nothing else. One object for live hosts and for the simulator.

`handle` is the only way in. It takes the time as an argument, draws no random numbers, and iterates over nothing whose
order is not that of arrival, so the same events at the same times give the same effects on every machine.

What if ...

I1   a message is lost: counters and budgets are running totals, the next message says it all (test_row_20).
I2   a message comes twice: a host's sequence number that was seen gets the same answer, an older one nothing.
I3   a holder dies: its lease ends by itself after life_ns, its slots are free, its budget stays charged (test_row_10).
I4   a holder wakes up after its lease ended: what it says is counted as work, its lease is fenced (test_row_11).
I5   the scheduler restarts: a new epoch, and while leases of the old one may be in use, a learning period. Holders
     that report are adopted with what they hold; nothing else is granted but a part of the reserve (test_row_12).
I6   a device goes: all its leases are fenced; when it is back, slots count as used until the old leases have ended.
I7   a tenant lies about demand, cost or completions: it is served by weight and charged at the grant, gets nothing back
     that the device did not see undone, and gets no more budget before it says that it has used what it has.
I8   the clock is set: only one monotonic clock is read here, and only durations are sent.
"""

from collections import Counter
from collections.abc import Iterable

from scheduler.core.counts import LeaseNumbers
from scheduler.core.effects import Alarm, Effect, EpochBegan, Fenced, Reason, TicketDenied
from scheduler.core.events import (
    DeviceSample,
    Event,
    FlowClosed,
    FlowOpened,
    FlowReport,
    HostReported,
    PoolClosed,
    PoolOpened,
    PoolSettings,
    TenantRemoved,
    TenantSet,
    Ticked,
    TicketClosed,
    TicketRequested,
)
from scheduler.core.invariants import check_pool
from scheduler.core.leases import life_ns
from scheduler.core.pool import PoolScheduler
from scheduler.core.snapshot import pool_statistics
from scheduler.core.statistics import Statistics

#: What a tenant weighs that the controller has said nothing of.
DEFAULT_WEIGHT = 1


class Scheduler:
    """All pools; `learning` says that leases of an epoch before may be in use."""

    def __init__(self, epoch: int, now_ns: int, learning: bool) -> None:
        """Raises ValueError for an epoch that is none."""
        if epoch < 1:
            raise ValueError(f"epoch {epoch}: they begin with 1")
        self.epoch = epoch
        self.pools: dict[str, PoolScheduler] = {}
        self._began_ns = self._now_ns = now_ns
        self._learning = learning
        self._numbers = LeaseNumbers()
        self._weights: dict[str, int] = {}
        self._tenants_of: dict[tuple[str, str], str] = {}
        #: By host: the last sequence, and what was answered.
        self._answered: dict[str, tuple[int, list[Effect]]] = {}
        self._events = 0
        self._stale: Counter[Reason] = Counter()
        self._announced = False

    def handle(self, event: Event, now_ns: int) -> list[Effect]:
        """Take one event in; what must be done about it, in this order."""
        self._events += 1
        self._now_ns = now_ns
        effects: list[Effect] = []
        if not self._announced:
            self._announced = True
            effects.append(EpochBegan(self.epoch))
        match event:
            case HostReported():
                effects += self._report(event, now_ns)
            case Ticked():
                for pool in self.pools.values():
                    effects += self._run(pool, now_ns)
            case FlowOpened():
                effects += self._open_flow(event, now_ns)
            case FlowClosed():
                effects += self._close_flow(event, now_ns)
            case TicketRequested() | TicketClosed():
                effects += self._ticket(event, now_ns)
            case PoolOpened() | PoolClosed():
                effects += self._pool(event, now_ns)
            case TenantSet() | TenantRemoved():
                effects += self._tenant(event, now_ns)
        return effects

    def next_wakeup(self) -> int | None:
        """When to say `Ticked` at the latest; None: only events change anything."""
        times = [time for pool in self.pools.values() if (time := pool.next_wakeup(self._now_ns)) is not None]
        return min(times, default=None)

    def validate(self) -> None:
        """Raise AssertionError, with the facts, if an invariant does not hold."""
        for pool in self.pools.values():
            check_pool(pool)

    def statistics(self) -> Statistics:
        """A snapshot, as of the last event."""
        pools = tuple(pool_statistics(pool, self._now_ns) for pool in self.pools.values())
        return Statistics(self.epoch, self._events, sum(self._stale.values()), pools)

    # Reports

    def _report(self, event: HostReported, now_ns: int) -> list[Effect]:
        last, answer = self._answered.get(event.host, (-1, []))
        if event.sequence <= last:
            self._stale[Reason.STALE_LEASE] += 1
            return answer if event.sequence == last else []
        effects: list[Effect] = []
        touched: dict[str, PoolScheduler] = {}
        if event.epoch > self.epoch:
            effects.append(Alarm("", f"{event.host} knows epoch {event.epoch}, this is {self.epoch}"))
        for report in event.flows:
            pool = self.pools.get(report.pool)
            if pool is None:
                effects.append(Fenced(event.host, report.flow, report.pool, Reason.UNKNOWN_POOL))
                continue
            touched[report.pool] = pool
            void = self._take(pool, report, event, now_ns)
            if void is not None:
                self._stale[void] += 1
                effects.append(Fenced(event.host, report.flow, report.pool, void))
        for sample in event.samples:
            if (sampled := self.pools.get(sample.pool)) is not None:
                touched[sample.pool] = sampled
                effects += self._sample(sampled, sample, now_ns)
        for pool in touched.values():
            effects += self._run(pool, now_ns)
            overloaded = pool.delay.overloaded
            effects.append(pool.answers.backpressure(event.host, stop_admission=overloaded))
        self._answered[event.host] = (event.sequence, effects)
        return effects

    def _take(self, pool: PoolScheduler, report: FlowReport, event: HostReported, now_ns: int) -> Reason | None:
        epoch, flow = event.epoch, pool.flows.get(report.flow)
        if flow is None or flow.host != event.host:
            # A host speaks for its own flows only.
            return Reason.UNKNOWN_FLOW
        if epoch == self.epoch or not report.lease:
            if flow.adopted:
                pool.leases.confirm(flow, presented=report.lease > 0)
            return pool.report(flow, report, now_ns)
        if epoch < self.epoch and self.may_adopt(pool, now_ns):
            return pool.adopt(flow, report, now_ns)
        # It is told, and counts as a flow without a lease from now on.
        pool.report(flow, _bare(report), now_ns)
        return Reason.STALE_EPOCH

    @staticmethod
    def may_adopt(pool: PoolScheduler, now_ns: int) -> bool:
        """Whether leases of the epoch before are still good: while learning, and never again."""
        return pool.learning(now_ns)

    def _sample(self, pool: PoolScheduler, sample: DeviceSample, now_ns: int) -> Iterable[Effect]:
        pool.take_sample(sample, now_ns)
        if pool.watch.over_occupied:
            yield Alarm(pool.settings.pool, f"{sample.occupancy} descriptors in the device, fewer are leased")

    # Flows, tickets, pools, tenants

    def _open_flow(self, event: FlowOpened, now_ns: int) -> list[Effect]:
        pool = self.pools.get(event.pool)
        if pool is None:
            return [Fenced(event.host, event.flow, event.pool, Reason.UNKNOWN_POOL)]
        self._tenants_of[event.pool, event.flow] = event.tenant
        effects: list[Effect] = []
        if not pool.open(event, self._weights.get(event.tenant, DEFAULT_WEIGHT), now_ns):
            what = f"{event.flow} goes without its reservation of {event.reservation_ns_s}: there is no room for it"
            effects.append(Alarm(event.pool, what))
        return [*effects, *self._run(pool, now_ns)]

    def _close_flow(self, event: FlowClosed, now_ns: int) -> list[Effect]:
        self._tenants_of.pop((event.pool, event.flow), None)
        pool = self.pools.get(event.pool)
        if pool is None:
            return []
        pool.close(event.flow)
        return self._run(pool, now_ns)

    def _ticket(self, event: TicketRequested | TicketClosed, now_ns: int) -> list[Effect]:
        pool = self.pools.get(event.pool)
        if isinstance(event, TicketClosed):
            if pool is not None:
                pool.close_ticket(event.flow)
            return []
        if pool is None:
            return [TicketDenied("", event.flow, event.pool, event.request, Reason.UNKNOWN_POOL, 0)]
        pool.pass_time(now_ns)
        return [pool.request_ticket(event, now_ns)]

    def _pool(self, event: PoolOpened | PoolClosed, now_ns: int) -> list[Effect]:
        if isinstance(event, PoolClosed):
            return self._close_pool(event.pool, now_ns)
        self._open_pool(event.settings)
        return []

    def _open_pool(self, settings: PoolSettings) -> None:
        known = self.pools.get(settings.pool)
        if known is not None:
            known.reopen(settings)
            return
        until_ns = self._began_ns
        if self._learning:
            # What the epoch before granted last may be in use so long.
            ttl_ns = max(settings.ttl_ns, settings.critical_ttl_ns)
            until_ns += life_ns(ttl_ns, settings.clock_ppm, settings.drain_ns)
        self.pools[settings.pool] = PoolScheduler(settings, self.epoch, self._numbers, until_ns)

    def _close_pool(self, name: str, now_ns: int) -> list[Effect]:
        pool = self.pools.get(name)
        if pool is None or not pool.up:
            return []
        pool.shut()
        return list(pool.fence_all(Reason.DEVICE_DOWN, now_ns))

    def _tenant(self, event: TenantSet | TenantRemoved, now_ns: int) -> list[Effect]:
        if isinstance(event, TenantSet):
            self._weights[event.tenant] = event.weight
            for pool in self.pools.values():
                pool.shares.set_weight(event.tenant, event.weight)
            return []
        self._weights.pop(event.tenant, None)
        theirs = [key for key, tenant in self._tenants_of.items() if tenant == event.tenant]
        effects: list[Effect] = []
        for pool_name, flow in theirs:
            effects += self._close_flow(FlowClosed(flow, pool_name), now_ns)
        for pool in self.pools.values():
            pool.shares.set_weight(event.tenant, DEFAULT_WEIGHT)
        return effects

    @staticmethod
    def _run(pool: PoolScheduler, now_ns: int) -> list[Effect]:
        pool.pass_time(now_ns)
        pool.dispatch(now_ns)
        return pool.effects(now_ns)


def _bare(report: FlowReport) -> FlowReport:
    return FlowReport(report.flow, report.pool, report.demand_ns, report.used_ns)
