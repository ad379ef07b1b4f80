"""One host's side of the scheduler: it tells what its workers want and did, and passes on what they may do.

`tick` is called ten times a second. It reads the workers' counters, makes one call (`Transport`), and publishes what
the answer allows through the credit table. The rules:

* A lease ends for this host at the time its tick was *sent*, plus the lease's life, on CLOCK_BOOTTIME: never later than
  for the scheduler, however long the answer took.
* When the scheduler cannot be reached leases run out by themselves and the CPU does the work; calls are made ever more
  rarely, up to `MAX_BACK_OFF_NS`. Nothing here raises because of it.
* A service that does not know this host gets everything from the beginning, with the leases of the epoch before. What
  it adopts is granted anew under its own epoch; what it does not mention is void.
* A client that was replaced by another one of its host falls silent, and its leases run out.

One asyncio task calls all of it; no method blocks.
"""

import asyncio
import itertools
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace

from scheduler.core.effects import (
    Backpressure,
    Effect,
    Fenced,
    Granted,
    Outlook,
    Reason,
    TicketDenied,
    TicketGranted,
)
from scheduler.core.events import DeviceSample, PoolSettings
from scheduler.core.units import Phase, ServiceClass
from scheduler.credit import boottime_ns
from scheduler.credit_table import CreditError, CreditTable
from scheduler.flow_split import PathTerms
from scheduler.flow_state import FlowState
from scheduler.news_log import NewsLog
from scheduler.pool_work import PoolWork
from scheduler.process_identity import ProcessIdentity
from scheduler.sub_leases import FlowCounters, SubLeases, WorkerRow
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
    TicketAnswer,
    flow_opened,
)

PERIOD_NS = 100_000_000
#: How long one call may take. A restarted actor answers after a second, the call after this one reaches it.
CALL_TIMEOUT_NS = 500_000_000
#: Single calls get lost; after so many in a row there is nobody, and calls are made ever more rarely.
_PATIENCE = 3
MAX_BACK_OFF_NS = 1_000_000_000
#: A guest that is to be stopped does not wait longer for an answer.
TICKET_TIMEOUT_NS = 1_000_000_000
#: A row that was given back is nobody's for so long: a worker that has not noticed may still write its counters.
_QUARANTINE_NS = 60_000_000_000

Transport = Callable[[Tick], Awaitable[TickAnswer]]
FlowKey = tuple[str, str]


class Unreachable(Exception):
    """A call to the scheduler was not answered, and it may have been handled or not."""


class SchedulerClient:
    """`incarnation` is drawn at random by who makes it. Raises nothing on its own; see each method."""

    def __init__(
        self,
        host: str,
        incarnation: int,
        table: CreditTable,
        transport: Transport,
        clock: Callable[[], int] = boottime_ns,
        alive: Callable[[ProcessIdentity], bool] = ProcessIdentity.alive,
    ) -> None:
        self.host = host
        self.epoch = 0
        self.replaced = False
        #: By pool: how long a BULK batch waits there, and whether to begin no more migrations.
        self.backpressure: dict[str, Backpressure] = {}
        self._incarnation = incarnation
        self._table = table
        self._transport = transport
        self._clock = clock
        self._alive = alive
        self._pools: dict[str, PoolSettings] = {}
        self._flows: dict[FlowKey, FlowState] = {}
        #: By pool: what was done by flows that have ended.
        self._ended: dict[str, PoolWork] = {}
        self._news = NewsLog()
        self._tickets: dict[int, tuple[RequestTicket, asyncio.Future[TicketAnswer]]] = {}
        self._requests = itertools.count(1)
        self._generations = itertools.count(1)
        #: Rows that are free, and since when they may be used again.
        self._free: deque[tuple[int, int]] = deque((row, 0) for row in range(table.rows))
        self._sequence = 0
        self._acknowledged = 0
        self._failures = 0
        self._retry_ns = 0
        self._heard_ns: int | None = None
        self._host_busy_permille = 0

    @property
    def silent_ns(self) -> int | None:
        """How long ago the scheduler last answered this client as its host's; None: never."""
        return None if self._heard_ns is None else self._clock() - self._heard_ns

    def open_pool(self, settings: PoolSettings) -> None:
        """This host's pool is there, or is there again."""
        self._pools[settings.pool] = settings
        self._news.add(OpenPool(settings))

    def close_pool(self, pool: str) -> None:
        """Its device has gone; flows on it stay open and work without."""
        if self._pools.pop(pool, None) is not None:
            self._news.add(ClosePool(pool))

    def open_flow(self, flow: OpenFlow, workers: int) -> tuple[int, ...]:
        """One row of the credit table for each worker. Said again, it changes a flow and gives the same rows.

        Raises CreditError when no row is free or the pool is not open, ValueError for what makes no sense.
        """
        flow_opened(flow, self.host, self._clock())
        now_ns = self._clock()
        due_ns = None if flow.due_in_ns is None else now_ns + flow.due_in_ns
        state = self._flows.get((flow.flow, flow.pool))
        if state is None:
            if (pool := self._pools.get(flow.pool)) is None:
                raise CreditError(f"flow {flow.flow}: host {self.host} has no pool {flow.pool} open")
            leases = SubLeases(self._table, self._take_rows(workers, now_ns), pool.drain_ns)
            state = self._flows[flow.flow, flow.pool] = FlowState(flow, due_ns, pool, leases)
        if flow.phase is Phase.STOPPED and state.opened.phase is not Phase.STOPPED:
            state.stop()
        state.opened, state.due_ns, state.closing = flow, due_ns, False
        self._news.add(flow)
        return tuple(row.row for row in state.sub_leases.rows)

    def close_flow(self, flow: str, pool: str) -> None:
        """The migration is over: nothing is submitted from now on. Its rows are free once nothing is in flight."""
        if (state := self._flows.get((flow, pool))) is not None:
            state.closing = True
            state.close_ticket()
            state.enforce(self._clock())

    async def request_ticket(self, flow: str, pool: str, cost_ns: int, within_ns: int) -> TicketAnswer:
        """May the guest be stopped, with `cost_ns` of work done within `within_ns` from then on? Within a second."""
        request = RequestTicket(flow, pool, next(self._requests), cost_ns, within_ns)
        answer: asyncio.Future[TicketAnswer] = asyncio.get_running_loop().create_future()
        self._tickets[request.request] = request, answer
        self._news.add(request)
        try:
            async with asyncio.timeout(TICKET_TIMEOUT_NS / 1e9):
                return await answer
        except TimeoutError:
            return TicketAnswer(granted=False, retry_ns=PERIOD_NS)
        finally:
            del self._tickets[request.request]

    def close_ticket(self, flow: str, pool: str) -> None:
        """The guest runs again; to be said after its flow was given its new phase, or closed."""
        if (state := self._flows.get((flow, pool))) is not None:
            state.close_ticket()

    def describe_path(self, flow: str, pool: str, terms: PathTerms) -> None:
        """What the split of a flow is to go by from now on; harmless for a flow that is not open."""
        if (state := self._flows.get((flow, pool))) is not None:
            state.split.terms = terms

    def service_class(self, flow: str, pool: str) -> ServiceClass | None:
        """The class of the lease that a flow has now."""
        state = self._flows.get((flow, pool))
        return None if state is None or state.held is None else state.held.lease.service_class

    def counters(self) -> dict[FlowKey, FlowCounters]:
        """What the workers of each open flow have done so far, as of the last tick."""
        return {key: state.sub_leases.totals for key, state in self._flows.items()}

    def counted(self, flow: str, pool: str) -> FlowCounters | None:
        """The same of one flow; None where it is not open."""
        state = self._flows.get((flow, pool))
        return None if state is None else state.sub_leases.totals

    def work(self) -> dict[str, PoolWork]:
        """By pool: what this host's workers have come to since this client is there, as of the last tick."""
        found: dict[str, PoolWork] = {}
        for pool, ended in self._ended.items():
            found[pool] = replace(ended, fallbacks=Counter(ended.fallbacks))
        for (_, pool), state in self._flows.items():
            found.setdefault(pool, PoolWork()).add(state.sub_leases.totals, state.fallbacks)
        return found

    async def tick(self, samples: Iterable[DeviceSample] = (), host_busy_permille: int = 0) -> None:
        """One round. Takes as long as the call, at most `CALL_TIMEOUT_NS`."""
        now_ns = self._clock()
        self._host_busy_permille = host_busy_permille
        self._keep_order(now_ns)
        if not self.replaced and now_ns >= self._retry_ns:
            await self._call(tuple(samples), now_ns)
            now_ns = self._clock()
        for state in self._flows.values():
            state.enforce(now_ns)

    async def _call(self, samples: tuple[DeviceSample, ...], now_ns: int) -> None:
        tick = self._tick(samples, now_ns)
        try:
            async with asyncio.timeout(CALL_TIMEOUT_NS / 1e9):
                answer = await self._transport(tick)
        except (Unreachable, TimeoutError):
            self._failures += 1
            back_off_ns = min(MAX_BACK_OFF_NS, PERIOD_NS << min(max(0, self._failures - _PATIENCE), 10))
            self._retry_ns = self._clock() + back_off_ns
            return
        self._failures = 0
        self._hear(tick, answer, now_ns)

    def _keep_order(self, now_ns: int) -> None:
        known: dict[ProcessIdentity, bool] = {}

        def alive(row: WorkerRow) -> bool:
            identity = row.worker
            if identity is None:
                return True
            if identity not in known:
                known[identity] = self._alive(identity)
            return known[identity]

        for key, state in list(self._flows.items()):
            state.observe(now_ns, alive)
            state.decide(self._host_busy_permille)
            state.end_what_is_over(now_ns)
            if state.ticket_free(now_ns):
                state.ticket_over = False
                self._news.add(CloseTicket(*key))
            # Its end is told after the report that gives its slots back, or they would wait for the lease's end.
            if state.finished(now_ns) and state.given_back:
                self._finish(key, state, now_ns)

    def _finish(self, key: FlowKey, state: FlowState, now_ns: int) -> None:
        del self._flows[key]
        self._ended.setdefault(key[1], PoolWork()).add(state.sub_leases.totals, state.fallbacks)
        self._free.extend((row, now_ns + _QUARANTINE_NS) for row in state.sub_leases.free())
        self._news.add(CloseFlow(*key))

    def _take_rows(self, count: int, now_ns: int) -> list[tuple[int, int]]:
        ready = sum(1 for _, since_ns in self._free if since_ns <= now_ns)
        if ready < count:
            raise CreditError(f"credit table {self._table.path}: {count} rows are wanted, {ready} are free")
        return [(self._free.popleft()[0], next(self._generations)) for _ in range(count)]

    def _tick(self, samples: tuple[DeviceSample, ...], now_ns: int) -> Tick:
        self._sequence += 1
        return Tick(
            self.host,
            self._incarnation,
            self._sequence,
            self.epoch,
            tuple(self._as_of(news, now_ns) for news in self._news.pending),
            self._news.first,
            self._news.complete,
            tuple(state.report(now_ns) for state in self._flows.values()),
            samples,
            self._acknowledged,
        )

    def _as_of(self, news: News, now_ns: int) -> News:
        """A deadline is told as the time that is left."""
        if not isinstance(news, OpenFlow) or news.due_in_ns is None:
            return news
        state = self._flows.get((news.flow, news.pool))
        due_ns = now_ns if state is None or state.due_ns is None else state.due_ns
        return replace(news, due_in_ns=max(0, due_ns - now_ns))

    def _hear(self, tick: Tick, answer: TickAnswer, sent_ns: int) -> None:
        self.replaced = answer.replaced
        if answer.replaced:
            return
        self._heard_ns = self._clock()
        if answer.unknown:
            for state in self._flows.values():
                state.begin_again()
            self._news.restart(self._everything())
            self._acknowledged = 0
            return
        self._news.acknowledge(answer.acknowledged)
        if answer.epoch != self.epoch:
            self._begin_epoch(answer)
        for report in tick.flows:
            if (told := self._flows.get((report.flow, report.pool))) is not None:
                told.reported(report)
        for number, effect in answer.effects:
            if number > self._acknowledged:
                self._acknowledged = number
                self._apply(effect, sent_ns)

    def _everything(self) -> list[News]:
        pools = [OpenPool(settings) for settings in self._pools.values()]
        flows = [state.opened for state in self._flows.values()]
        return [*pools, *flows, *(request for request, _ in self._tickets.values())]

    def _begin_epoch(self, answer: TickAnswer) -> None:
        """What the answer does not grant anew is void."""
        self.epoch = answer.epoch
        adopted = {
            (effect.lease.flow, effect.lease.pool) for _, effect in answer.effects if isinstance(effect, Granted)
        }
        for key, state in self._flows.items():
            if key not in adopted:
                state.forget_lease()

    def _apply(self, effect: Effect, sent_ns: int) -> None:
        match effect:
            case Granted(_, lease):
                if (state := self._flows.get((lease.flow, lease.pool))) is not None:
                    state.grant(lease, sent_ns)
            case TicketGranted(_, request, lease):
                if (state := self._flows.get((lease.flow, lease.pool))) is not None:
                    state.grant_ticket(lease, sent_ns)
                self._answer_ticket(request, TicketAnswer(granted=True))
            case TicketDenied():
                self._answer_ticket(
                    effect.request, TicketAnswer(granted=False, reason=effect.reason, retry_ns=effect.retry_ns)
                )
            case Fenced():
                self._fence(effect)
            case Outlook():
                if (asked := self._flows.get((effect.flow, effect.pool))) is not None:
                    asked.outlook = effect
            case Backpressure():
                self.backpressure[effect.pool] = effect
            case _:
                pass

    def _fence(self, effect: Fenced) -> None:
        state = self._flows.get((effect.flow, effect.pool))
        if state is None:
            return
        state.void()
        if effect.reason is Reason.UNKNOWN_POOL and (pool := self._pools.get(effect.pool)) is not None:
            self._news.add(OpenPool(pool))
        if effect.reason in (Reason.UNKNOWN_POOL, Reason.UNKNOWN_FLOW) and not state.closing:
            state.begin_again()
            self._news.add(state.opened)

    def _answer_ticket(self, request: int, answer: TicketAnswer) -> None:
        if request in self._tickets and not self._tickets[request][1].done():
            self._tickets[request][1].set_result(answer)
