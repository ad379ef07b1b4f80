"""How fast a migration moves, and how long it takes: the model behind the plan's times.

A migration of M bytes at r raw bytes per second, of a guest that writes to D bytes per second, sends the memory once,
then what was written meanwhile, and so on: M + M D/r + M (D/r)^2 + ... bytes, so it takes

    T = setup + M / (r - D)          and does not end where r <= D.

D is taken as if every write went to another page; where a guest writes to few pages again and again this is too long.
With auto-converge QEMU slows the guest down until D <= r / 2.

r is the least of its own bandwidth cap and its shares: whoever uses a thing at the same time has an equal part of it.
Links are counted in wire bytes, of which a raw byte makes `wire_permille` / 1000, cores in what a core codes:

    r = min(cap, alone(link out) / n, alone(link in) / n, alone(workers) / n, alone(node) / n, ...)

where alone(x) is what x would give if it had nobody else, n who has it now. The shares of two ends are not evened out
(max-min fairness would give what one cannot use to the others): times are a little too long where ends differ.
"""

from dataclasses import dataclass
from typing import NamedTuple

from pipeline.fleet.plan.requests import Request

NS_PER_S = 10**9
#: What a guest that outruns its share still moves: so small that the plan shows it as far too late.
_HOPELESS_PART = 20


class Shared(NamedTuple):
    """Something that migrations use together: a direction of a link, a host's workers, a machine's cores."""

    kind: str
    name: str


@dataclass(frozen=True, slots=True)
class Load:
    """A migration and what it asks of its way."""

    request: Request
    #: What each thing that it uses would give it alone, raw bytes per second.
    alone: tuple[tuple[Shared, int], ...]
    #: Before the first byte and after the last.
    setup_ns: int
    #: Its bandwidth cap, raw bytes per second; None: no cap.
    cap_bytes_s: int | None = None
    #: What the guest writes to per second; images: 0.
    dirty_bytes_s: int = 0
    auto_converge: bool = False
    #: After this long it is given up; None: never.
    timeout_ns: int | None = None

    def speed(self, users: dict[Shared, int]) -> int:
        """Raw bytes per second, with so many users of each thing."""
        shares = [alone // max(1, users.get(shared, 1)) for shared, alone in self.alone]
        if self.cap_bytes_s is not None:
            shares.append(self.cap_bytes_s)
        return max(1, min(shares, default=1))

    def progress(self, speed: int) -> int:
        """Bytes per second that the rest gets less by, at this speed."""
        dirtied = min(self.dirty_bytes_s, speed // 2) if self.auto_converge else self.dirty_bytes_s
        return max(speed - dirtied, speed // _HOPELESS_PART, 1)

    def converges(self, speed: int) -> bool:
        """Whether it ends at this speed."""
        return self.auto_converge or speed > self.dirty_bytes_s

    def alone_ns(self) -> int:
        """How long it takes if nobody else uses anything."""
        return self.setup_ns + self.request.memory_bytes * NS_PER_S // self.progress(self.speed({}))
