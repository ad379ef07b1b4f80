"""What the scheduler's snapshot says, as samples. Pools of hosts that were forgotten have no series any more.

`Tenants` keeps the number of series bounded: the first `MOST_NAMED` tenants with flows have their own, all others are
"other" together. Who has a name keeps it while it has flows, so that a counter never falls because its name has moved,
and for the look that tells what the last of them did.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from scheduler.core.control import ControlState
from scheduler.core.fair import SCALE
from scheduler.core.statistics import PoolStatistics, TenantStatistics
from scheduler.core.units import NS_PER_S, PERMILLE, ServiceClass
from scheduler.metric import OTHER, Metric
from scheduler.metrics import (
    ALARMS,
    BUSY_RETRIES,
    BUSY_SECONDS,
    CAPACITY,
    COMPLETED,
    CONTROL_STATE,
    CREDIT_WAIT_SECONDS,
    ENGINES,
    EPOCH,
    EVENTS,
    EXPECTED_WAIT,
    EXPIRIES,
    FAIR_LAG,
    FENCES,
    FLOW_RATIO,
    FLOWS,
    GRANTED_SECONDS,
    GRANTS,
    HOSTS,
    IGNORED_TICKS,
    LATENCY_P99,
    LEASED,
    MOST_STARVATION_GAP,
    OBSERVED,
    OUTSTANDING_SECONDS,
    OVER_OCCUPIED,
    POOL_LEARNING,
    POOL_UP,
    RATE_RATIO,
    REFUSED,
    REFUSED_NEWS,
    RELEASES,
    RENEWALS,
    RESERVATION_LATENESS,
    RESERVE,
    RESERVE_LEASED,
    STALE_MESSAGES,
    STARVATION_GAP,
    TENANT_FLOWS,
    TENANT_USED_SECONDS,
    TENANT_WEIGHT,
    TICK_SECONDS,
    TICKET_SLOTS,
    TICKETS,
    TICKETS_DENIED,
    TICKETS_ISSUED,
    TICKETS_MISSED,
    TICKS,
    UNEXPLAINED_SECONDS,
    USED_SECONDS,
    VIRTUAL_TIME,
    WAITING_FLOWS,
)
from scheduler.readings import Readings
from scheduler.service import ServiceStatistics

MOST_NAMED = 20

#: Figures that are one number of a pool's snapshot, with what it is divided by.
_PLAIN: tuple[tuple[Metric, Callable[[PoolStatistics], int], int], ...] = (
    (POOL_UP, lambda pool: pool.up, 1),
    (POOL_LEARNING, lambda pool: pool.learning, 1),
    (ENGINES, lambda pool: pool.engines, 1),
    (RATE_RATIO, lambda pool: pool.rate_permille, PERMILLE),
    (FLOW_RATIO, lambda pool: pool.control.flow_permille, PERMILLE),
    (CAPACITY, lambda pool: pool.capacity_slots, 1),
    (LEASED, lambda pool: pool.leased_slots, 1),
    (RESERVE, lambda pool: pool.critical_slots, 1),
    (RESERVE_LEASED, lambda pool: pool.critical_leased_slots, 1),
    (TICKET_SLOTS, lambda pool: pool.ticket_slots, 1),
    (OVER_OCCUPIED, lambda pool: pool.control.over_occupied, 1),
    (GRANTED_SECONDS, lambda pool: pool.granted_ns, NS_PER_S),
    (USED_SECONDS, lambda pool: pool.used_ns, NS_PER_S),
    (OUTSTANDING_SECONDS, lambda pool: pool.outstanding_ns, NS_PER_S),
    (UNEXPLAINED_SECONDS, lambda pool: pool.unexplained_ns, NS_PER_S),
    (GRANTS, lambda pool: pool.grants, 1),
    (RENEWALS, lambda pool: pool.renewals, 1),
    (EXPIRIES, lambda pool: pool.expiries, 1),
    (RELEASES, lambda pool: pool.releases, 1),
    (FENCES, lambda pool: pool.fences, 1),
    (WAITING_FLOWS, lambda pool: pool.waiting, 1),
    (EXPECTED_WAIT, lambda pool: pool.expected_wait_ns, NS_PER_S),
    (CREDIT_WAIT_SECONDS, lambda pool: pool.wait_ns, NS_PER_S),
    (BUSY_RETRIES, lambda pool: pool.busy_retries, 1),
    (FAIR_LAG, lambda pool: pool.fair_lag_ns, NS_PER_S),
    (RESERVATION_LATENESS, lambda pool: pool.reservation_lateness_ns, NS_PER_S),
    (TICKETS, lambda pool: pool.tickets, 1),
    (TICKETS_ISSUED, lambda pool: pool.tickets_issued, 1),
    (TICKETS_DENIED, lambda pool: pool.tickets_denied, 1),
    (TICKETS_MISSED, lambda pool: pool.tickets_missed, 1),
)


class ServiceFigures:
    """A part of an `Exposition`. `snapshot` is called from its thread, and may raise."""

    def __init__(self, snapshot: Callable[[], ServiceStatistics]) -> None:
        self._snapshot = snapshot
        self._tenants: dict[str, Tenants] = {}

    def __call__(self, readings: Readings) -> None:
        found = self._snapshot()
        _service(readings, found)
        pools = [pool for pool in found.core.pools if pool.host in found.host_names]
        self._tenants = {pool.pool: self._tenants.get(pool.pool) or Tenants() for pool in pools}
        for pool in pools:
            labels = (pool.pool, short_host(pool.host), pool.kind.value)
            _pool(readings, pool, labels)
            for name, share in self._tenants[pool.pool].follow(pool.tenants).items():
                readings.put(TENANT_FLOWS, share.flows, *labels, name)
                readings.put(TENANT_WEIGHT, share.weight, *labels, name)
                readings.put(TENANT_USED_SECONDS, share.used_ns / NS_PER_S, *labels, name)


def short_host(host: str) -> str:
    """A host as its fleet calls it: clients put their run before it."""
    return host.rpartition("/")[2]


@dataclass(slots=True)
class Share:
    """What the series of one name say."""

    flows: int = 0
    weight: int = 0
    used_ns: int = 0


class Tenants:
    """The tenants of one pool; see the module."""

    def __init__(self, most_named: int = MOST_NAMED) -> None:
        self._most_named = most_named
        self._named: dict[str, None] = {}
        #: What each had used when it was last looked at, and what those without a name have used meanwhile.
        self._seen_ns: dict[str, int] = {}
        self._others_ns = 0

    def follow(self, tenants: Iterable[TenantStatistics]) -> dict[str, Share]:
        """After a look: what is to be told, by name. "other" is there once somebody has gone without a name."""
        present = {tenant.tenant: tenant for tenant in tenants}
        more_ns = {name: tenant.used_ns - self._seen_ns.get(name, 0) for name, tenant in present.items()}
        active = {name: tenant for name, tenant in present.items() if tenant.flows or more_ns[name]}
        self._named = {name: None for name in self._named if name in active}
        for name in active:
            if len(self._named) < self._most_named:
                self._named.setdefault(name)
        shares = {name: Share(present[name].flows, present[name].weight, present[name].used_ns) for name in self._named}
        others = Share()
        for name, tenant in active.items():
            self._seen_ns[name] = tenant.used_ns
            if name not in self._named:
                self._others_ns += more_ns[name]
                others.flows += tenant.flows
                others.weight += tenant.weight if tenant.flows else 0
        others.used_ns = self._others_ns
        return {**shares, OTHER: others} if others.flows or self._others_ns else shares


def _service(readings: Readings, found: ServiceStatistics) -> None:
    readings.put(EPOCH, found.epoch)
    readings.put(HOSTS, found.hosts)
    readings.put(TICKS, found.ticks)
    readings.put(TICK_SECONDS, found.tick_ns / NS_PER_S)
    for reason in ("stale", "repeated", "replaced"):
        readings.put(IGNORED_TICKS, getattr(found, reason), reason)
    readings.put(REFUSED_NEWS, found.refused)
    readings.put(EVENTS, found.core.events)
    readings.put(STALE_MESSAGES, found.core.stale_messages)
    readings.put(ALARMS, found.alarm_count)


def _pool(readings: Readings, pool: PoolStatistics, labels: tuple[str, str, str]) -> None:
    for metric, figure, divisor in _PLAIN:
        readings.put(metric, figure(pool) / divisor, *labels)
    for state in ControlState:
        readings.put(CONTROL_STATE, pool.control.state is state, *labels, state.value)
    classes = [flow.service_class for flow in pool.flows]
    for service_class in ServiceClass:
        readings.put(FLOWS, classes.count(service_class), *labels, service_class.name.lower())
    for metric, by_class, divisor in (
        (STARVATION_GAP, pool.current_gap_ns, NS_PER_S),
        (MOST_STARVATION_GAP, pool.starvation_gap_ns, NS_PER_S),
        (VIRTUAL_TIME, pool.virtual_time, SCALE * NS_PER_S),
    ):
        for service_class, number in by_class.items():
            readings.put(metric, number / divisor, *labels, service_class.name.lower())
    if (sample := pool.control.last) is not None:
        readings.put(OBSERVED, sample.occupancy, *labels)
        readings.put(BUSY_SECONDS, sample.busy_ns / NS_PER_S, *labels)
        readings.put(COMPLETED, sample.completed, *labels)
        readings.put(REFUSED, sample.refused, *labels)
        readings.put(LATENCY_P99, sample.latency_p99_ns / NS_PER_S, *labels)
