"""Downtime tickets: a guest is stopped only when the critical reserve can do its last work in time.

A ticket is asked for while the guest runs, and sets slots aside until it is closed or its life ends; the guest may be
stopped at any moment of that life. The worst case is that all are stopped together, so admission asks whether all of
them then meet their deadlines: with cost c_i due within d_i of the stop, and a reserve that gets C of the pool,

    sum of c_i / d_i  <=  80 % of C

the earliest-deadline test in its density form. It is stricter than the test over all deadlines, and holds under any
order of service: the device is first come, first served and knows of no deadlines. Each ticket's window is its part of
the reserve, rounded up to whole slots, so that what a FIFO shares out by slots is what was promised.

A few slots are kept for the time right after a restart, when tickets of the epoch before may still live unseen: these
can be granted at once, whatever those hold.
"""

from dataclasses import dataclass
from typing import Self

from scheduler.core.events import PoolSettings
from scheduler.core.units import PERMILLE

#: Of the reserve's capacity, what tickets may promise.
_PROMISED_PERMILLE = 800
#: Of the reserve's slots, one in so many is for a restart.
_RESTART_PART = 4


@dataclass(frozen=True, slots=True)
class Ticket:
    """One live ticket."""

    flow: str
    request: int
    lease: int
    slots: int
    cost_ns: int
    within_ns: int
    granted_ns: int
    expires_ns: int


class TicketBook:
    """The live tickets of one pool's reserve of `slots`, which gets `rate_permille` device-ns per 1000 ns."""

    def __init__(self, slots: int, rate_permille: int) -> None:
        self.slots = slots
        self.rate_permille = rate_permille
        self.tickets: dict[str, Ticket] = {}
        self.issued = 0
        self.denied = 0
        self.missed = 0

    @classmethod
    def of(cls, settings: PoolSettings) -> Self:
        """The empty book of a pool."""
        return cls(settings.critical_slots, reserve_permille(settings))

    def apply(self, settings: PoolSettings) -> None:
        """The pool has other settings; the tickets stay."""
        self.slots, self.rate_permille = settings.critical_slots, reserve_permille(settings)

    @property
    def taken(self) -> int:
        """Slots set aside."""
        return sum(ticket.slots for ticket in self.tickets.values())

    def usable(self, *, learning: bool) -> int:
        """Slots that may be given out, to tickets and to CRITICAL leases together."""
        restart = self.restart_slots
        return restart if learning else self.slots - restart

    @property
    def restart_slots(self) -> int:
        """Slots that are kept for the time after a restart."""
        return max(1, self.slots // _RESTART_PART) if self.slots > 1 else 0

    def slots_for(self, cost_ns: int, within_ns: int) -> int:
        """The least slots whose part of the reserve does `cost_ns` in 80 % of `within_ns`."""
        promised = self.rate_permille * _PROMISED_PERMILLE * within_ns
        return max(1, -(-cost_ns * self.slots * PERMILLE * PERMILLE // max(1, promised)))

    def most_cost_ns(self, within_ns: int) -> int:
        """The most that one ticket can be for, when there is no other; 0 where there never is one."""
        promised = self.rate_permille * _PROMISED_PERMILLE * within_ns
        return self.usable(learning=False) * promised // (max(1, self.slots) * PERMILLE * PERMILLE)

    def retry_ns(self, now_ns: int) -> int:
        """When a slot may be free again: at the latest when the first ticket ends."""
        return min((ticket.expires_ns - now_ns for ticket in self.tickets.values()), default=0)

    def expire(self, now_ns: int) -> None:
        """Forget tickets whose life is over: their guests were not stopped in time, or nobody said that they were."""
        over = [flow for flow, ticket in self.tickets.items() if ticket.expires_ns <= now_ns]
        for flow in over:
            del self.tickets[flow]
        self.missed += len(over)


def reserve_permille(settings: PoolSettings) -> int:
    """What the critical reserve gets of a pool: device-ns per 1000 ns."""
    return settings.engines * settings.critical_slots * PERMILLE // settings.slots
