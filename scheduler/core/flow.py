"""One migration on one pool, as the pool keeps it: who it is, what it has been given, and its tags.

Budgets are running totals. `granted_ns` is how far the flow may go, `used_ns` how far it says it has gone; the
difference is work that it was given and has not done. So a lost message is made good by the next one, and a repeated
one changes nothing.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from scheduler.core.effects import Outlook
from scheduler.core.units import Phase, ServiceClass

if TYPE_CHECKING:
    from scheduler.core.fair import Entry, FairQueue, Tenant


@dataclass(slots=True, eq=False)
class Flow:
    """State of a flow; only its pool changes it."""

    name: str
    host: str
    #: Its home: the class that its phase alone gives it, in whose queue it waits and pays, and its tenant there.
    queue: "FairQueue"
    tenant: "Tenant"
    weight: int
    #: Order of arrival; breaks every tie.
    number: int
    reservation_ns_s: int = 0
    cap_ns_s: int = 0
    phase: Phase = Phase.PRECOPY
    deadline_ns: int | None = None
    remaining_ns: int = 0
    service_class: ServiceClass = ServiceClass.BULK
    #: Whether its queue alone decides its class: no deadline, no standstill.
    unhurried: bool = True
    #: Whether nothing but its weight decides when it is served: nothing hurries it, no cap holds it back.
    plain: bool = True

    #: Work that it could do beyond `used_ns` within the horizon, by its own word.
    demand_ns: int = 0
    #: Whether its holder has said so much as where its counter stands.
    heard: bool = False
    used_ns: int = 0
    granted_ns: int = 0

    #: Whether it sits on what it was granted: that is not held against the others. Judged now and then, by what it had
    #: done and not done when it was last looked at.
    stuck: bool = False
    judged_at_ns: int = 0
    judged_used_ns: int = 0
    judged_unused_ns: int = 0

    #: What its share is worth; see `shares`.
    valued: int = 0
    share_ns_s: int = 0
    worth: int = 0
    most_ahead_ns: int = 0

    #: Virtual start and finish tags among the flows of its tenant; see `fair`.
    start: int = 0
    finish: int = 0
    #: Its place in its tenant's queue; None: it is in none.
    entry: "Entry | None" = None
    #: Whether it counts as active: it could use more than it was given, or holds a lease.
    active: bool = False
    #: mClock tags: when the next piece of its reservation is due, when its cap allows the next grant.
    reservation_tag_ns: int = 0
    cap_tag_ns: int = 0
    reservation_entry: "Entry | None" = None
    cap_entry: "Entry | None" = None
    urgent_entry: "Entry | None" = None
    #: Since when it could use more than it was given; None: it could not.
    waiting_since_ns: int | None = None

    #: The newest lease; 0: none since it was opened, or it has ended.
    lease: int = 0
    #: Whether that is one of the epoch before that its holder has not presented under this one.
    adopted: bool = False
    #: What that lease allows, and what must be taken to be in force: a smaller window counts once it is acknowledged.
    window: int = 0
    counted: int = 0
    #: Of `window` and `counted`, the slots out of the critical reserve.
    reserve_window: int = 0
    reserve_counted: int = 0
    expires_ns: int = 0
    #: The time to live that it was renewed for, and that its holder is told.
    ttl_ns: int = 0
    expiry_queued: bool = False
    #: The ticket whose work it was granted last.
    ticket_used: int = 0
    #: What it may still be given in a class above its own before it has to wait there again.
    boost_ns: int = 0
    boost_at_ns: int = 0
    #: What its holder was told last.
    outlook: Outlook | None = None
    #: What its holder said last; for statistics.
    wait_ns: int = 0
    busy_retries: int = 0
    grants: int = 0

    @property
    def unused_ns(self) -> int:
        """Granted and not yet done; never negative: what is done beyond a grant counts as granted."""
        return self.granted_ns - self.used_ns

    @property
    def pending_ns(self) -> int:
        """Of that, what counts against the pool's horizon."""
        return 0 if self.stuck else self.granted_ns - self.used_ns

    @property
    def backlogged(self) -> bool:
        """Whether it could use more than it has been given."""
        return self.demand_ns > self.granted_ns - self.used_ns

    @property
    def home_class(self) -> ServiceClass:
        """That of its queue."""
        return self.queue.service_class
