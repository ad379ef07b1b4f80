"""What happened to a fleet, in order: every change of a migration's state is one, and so is what was tried besides."""

from dataclasses import dataclass

#: So many at most are returned at once; ask again after the last one's sequence.
EVENTS_PER_CALL = 1000


@dataclass(frozen=True, slots=True)
class Event:
    """One line of a fleet's history."""

    #: Grows with every event of every fleet; never used again.
    sequence: int
    #: Nanoseconds since 1970, by the clock of the controller's host.
    time_ns: int
    fleet: str
    #: Empty where the fleet is meant.
    vm: str
    #: The migration's state, or the fleet's.
    state: str
    reason: str
