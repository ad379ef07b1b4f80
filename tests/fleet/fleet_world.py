"""A naive model of many guests on many hosts, which real `GuestMigration`s, sweeps and controllers act on.

A `World` says what is true, whoever knows it: where every guest runs, what is at its destination, how far its memory
has travelled. It outlives controllers and their agents, watches the rules that must hold at any moment and notes what
was broken. `Point`s are the moments at which whoever acts may die: before and after every call of a host.
"""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

SECOND_NS = 10**9
MEMORY_BYTES = 1 << 30
#: Wire and memory bytes are the same here: a guest's memory takes so long at full speed.
MEMORY_S = 4.0
FULL_BYTES_S = int(MEMORY_BYTES / MEMORY_S)


@dataclass(slots=True)
class Guest:
    """What is true of one guest. Plain values: it may live in a file."""

    vm: str
    source_runs: bool = True
    #: The session that its memory travels in, and since when.
    migrating: str | None = None
    since_ns: int = 0
    sent_bytes: int = 0
    rate_bytes_s: int = FULL_BYTES_S
    #: Bytes that must have been sent before it converges.
    needed_bytes: int = MEMORY_BYTES
    #: What it did not converge with is slowed down.
    throttled: bool = False
    destination: str | None = None
    loaded: bool = False
    destination_runs: bool = False
    sessions: list[str] = field(default_factory=list)
    #: Cut the stream of so many attempts.
    cuts: int = 0
    #: An attempt's memory stops moving behind its first byte.
    stuck: bool = False

    def advance(self, now_ns: int) -> None:
        """What happened since the last look, without anybody's doing."""
        if self.migrating is None:
            return
        if not self.stuck:
            self.sent_bytes += (now_ns - self.since_ns) * self.rate_bytes_s // SECOND_NS
        self.since_ns = now_ns
        if self.cuts and self.sent_bytes >= MEMORY_BYTES // 2:
            self.cuts -= 1
            self.migrating = None
        elif self.sent_bytes >= self.needed_bytes or (self.throttled and self.sent_bytes >= MEMORY_BYTES):
            self.migrating, self.source_runs, self.loaded = None, False, True

    def left_s(self) -> float:
        """Until there is something to see."""
        needed = MEMORY_BYTES // 2 if self.cuts else self.needed_bytes
        if self.stuck:
            return 1000.0
        return max(0.001, (needed - self.sent_bytes) / self.rate_bytes_s)


class World:
    """See the module. `point` is called wherever whoever acts may die."""

    def __init__(self, now_ns: Callable[[], int]) -> None:
        self.now_ns = now_ns
        self.guests: dict[str, Guest] = {}
        self.broken: list[str] = []
        self.point: Callable[[str], None] = lambda name: None
        self.handed_over: Callable[[str], bool] = lambda session: True
        #: How much faster its clock goes than that of whoever waits.
        self.haste = 1
        #: Names of calls that hosts cannot do.
        self.unable: set[str] = set()
        #: How often a call of that name still fails.
        self.failing: dict[str, int] = {}

    @contextlib.contextmanager
    def guest(self, vm: str) -> Iterator[Guest]:
        """Look at a guest and change it."""
        guest = self.guests.setdefault(vm, Guest(vm))
        guest.advance(self.now_ns())
        yield guest
        self.look(guest)

    def names(self) -> list[str]:
        return list(self.guests)

    def breaks(self, text: str) -> None:
        self.broken.append(text)

    def look(self, guest: Guest) -> None:
        if guest.source_runs and guest.destination_runs:
            self.breaks(f"{guest.vm} runs twice")
        if guest.destination_runs and guest.destination is None:
            self.breaks(f"{guest.vm} runs nowhere")
