"""What the scheduler wants done. A shell carries effects to where they belong; it decides nothing.

Not frozen, though nobody changes them: they are made for every grant, and a frozen one takes three times as long.
"""

from dataclasses import dataclass
from enum import Enum

from scheduler.core.units import ServiceClass


class Reason(Enum):
    """Why there is no lease, or no more of one; the same words in logs, metrics and tables."""

    #: Others are due first.
    QUEUED = "queued"
    #: All slots are leased.
    NO_SLOTS = "no-slots"
    CAPPED = "capped"
    DEVICE_DOWN = "device-down"
    #: The scheduler has just started and waits until leases of before have ended.
    LEARNING = "learning"
    UNKNOWN_FLOW = "unknown-flow"
    UNKNOWN_POOL = "unknown-pool"
    STALE_EPOCH = "stale-epoch"
    STALE_LEASE = "stale-lease"
    EXPIRED = "expired"
    #: Reservations, or tickets before this one, take all there is.
    NO_CAPACITY = "no-capacity"


@dataclass(slots=True)
class Lease:
    """The right to keep `window` descriptors in flight, until the flow's `used_ns` reaches `budget_until_ns`.

    Its holder counts `ttl_ns` from when it *sent* the report that earned it, on its own clock, and submits nothing
    after that. A newer lease of the same flow (higher number) replaces it.
    """

    #: Higher than any lease before it, in this epoch.
    lease: int
    flow: str
    pool: str
    epoch: int
    service_class: ServiceClass
    window: int
    budget_until_ns: int
    ttl_ns: int


@dataclass(slots=True)
class Granted:
    """Tell `host` of a lease, or of more budget, another window or a longer life for the one it has."""

    host: str
    lease: Lease


@dataclass(slots=True)
class Outlook:
    """What a flow that asked may expect: how long until its next grant, and its share of the pool's work.

    Told when it differs by an eighth from what was told last, or the reason does; so it must not get lost.
    The split needs both. A flow that has nothing left to do under a lease works without the device until then.
    """

    host: str
    flow: str
    pool: str
    wait_ns: int
    share_ns_s: int
    #: Why it has nothing left; None where it has.
    withheld: Reason | None = None


@dataclass(slots=True)
class Fenced:
    """What a host said, or holds, is void: it must not submit under it."""

    host: str
    flow: str
    pool: str
    reason: Reason


@dataclass(slots=True)
class TicketGranted:
    """The guest may be stopped within the lease's life: slots are set aside, nothing need be asked again.

    The lease's window comes on top of the flow's own, from the stop on; `budget_until_ns` is how far it may go beyond
    what it had used by then.
    """

    host: str
    request: int
    lease: Lease


@dataclass(slots=True)
class TicketDenied:
    """The guest must go on running; ask again in `retry_ns`."""

    host: str
    flow: str
    pool: str
    request: int
    reason: Reason
    retry_ns: int


@dataclass(slots=True)
class Backpressure:
    """How long a BULK batch waits for a pool. Migrations slow down, admission stops while it is over two leases."""

    host: str
    pool: str
    wait_ns: int
    stop_admission: bool


@dataclass(slots=True)
class EpochBegan:
    """Keep this number where a restart finds it, before anything is granted under it."""

    epoch: int


@dataclass(slots=True)
class Alarm:
    """Somebody should look: more in the device than was leased, a device that does not answer, ..."""

    pool: str
    what: str


Effect = Granted | Outlook | Fenced | TicketGranted | TicketDenied | Backpressure | EpochBegan | Alarm
