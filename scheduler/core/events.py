"""What the scheduler is told. Each event is complete: handled twice, late or out of order, it does no harm.

Counters are cumulative (`used_ns` of a flow, `busy_ns` of a pool), so that a lost report is made good by the next one
and a repeated one counts once.
"""

from dataclasses import dataclass

from scheduler.core.units import AcceleratorKind, Phase


@dataclass(frozen=True, slots=True)
class PoolSettings:
    """One accelerator kind on one socket of one host: all queues there, seen as one. Raises ValueError for nonsense."""

    #: host/kind/socket.
    pool: str
    host: str
    kind: AcceleratorKind
    #: Entries that our submissions may fill: min(queue size, threshold), over the pool's queues.
    slots: int
    #: Of these, kept for CRITICAL.
    critical_slots: int
    #: Parallel servers: device-ns per ns.
    engines: int
    #: What one grant is worth at least: this long of the whole pool's work.
    lease_ns: int = 25_000_000
    #: The same for CRITICAL.
    critical_lease_ns: int = 2_000_000
    #: Granted and not yet used work never exceeds this long of the pool's: enough for two ticks of a host.
    horizon_ns: int = 250_000_000
    #: A holder with fewer slots cannot keep the device busy while it takes results.
    least_window: int = 8
    #: A restarted Ray actor needs up to a second.
    ttl_ns: int = 3_000_000_000
    critical_ttl_ns: int = 1_000_000_000
    #: Longest that descriptors of a dead holder stay in the device.
    drain_ns: int = 20_000_000
    #: Most by which two clocks differ in rate, parts per million.
    clock_ppm: int = 500
    #: Least shares of the work done while there is demand, permille.
    bulk_floor: int = 100
    background_floor: int = 20

    def __post_init__(self) -> None:
        _require(self.pool != "" and self.host != "", "a pool has a name and a host")
        _require(0 <= self.critical_slots < self.slots, f"{self.pool}: {self.critical_slots} of {self.slots} slots")
        _require(self.engines > 0, f"{self.pool}: {self.engines} engines")
        _require(0 < self.least_window <= self.slots - self.critical_slots, f"{self.pool}: window {self.least_window}")
        times = (self.lease_ns, self.critical_lease_ns, self.horizon_ns, self.ttl_ns, self.critical_ttl_ns)
        _require(min(times) > 0, f"{self.pool}: a length of time is not positive")
        _require(self.lease_ns <= self.horizon_ns, f"{self.pool}: a lease is longer than the horizon")
        _require(self.drain_ns >= 0 and 0 <= self.clock_ppm < 100_000, f"{self.pool}: drain or clock error")
        _require(min(self.bulk_floor, self.background_floor) >= 0, f"{self.pool}: a floor is negative")
        _require(self.bulk_floor + self.background_floor <= 1000, f"{self.pool}: floors of more than 100 %")


@dataclass(frozen=True, slots=True)
class PoolOpened:
    """A pool is there, or is there again."""

    settings: PoolSettings


@dataclass(frozen=True, slots=True)
class PoolClosed:
    """A pool's device has gone; its flows work without it until it is opened again."""

    pool: str


@dataclass(frozen=True, slots=True)
class TenantSet:
    """A fleet and its weight, from the controller; clients have no say in it."""

    tenant: str
    weight: int

    def __post_init__(self) -> None:
        _require(self.weight > 0, f"tenant {self.tenant}: weight {self.weight}")


@dataclass(frozen=True, slots=True)
class TenantRemoved:
    """A fleet is done; its flows are closed with it."""

    tenant: str


@dataclass(frozen=True, slots=True)
class FlowOpened:
    """One migration's demand on one pool. Opened again with other values it changes; its tags and leases stay."""

    flow: str
    pool: str
    tenant: str
    weight: int
    #: The host whose client it belongs to; empty: the pool's own.
    host: str = ""
    #: Least and most work per second, device-ns; 0: none promised, no limit.
    reservation_ns_s: int = 0
    cap_ns_s: int = 0
    phase: Phase = Phase.PRECOPY
    #: When the migration must be done, on the scheduler's clock; None: whenever.
    deadline_ns: int | None = None
    #: Work it still expects to need; with the deadline it makes the slack.
    remaining_ns: int = 0

    def __post_init__(self) -> None:
        _require(self.weight > 0, f"flow {self.flow}: weight {self.weight}")
        _require(min(self.reservation_ns_s, self.cap_ns_s, self.remaining_ns) >= 0, f"flow {self.flow}: below zero")
        _require(
            not self.cap_ns_s or self.reservation_ns_s <= self.cap_ns_s,
            f"flow {self.flow}: reservation of {self.reservation_ns_s} above its cap of {self.cap_ns_s}",
        )


@dataclass(frozen=True, slots=True)
class FlowClosed:
    """The migration needs this pool no more, or its host has forgotten it."""

    flow: str
    pool: str


# Not frozen: made for every flow and tick, and a frozen one takes three times as long.
@dataclass(slots=True)
class FlowReport:
    """What a host says of one flow on one pool."""

    flow: str
    pool: str
    #: Work it could use within the pool's horizon, beyond `used_ns`.
    demand_ns: int
    #: All work done for it so far.
    used_ns: int
    #: The newest lease its holder knows (0: none), and the window that is in force there now.
    lease: int = 0
    window: int = 0
    #: Nothing is in flight and nothing will be submitted before a newer lease arrives: the slots are free.
    released: bool = False
    #: How long its batches waited for credit since the last report, and how many descriptors the device refused.
    wait_ns: int = 0
    busy_retries: int = 0


@dataclass(frozen=True, slots=True)
class DeviceSample:
    """What a host sees of a pool's device; `busy_ns`, `completed` and `refused` are cumulative."""

    pool: str
    busy_ns: int
    completed: int
    refused: int
    occupancy: int
    latency_p99_ns: int


@dataclass(frozen=True, slots=True)
class HostReported:
    """One host's tick: everything at once. A sequence seen before gets the answer it got then."""

    host: str
    epoch: int
    sequence: int
    flows: tuple[FlowReport, ...] = ()
    samples: tuple[DeviceSample, ...] = ()


@dataclass(frozen=True, slots=True)
class TicketRequested:
    """A migration wants to stop its guest: `cost_ns` of work must be done within `within_ns` from the stop."""

    flow: str
    pool: str
    request: int
    cost_ns: int
    within_ns: int


@dataclass(frozen=True, slots=True)
class TicketClosed:
    """The guest runs again, here or there."""

    flow: str
    pool: str


@dataclass(frozen=True, slots=True)
class Ticked:
    """Nothing but time has passed."""


Event = (
    PoolOpened
    | PoolClosed
    | TenantSet
    | TenantRemoved
    | FlowOpened
    | FlowClosed
    | HostReported
    | TicketRequested
    | TicketClosed
    | Ticked
)


def _require(condition: bool, what: str) -> None:
    if not condition:
        raise ValueError(what)
