"""How a flow's lease is divided among a host's workers: the maths, and the rows of one flow.

With W the lease's window, p_i what is published to worker i and f_i what it has in flight, at every moment

    sum over i of max(p_i, f_i)  +  slots of dead workers  <=  W         (when nothing shrinks)

To move slots the client first publishes the smaller windows, then reads what is in flight, and gives to others only
what that leaves. (Why a published window is in force at once: `scheduler.credit_table`.) When W itself shrinks, nothing
grows until the left side fits, and the left side is what the scheduler is told is in force.

The budget B is a total of the flow's work; worker i may use u_i + share_i x (B - sum of u), the shares summing up to 1:
what the workers may use together is B, whatever they used meanwhile.

A worker that died keeps the slots it had in flight until its lease has ended and the device has drained.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from scheduler.core.effects import Lease
from scheduler.core.units import ServiceClass
from scheduler.credit_table import COUNTER_WORDS, IN_FLIGHT, Counters, CreditTable, Grant
from scheduler.process_identity import ProcessIdentity


def divide(total: int, demands: Sequence[int]) -> list[int]:
    """`total` in proportion to `demands`, whole numbers that sum up to it; who wants nothing gets nothing.

    Where nobody wants anything all get alike; who wants something gets at least one while there are enough.
    """
    if len(demands) == 1:
        return [total]
    wanting = [max(0, demand) for demand in demands]
    if not any(wanting):
        wanting = [1] * len(demands)
    order = sorted(range(len(wanting)), key=lambda index: (-wanting[index], index))
    shares = [0] * len(wanting)
    for index in order[:total]:
        shares[index] = 1 if wanting[index] else 0
    left, whole = total - sum(shares), sum(wanting)
    for index in order:
        share = left * wanting[index] // whole if whole else 0
        shares[index] += share
        left, whole = left - share, whole - wanting[index]
    return shares


class FlowCounters(NamedTuple):
    """A flow's workers together, as in `Counters`, from `in_flight` on."""

    in_flight: int
    used_ns: int
    pending_ns: int
    asked_ns: int
    denied: int
    busy_retries: int
    wait_ns: int
    accelerator_pages: int
    cpu_pages: int
    accelerator_cpu_ns: int
    cpu_ns: int


_SUMMED = slice(Counters.__slots__.index(FlowCounters._fields[0]), None)
_ASKED, _USED, _PID, _STARTED = map(Counters.__slots__.index, ("asked_ns", "used_ns", "pid", "started"))


@dataclass(slots=True)
class WorkerRow:
    """One row of the table as its client sees it."""

    row: int
    generation: int
    published: Grant
    #: Where its worker's half is in the table.
    at: int
    #: The fields of `Counters`, as they were read last.
    counted: list[int] = field(default_factory=lambda: [0] * COUNTER_WORDS)
    #: What the division goes by: half of what was asked since the last look, half of what it was.
    demand: int = 0
    dead: bool = False
    _worker: ProcessIdentity | None = None

    @property
    def worker(self) -> ProcessIdentity | None:
        """Who works under it; None: nobody has come yet."""
        pid, started = self.counted[_PID], self.counted[_STARTED]
        known = self._worker
        if known is None or known.pid != pid or known.started != started:
            self._worker = known = ProcessIdentity(pid, started) if pid else None
        return known


class SubLeases:
    """The rows of one flow on one pool. `observe`, then `publish`, once a tick each."""

    def __init__(self, table: CreditTable, rows: Sequence[tuple[int, int]], drain_ns: int) -> None:
        """`rows`: numbers of rows that are this flow's, with their generation."""
        self._table = table
        self._drain_ns = drain_ns
        self.rows = [WorkerRow(row, generation, Grant(generation), table.counters_at(row)) for row, generation in rows]
        self.totals = self._sum()
        for row in self.rows:
            table.clear(row.row, row.published)

    def observe(self) -> None:
        """Read what the workers counted; `totals` is all of them together."""
        for row in self.rows:
            if row.dead:
                continue
            now = self._table.stable(row.at, COUNTER_WORDS)
            if now is not None and now[0] == row.generation:
                row.demand = (row.demand + now[_ASKED] - row.counted[_ASKED]) // 2
                row.counted = now
        self.totals = self._sum()

    def bury(self, row: WorkerRow) -> None:
        """Its worker has died."""
        row.dead = True
        counted = self._table.counted_by_dead(row.row)
        if counted[0] == row.generation:
            row.counted = counted
        self._publish(row, Grant(row.generation, deadline_ns=row.published.deadline_ns))

    def occupied(self, now_ns: int) -> int:
        """Slots in force: published, in flight, or a dead worker's."""
        return sum([self._held(row, now_ns) for row in self.rows])

    def quiet(self, now_ns: int) -> bool:
        """Whether nothing is in flight, and nothing may be submitted."""
        return self.occupied(now_ns) == 0

    def withdraw(self) -> None:
        """Publish that nothing may be submitted."""
        for row in self.rows:
            if row.published.window or row.published.budget_until_ns:
                self._publish(row, Grant(row.generation, deadline_ns=row.published.deadline_ns))

    def publish(self, lease: Lease, deadline_ns: int, device_permille: int, now_ns: int) -> None:
        """Divide a lease: what shrinks first, then what grows, with what is free by then."""
        if len(self.rows) == 1 and not self.rows[0].dead:
            self._publish_whole(self.rows[0], lease, deadline_ns, device_permille)
            return
        living = [row for row in self.rows if not row.dead]
        demands = [row.demand for row in living]
        locked = sum([self._held(row, now_ns) for row in self.rows if row.dead])
        targets = divide(max(0, lease.window - locked), demands)
        left_ns = max(0, lease.budget_until_ns - self.totals.used_ns)
        budgets = divide(left_ns, demands)
        for row, target in zip(living, targets, strict=True):
            if target < row.published.window:
                self._publish(row, Grant(row.generation, *_terms(lease, target, 0, 0, 0)))
        free = lease.window - locked - sum([self._held(row, now_ns) for row in living])
        for row, target, budget_ns in zip(living, targets, budgets, strict=True):
            grown = max(0, min(target - row.published.window, free))
            free -= grown
            budget_ns += row.counted[_USED]
            terms = _terms(lease, row.published.window + grown, budget_ns, deadline_ns, device_permille)
            self._publish(row, Grant(row.generation, *terms))

    def _publish_whole(self, row: WorkerRow, lease: Lease, deadline_ns: int, device_permille: int) -> None:
        """One worker has all of it: nobody waits for its slots, so they grow and shrink at once."""
        terms = _terms(
            lease, lease.window, max(lease.budget_until_ns, row.counted[_USED]), deadline_ns, device_permille
        )
        self._publish(row, Grant(row.generation, *terms))

    def free(self) -> list[int]:
        """The rows are nobody's from now on; their numbers."""
        for row in self.rows:
            self._publish(row, Grant())
        return [row.row for row in self.rows]

    def _sum(self) -> FlowCounters:
        if len(self.rows) == 1:
            return FlowCounters._make(self.rows[0].counted[_SUMMED])
        return FlowCounters(*map(sum, zip(*(row.counted[_SUMMED] for row in self.rows), strict=True)))

    def _held(self, row: WorkerRow, now_ns: int) -> int:
        in_flight = self._table.words[row.at + IN_FLIGHT]
        if row.dead:
            return in_flight if now_ns < row.published.deadline_ns + self._drain_ns else 0
        return max(row.published.window, in_flight)

    def _publish(self, row: WorkerRow, grant: Grant) -> None:
        if grant != row.published:
            row.published = grant
            self._table.publish(row.row, grant)


def _terms(
    lease: Lease, window: int, budget_until_ns: int, deadline_ns: int, device_permille: int
) -> tuple[int, int, int, int, int, ServiceClass, int]:
    return lease.epoch, lease.lease, window, budget_until_ns, deadline_ns, lease.service_class, device_permille
