"""One attempt to be made, and who makes it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.fleet.fleet_hosts import FleetHost
from pipeline.fleet.lifecycle import Trigger
from pipeline.fleet.run import Attempt


@dataclass(frozen=True, slots=True)
class AttemptOrder:
    """What an attempt is made of."""

    fleet: str
    spec: Mapping[str, Any]
    vm: str
    #: Counts from 1.
    attempt: int
    #: The run in the journal that it is recorded under.
    run: int
    source: FleetHost
    destination: FleetHost
    #: The cap on its wire bytes per second that holds now, whatever the spec says: a user may have changed it since, or
    #: lifted it. None: none.
    rate_bytes_s: int | None
    #: To be told of START, HAND_OVER and TAKE_BACK by whoever learns of them (see `ReportingRecorder`); never raises.
    reached: Callable[[Trigger], None]


#: Makes an attempt with a session that was never used before and touches nothing yet. It keeps the rules of
#: `fleet.migration`: it records itself in the journal before it touches a host, and the hand-over before the
#: destination runs. Raises `KuakaError` for what cannot be attempted at all.
MakeAttempt = Callable[[AttemptOrder], Attempt]
