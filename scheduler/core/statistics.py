"""What a pool looks like from outside: frozen counts, taken on request. Metrics and tables are made from these."""

from dataclasses import dataclass

from scheduler.core.units import ServiceClass


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
class PoolStatistics:
    """One pool; counts are since the scheduler started."""

    pool: str
    up: bool
    learning: bool
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
    #: Of the reservations that are due, how long the first has been.
    reservation_lateness_ns: int
    #: Longest time that a class with demand went without a grant, so far.
    starvation_gap_ns: dict[ServiceClass, int]
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


@dataclass(frozen=True, slots=True)
class Statistics:
    """The whole scheduler."""

    epoch: int
    events: int
    stale_messages: int
    pools: tuple[PoolStatistics, ...]
