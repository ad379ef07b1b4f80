"""One migration that wants to run, as admission sees it."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Request:
    """A migration that waits or runs. Two with the same id are one."""

    #: fleet/vm.
    id: str
    fleet: str
    #: Hosts by name.
    source: str
    destination: str
    #: 100 system-critical, 50 user-triggered, 20 system-maintenance, 0 default.
    priority: int
    #: The fleet's share against other fleets of the same priority; the same in all of a fleet's requests.
    weight: int
    #: What it is charged as, raw bytes.
    memory_bytes: int
    #: Order of submission.
    submitted: int
    #: Its bandwidth cap, wire bytes per second; None: as much as the link gives it.
    rate_bytes_s: int | None = None
    #: Accelerator pools (host/kind) that it would use.
    pools: tuple[str, ...] = ()
    #: When it should be done, on any clock that all requests share; earlier ones of a fleet go first. None: whenever.
    deadline_ns: int | None = None
