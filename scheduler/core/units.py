"""What numbers mean in here: all integers, so that the same events give the same effects on every machine.

Work is counted in device-nanoseconds: one engine busy for one nanosecond. A pool with E engines does E device-ns per
nanosecond, whatever its clients are. Rates are device-ns per second, shares are permille, times are nanoseconds of one
monotonic clock per process. Two processes' clocks are never compared: only durations cross a connection.
"""

from enum import Enum, IntEnum

NS_PER_S = 1_000_000_000
PERMILLE = 1000


class AcceleratorKind(Enum):
    """What a pool's queues lead to."""

    DSA = "dsa"
    IAA = "iaa"
    QAT = "qat"


class ServiceClass(IntEnum):
    """Who goes first; lower is sooner. It follows from a flow's phase and deadline alone, never from its wishes."""

    CRITICAL = 0
    URGENT = 1
    BULK = 2
    BACKGROUND = 3


class Phase(Enum):
    """What a migration is doing."""

    #: Nobody waits for it: an image of a suspended VM.
    BACKGROUND = "background"
    #: The guest runs, its memory is being copied.
    PRECOPY = "precopy"
    #: The guest stands still until the rest has arrived; holds a ticket.
    STOPPED = "stopped"
    #: The guest runs at the destination and waits for single pages.
    POSTCOPY = "postcopy"
