"""What a pool looks like from outside: frozen counts, taken on request. Metrics and tables are made from these."""

from dataclasses import dataclass

from scheduler.core.control import ControlState
from scheduler.core.events import DeviceSample
from scheduler.core.units import AcceleratorKind, ServiceClass


@dataclass(frozen=True, slots=True)
class FlowStatistics:
    """One flow on one pool."""

    flow: str
    tenant: str
    service_class: ServiceClass
    weight: int
    window: int
    used_ns: int
    granted_ns: int
    demand_ns: int
    grants: int
    #: What its holder said last.
    wait_ns: int
    busy_retries: int


@dataclass(frozen=True, slots=True)
class TenantStatistics:
    """A tenant on one pool, all classes together."""

    tenant: str
    weight: int
    flows: int
    used_ns: int


@dataclass(frozen=True, slots=True)
class ControlStatistics:
    """What the device says of itself, and what is made of it."""

    state: ControlState
    #: Dispatched per completed, moving average.
    flow_permille: int
    #: More was seen in the device than was leased, twice in a row.
    over_occupied: bool
    #: The newest look at it; None before the first, and after it was gone.
    last: DeviceSample | None


@dataclass(frozen=True, slots=True)
class PoolStatistics:
    """One pool; counts are since the scheduler started."""

    pool: str
    host: str
    kind: AcceleratorKind
    engines: int
    up: bool
    learning: bool
    control: ControlStatistics
    capacity_slots: int
    leased_slots: int
    critical_slots: int
    critical_leased_slots: int
    ticket_slots: int
    #: Granted and not done.
    outstanding_ns: int
    granted_ns: int
    used_ns: int
    grants: int
    renewals: int
    expiries: int
    releases: int
    fences: int
    #: How long batches waited for credit, and submissions that were repeated, as holders say.
    wait_ns: int
    busy_retries: int
    #: How long the next BULK grant is expected to wait.
    expected_wait_ns: int
    #: Of the reservations that are due, how long the first has been.
    reservation_lateness_ns: int
    #: Longest time that a class with demand went without a grant, so far.
    starvation_gap_ns: dict[ServiceClass, int]
    #: The one that there is now.
    current_gap_ns: dict[ServiceClass, int]
    #: Difference between the least and the greatest tag of flows that wait, as time of one engine per unit of weight.
    fair_lag_ns: int
    virtual_time: dict[ServiceClass, int]
    waiting: int
    rate_permille: int
    #: Longer in the device than anybody reports.
    unexplained_ns: int
    tickets: int
    tickets_issued: int
    tickets_denied: int
    tickets_missed: int
    flows: tuple[FlowStatistics, ...]
    #: In the order in which they came.
    tenants: tuple[TenantStatistics, ...]


@dataclass(frozen=True, slots=True)
class Statistics:
    """The whole scheduler."""

    epoch: int
    events: int
    stale_messages: int
    pools: tuple[PoolStatistics, ...]
