"""What has happened on a pool so far, for statistics, and the numbers of its leases."""

from dataclasses import dataclass


@dataclass(slots=True)
class Counts:
    """What happened so far."""

    grants: int = 0
    granted_ns: int = 0
    used_ns: int = 0
    renewals: int = 0
    expiries: int = 0
    releases: int = 0
    fences: int = 0
    #: As holders report them: how long batches waited for credit, and submissions that had to be repeated.
    wait_ns: int = 0
    busy_retries: int = 0


class LeaseNumbers:
    """Numbers of leases, of all pools of an epoch: each higher than any before."""

    def __init__(self) -> None:
        self.last = 0

    def next(self) -> int:
        """A new one."""
        self.last += 1
        return self.last
