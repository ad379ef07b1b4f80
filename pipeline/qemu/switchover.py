"""How a guest's stop is held back while the guest runs on, and when its downtime ticket is worth asking for. Pure.

A guest is to be stopped when its ticket is there (`scheduler.core.tickets`), and must not stand still while it waits.
So pre-switchover is no place to wait: the guest is stopped there. Two ways are left, and QEMU goes on copying in both:

* `Hold.ACK`: both QEMUs have the capability switchover-ack (8.1), and the source gateway keeps the destination's
  SWITCHOVER_ACK (`qemu.return_sink`). Measured: held for 5 s, the guest runs, 49 ms of downtime then.
* `Hold.LIMIT`: one of them is older. downtime-limit is 1 ms until the ticket is there, then the policy's. (Not 0: with
  it QEMU completes at once.) A guest whose rest takes less than that millisecond stops by itself, without a ticket.

The rule when to ask is QEMU's own for the stop: the memory that remains can be moved within downtime-limit at the
current rate,

    remaining_bytes / rate_bytes_s  <=  downtime_limit

with `remaining` as of the beginning of the round, for at a round's end hardly anything remains, whatever comes next.
A round begins with a look at what the guest has dirtied (dirty-sync-count). Who looks every quarter of downtime-limit
(`poll_ns`, down to a limit of 40 ms) sees what remained at a round's beginning but for what a quarter moves: so no
guest is taken for near that would stand still for more than 5/4 of its limit. QEMU's own look adds up piece by piece,
so two of ours in a row have to agree.
"""

from dataclasses import dataclass
from enum import Enum, auto

_NS_PER_S = 10**9
_NS_PER_MS = 10**6
#: Looks cost QEMU's main loop something; more often than this buys nothing.
_LEAST_POLL_NS, _MOST_POLL_NS = 10 * _NS_PER_MS, 50 * _NS_PER_MS
_AGREEING_LOOKS = 2
#: The capability; QEMU below 8.1 does not list it.
SWITCHOVER_ACK = "switchover-ack"
#: QEMU's downtime-limit while the stop waits: the least that means "not yet".
HELD_LIMIT_MS = 1


class Hold(Enum):
    """How a stop is held back."""

    NONE = auto()
    ACK = auto()
    LIMIT = auto()


def way_to_hold(*, wanted: bool, acknowledged: bool) -> Hold:
    """`wanted`: a ticket is to be waited for; `acknowledged`: both QEMUs have switchover-ack."""
    if not wanted:
        return Hold.NONE
    return Hold.ACK if acknowledged else Hold.LIMIT


@dataclass(frozen=True, slots=True)
class RamProgress:
    """What query-migrate says of memory: QEMU's state, its bitmap syncs so far, what is dirty, and how fast it goes."""

    status: str
    round: int
    remaining_bytes: int
    rate_bytes_s: int
    #: How much of it the guest changes per second, as of its last round.
    dirty_bytes_s: int = 0


def fits_downtime(remaining_bytes: int, rate_bytes_s: int, downtime_limit_ns: int) -> bool:
    """Whether what remains can be moved while the guest stands still."""
    return remaining_bytes * _NS_PER_S <= rate_bytes_s * downtime_limit_ns


def poll_ns(downtime_limit_ns: int) -> int:
    """How often to look."""
    return min(_MOST_POLL_NS, max(_LEAST_POLL_NS, downtime_limit_ns // 4))


class Rounds:
    """What remained at the beginning of the current round, from looks at any time."""

    def __init__(self, downtime_limit_ns: int) -> None:
        self._downtime_limit_ns = downtime_limit_ns
        self._round = 0
        self._agreeing = 0
        #: The most that was seen to remain in the current round.
        self.remaining_bytes = 0

    @property
    def stop_is_near(self) -> bool:
        """Whether the guest would be stopped now if it might be."""
        return self._agreeing >= _AGREEING_LOOKS

    def observe(self, ram: RamProgress) -> None:
        """Take one look."""
        if ram.status != "active" or ram.round < 1:
            self._agreeing = 0
            return
        before = self.remaining_bytes if ram.round == self._round else 0
        self._round, self.remaining_bytes = ram.round, max(before, ram.remaining_bytes)
        fits = fits_downtime(self.remaining_bytes, ram.rate_bytes_s, self._downtime_limit_ns)
        self._agreeing = self._agreeing + 1 if fits else 0
