"""What the scheduler's core costs: grants and completions per second, and how long one decision takes.

One pool, all flows backlogged. A tick of the benchmark is what a host's tick is: the holders of leases report
(`HostReported`) that they have used them up, and whoever is next is granted (`Granted`). Only `handle` is measured; how
its caller makes the report and reads the answer is not. Rates are per second of this thread's CPU, since
whatever else the machine does says nothing of the scheduler; decisions are measured by the clock on the wall, and
beside it by this thread's CPU: what differs is time that somebody else had the processor.
"""

import gc
import math
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.report import Figure, Report
from scheduler.core.effects import Effect, Granted, Lease
from scheduler.core.events import FlowOpened, FlowReport, HostReported, PoolOpened, PoolSettings, TenantSet
from scheduler.core.machine import Scheduler
from scheduler.core.units import AcceleratorKind

_POOL = PoolSettings("host/iaa/0", "host", AcceleratorKind.IAA, slots=128, critical_slots=16, engines=2)
_FLOWS = (10, 100, 1_000, 10_000, 100_000)
_BOUND_FLOWS = 1_000
_RATE_BOUND = 100_000
_P99_BOUND_MS = 1
_TICKS = 5_000
_TICK_NS = 20_000_000
#: More than the pool can do before the next tick.
_DEMAND_NS = 500_000_000
_TENANTS = 4


@dataclass(frozen=True, slots=True)
class Timing:
    """One run: grants per CPU second, wall times of decisions, and their CPU time."""

    rate: float
    p50_ms: float
    p99_ms: float
    cpu_p99_ms: float


class Holders:
    """All flows of one pool, on one host: who uses up what it is granted at once."""

    def __init__(self, flows: int) -> None:
        self.scheduler = Scheduler(1, 0, learning=False)
        self.scheduler.handle(PoolOpened(_POOL), 0)
        for tenant in range(_TENANTS):
            self.scheduler.handle(TenantSet(f"tenant-{tenant}", 1 + tenant), 0)
        names = [f"vm-{number}" for number in range(flows)]
        for number, name in enumerate(names):
            owner = f"tenant-{number % _TENANTS}"
            self.scheduler.handle(FlowOpened(name, _POOL.pool, owner, 1 + number % 3), 0)
        self.leases: dict[str, Lease] = {}
        self._sequence = 1
        everybody = tuple(FlowReport(name, _POOL.pool, _DEMAND_NS, 0) for name in names)
        self.hear(self.scheduler.handle(HostReported("host", 1, 1, everybody), 0))

    def report(self) -> HostReported:
        """Every holder is done, and wants more."""
        self._sequence += 1
        done = tuple(
            FlowReport(lease.flow, lease.pool, _DEMAND_NS, lease.budget_until_ns, lease.lease, 0, released=True)
            for lease in self.leases.values()
        )
        self.leases.clear()
        return HostReported("host", 1, self._sequence, done)

    def hear(self, effects: list[Effect]) -> int:
        """Take the leases; how many."""
        granted = [effect.lease for effect in effects if isinstance(effect, Granted)]
        self.leases.update((lease.flow, lease) for lease in granted)
        return len(granted)


def run(report: Report, folder: Path, runs: int) -> None:
    """Each number of flows `runs` times, medians."""
    figures, rates = [], {}
    for flows in _FLOWS:
        timings = [_measured(flows) for _ in range(runs)]
        rates[flows] = statistics.median(timing.rate for timing in timings)
        bound = flows == _BOUND_FLOWS
        figures += [
            Figure(
                "scheduler", f"{flows} flows: grants and completions per CPU second", rates[flows],
                at_least=_RATE_BOUND if bound else None,
            ),
            Figure("scheduler", f"{flows} flows: decide p50", statistics.median(t.p50_ms for t in timings), " ms"),
            Figure(
                "scheduler", f"{flows} flows: decide p99", statistics.median(t.p99_ms for t in timings), " ms",
                at_most=_P99_BOUND_MS,
            ),
            Figure(
                "scheduler", f"{flows} flows: decide p99, of CPU", statistics.median(t.cpu_p99_ms for t in timings),
                " ms",
            ),
        ]  # fmt: skip
    most = _FLOWS[-1]
    growth = rates[_BOUND_FLOWS] / rates[most]
    logarithmic = math.log(most) / math.log(_BOUND_FLOWS)
    what = f"cost of a grant, {most} flows to {_BOUND_FLOWS} (O(log n))"
    figures.append(Figure("scheduler", what, growth, at_most=logarithmic))
    report.add("the scheduler's core", (), figures)


def _measured(flows: int) -> Timing:
    holders = Holders(flows)
    handle = holders.scheduler.handle
    gc.collect()
    grants, cpus_ns, walls_ns = 0, [], []
    for tick in range(1, _TICKS + 1):
        event = holders.report()
        cpu_before_ns, before_ns = time.thread_time_ns(), time.perf_counter_ns()
        effects = handle(event, tick * _TICK_NS)
        walls_ns.append(time.perf_counter_ns() - before_ns)
        cpus_ns.append(time.thread_time_ns() - cpu_before_ns)
        grants += holders.hear(effects)
    walls_ns.sort()
    cpus_ns.sort()
    middle, late = _TICKS // 2, _TICKS * 99 // 100
    return Timing(grants * 1e9 / sum(cpus_ns), walls_ns[middle] / 1e6, walls_ns[late] / 1e6, cpus_ns[late] / 1e6)
