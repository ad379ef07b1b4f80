"""The one call that a host makes per tick, and its answer.

It may be lost, repeated or overtaken without harm:

* What happened on the host (`News`) is numbered and told in every tick until an answer has acknowledged it; the service
  skips what it has handled. Reports are running totals.
* What the service has for the host is numbered, too, in every answer until a tick has acknowledged it; the client skips
  what it has handled. Leases are told with the life they have left.
* A service that does not know the host (it has restarted, or has not heard of it for long) says so, and the host tells
  everything from the beginning.

Only durations are in it, no times: two machines' clocks are never compared.
"""

import copyreg
from dataclasses import dataclass, fields
from operator import attrgetter

from scheduler.core.effects import Backpressure, Effect, Fenced, Lease, Outlook, Reason
from scheduler.core.events import DeviceSample, FlowOpened, FlowReport, PoolSettings
from scheduler.core.units import Phase


@dataclass(frozen=True, slots=True)
class OpenPool:
    """A pool of this host is there, or is there again."""

    settings: PoolSettings


@dataclass(frozen=True, slots=True)
class ClosePool:
    """A pool's device has gone."""

    pool: str


@dataclass(frozen=True, slots=True)
class OpenFlow:
    """See `core.events.FlowOpened`; what is said again with other values changes."""

    flow: str
    pool: str
    tenant: str
    weight: int
    reservation_ns_s: int = 0
    cap_ns_s: int = 0
    phase: Phase = Phase.PRECOPY
    #: The migration must be done so long from now on, when this is sent; None: whenever.
    due_in_ns: int | None = None
    remaining_ns: int = 0


@dataclass(frozen=True, slots=True)
class CloseFlow:
    """A flow has ended."""

    flow: str
    pool: str


@dataclass(frozen=True, slots=True)
class RequestTicket:
    """See `core.events.TicketRequested`."""

    flow: str
    pool: str
    request: int
    cost_ns: int
    within_ns: int


@dataclass(frozen=True, slots=True)
class CloseTicket:
    """The guest runs again."""

    flow: str
    pool: str


News = OpenPool | ClosePool | OpenFlow | CloseFlow | RequestTicket | CloseTicket


@dataclass(frozen=True, slots=True)
class Tick:
    """Everything that a host has to say."""

    host: str
    #: Which client of this host: drawn at random when it began. A new one replaces the one before.
    incarnation: int
    #: Higher than that of every tick before.
    sequence: int
    #: Epoch of the leases in `flows`.
    epoch: int
    #: The news, and the number of the first; the next one's is one more.
    news: tuple[News, ...] = ()
    first_news: int = 1
    #: Whether the news is everything there is, from the beginning.
    complete: bool = False
    flows: tuple[FlowReport, ...] = ()
    samples: tuple[DeviceSample, ...] = ()
    #: Effects up to this number are known.
    acknowledged: int = 0


@dataclass(frozen=True, slots=True)
class TickAnswer:
    """Everything there is for a host."""

    sequence: int
    epoch: int
    #: The host is not known, or what it said before: tell all from the beginning.
    unknown: bool = False
    #: Another client speaks for this host now: be silent.
    replaced: bool = False
    #: News up to this number is known.
    acknowledged: int = 0
    #: What is not acknowledged yet, oldest first, with its number.
    effects: tuple[tuple[int, Effect], ...] = ()


@dataclass(frozen=True, slots=True)
class TicketAnswer:
    """Whether a guest may be stopped with slots set aside for what is left of it."""

    granted: bool
    #: Why not; None where nobody answered in time. Then a guest may be stopped without the accelerator.
    reason: Reason | None = None
    #: When to ask again.
    retry_ns: int = 0


def flow_opened(opened: OpenFlow, host: str, now_ns: int) -> FlowOpened:
    """The core's word for it, by the clock of `now_ns`. Raises ValueError for what makes no sense."""
    return FlowOpened(
        flow=opened.flow,
        pool=opened.pool,
        tenant=opened.tenant,
        weight=opened.weight,
        host=host,
        reservation_ns_s=opened.reservation_ns_s,
        cap_ns_s=opened.cap_ns_s,
        phase=opened.phase,
        deadline_ns=None if opened.due_in_ns is None else now_ns + opened.due_in_ns,
        remaining_ns=opened.remaining_ns,
    )


def _pickle_by_constructor(kind: type) -> None:
    """By default a frozen dataclass with slots is pickled through `dataclasses.fields`, in three times as long."""
    values = attrgetter(*(field.name for field in fields(kind)))
    copyreg.pickle(kind, lambda message: (kind, values(message)))


for _kind in (Tick, TickAnswer, OpenFlow, FlowReport, DeviceSample, Lease, Outlook, Fenced, Backpressure):
    _pickle_by_constructor(_kind)
