"""A pool in discrete time: one device, one host that holds all flows, a scheduler, and a clock that is an integer.

The device serves whoever has budget and window left, in proportion to windows, as a first come, first served queue
does. Every tick the host reports what was done and takes its leases; in between nobody asks the scheduler anything.
What was really done is counted here (`done_ns`), whatever a holder says of it.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from scheduler.core.effects import Effect, Fenced, Granted, Lease
from scheduler.core.events import (
    DeviceSample,
    FlowClosed,
    FlowOpened,
    FlowReport,
    HostReported,
    PoolOpened,
    PoolSettings,
    TenantSet,
)
from scheduler.core.machine import Scheduler
from scheduler.core.pool import PoolScheduler
from scheduler.core.units import AcceleratorKind, Phase

MS = 1_000_000
S = 1_000_000_000
ENGINES = 2
POOL = PoolSettings("p", "h", AcceleratorKind.IAA, slots=128, critical_slots=16, engines=ENGINES)
#: More than a pool ever hands out ahead.
ENDLESS_NS = 1 << 60
_SERVICE_NS = 10_000


@dataclass(eq=False)
class Vm:
    """A flow and its holder."""

    name: str
    weight: int = 1
    tenant: str = "t"
    phase: Phase = Phase.PRECOPY
    reservation_ns_s: int = 0
    cap_ns_s: int = 0
    deadline_ns: int | None = None
    remaining_ns: int = 0
    #: Work that waits to be done.
    backlog_ns: int = ENDLESS_NS
    #: Done beyond a lease's budget, permille of the budget: what was done costs more than was thought.
    overrun_permille: Callable[[], int] = lambda: 0
    #: What the holder makes of its report before it is sent.
    says: Callable[[FlowReport], FlowReport] = lambda report: report

    lease: Lease | None = None
    done_ns: int = 0
    #: All its grants, as the budget went up; and where the budget stood before the present lease.
    granted_ns: int = 0

    def opened(self) -> FlowOpened:
        """The event."""
        return FlowOpened(
            self.name, POOL.pool, self.tenant, self.weight, "", self.reservation_ns_s, self.cap_ns_s, self.phase,
            self.deadline_ns, self.remaining_ns,
        )  # fmt: skip

    @property
    def left_ns(self) -> int:
        """What it may and can do now."""
        return 0 if self.lease is None else max(0, min(self.lease.budget_until_ns - self.done_ns, self.backlog_ns))


@dataclass(eq=False)
class ToyPool:
    """The world; `rate_permille` is how fast the device is at a time."""

    settings: PoolSettings = POOL
    tick_ns: int = 100 * MS
    rate_permille: Callable[[int], int] = lambda _: 1000
    #: Whether the host looks at the device's counters.
    sampled: bool = False
    scheduler: Scheduler = field(default_factory=lambda: Scheduler(1, 0, learning=False))
    vms: dict[str, Vm] = field(default_factory=dict)
    now_ns: int = 0
    busy_ns: int = 0
    idle_ns: int = 0
    effects: list[Effect] = field(default_factory=list)
    _sequence: int = 0
    _idled: bool = True

    def __post_init__(self) -> None:
        self.scheduler.handle(PoolOpened(self.settings), self.now_ns)

    @property
    def pool(self) -> PoolScheduler:
        """The scheduler's side."""
        return self.scheduler.pools[self.settings.pool]

    def tenant(self, name: str, weight: int) -> None:
        """Set a tenant's weight."""
        self.scheduler.handle(TenantSet(name, weight), self.now_ns)

    def add(self, *vms: Vm) -> None:
        """Flows come, or are not what they were."""
        for vm in vms:
            self.vms[vm.name] = vm
            self._hear(self.scheduler.handle(vm.opened(), self.now_ns))

    def remove(self, vm: Vm) -> None:
        """A flow goes."""
        del self.vms[vm.name]
        self._hear(self.scheduler.handle(FlowClosed(vm.name, self.settings.pool), self.now_ns))

    def run(self, time_ns: int, after: Callable[[], None] = lambda: None) -> None:
        """Tick for a while; `after` every tick."""
        for _ in range(time_ns // self.tick_ns):
            self.tick()
            after()

    def tick(self) -> None:
        """The device works, then the host reports."""
        self.now_ns += self.tick_ns
        self._work(self.settings.engines * self.tick_ns * self.rate_permille(self.now_ns) // 1000)
        self.report()
        self.scheduler.validate()

    def report(self, *names: str) -> list[Effect]:
        """The host reports all flows, or these, and hears the answer."""
        self._sequence += 1
        reports = tuple(self._report(self.vms[name]) for name in names or self.vms)
        samples = (self._sample(),) if self.sampled else ()
        effects = self.scheduler.handle(HostReported("h", 1, self._sequence, reports, samples), self.now_ns)
        self._hear(effects)
        return effects

    def _work(self, capacity_ns: int) -> None:
        left_ns = capacity_ns
        while left_ns:
            able = [vm for vm in self.vms.values() if vm.left_ns and vm.lease is not None and vm.lease.window]
            if not able:
                break
            windows = sum(vm.lease.window for vm in able if vm.lease is not None)
            at_once_ns = left_ns
            for vm in able:
                assert vm.lease is not None
                part_ns = min(vm.left_ns, left_ns, max(1, at_once_ns * vm.lease.window // windows))
                vm.done_ns += part_ns
                vm.backlog_ns -= part_ns
                left_ns -= part_ns
        self.busy_ns += capacity_ns - left_ns
        self.idle_ns += left_ns
        self._idled = left_ns > 0

    def _report(self, vm: Vm) -> FlowReport:
        lease = vm.lease
        demand_ns = min(vm.backlog_ns, self.settings.horizon_ns * self.settings.engines)
        report = FlowReport(vm.name, self.settings.pool, demand_ns, vm.done_ns)
        if lease is not None:
            over = vm.done_ns >= lease.budget_until_ns or not vm.backlog_ns
            if over:
                vm.done_ns += vm.overrun_permille() * self.pool.capacity.lease_cost_ns // 1000
                vm.lease = None
            window = 0 if over else lease.window
            report = replace(report, used_ns=vm.done_ns, lease=lease.lease, window=window, released=over)
        return vm.says(report)

    def _sample(self) -> DeviceSample:
        # Full: a latency that the controller is content with. Idle at the end of the tick: nothing is in it.
        depth = 0 if self._idled else 64
        latency_ns = max(1, depth) * _SERVICE_NS
        return DeviceSample(self.settings.pool, self.busy_ns, self.busy_ns // _SERVICE_NS, 0, depth, latency_ns)

    def _hear(self, effects: list[Effect]) -> None:
        self.effects = effects
        for effect in effects:
            if isinstance(effect, Granted) and (vm := self.vms.get(effect.lease.flow)) is not None:
                vm.lease = effect.lease
                vm.granted_ns = effect.lease.budget_until_ns
            elif isinstance(effect, Fenced) and (fenced := self.vms.get(effect.flow)) is not None:
                fenced.lease = None


@dataclass
class Span:
    """How far a running figure has been from its least and its greatest , over any interval."""

    least: float | None = None
    greatest: float | None = None
    rise: float = 0
    fall: float = 0

    def see(self, value: float) -> None:
        """The figure now."""
        self.least = value if self.least is None else min(self.least, value)
        self.greatest = value if self.greatest is None else max(self.greatest, value)
        self.rise, self.fall = max(self.rise, value - self.least), max(self.fall, self.greatest - value)

    @property
    def most(self) -> float:
        """The greatest change in either direction."""
        return max(self.rise, self.fall)
