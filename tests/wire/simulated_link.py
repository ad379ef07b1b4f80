"""A link without a network: a fake clock, a given wire rate, one sender that always or seldom has something to send."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from pipeline.wire.window import Window

MS = 1_000_000
S = 1_000_000_000
PACKET_BYTES = 512 * 1024
#: A packet that did not shrink: head and table come on top.
FRAME_BYTES = PACKET_BYTES + 48 + 128 * 5 + 10

Rate = Callable[[int], float]
Sizes = Callable[[int], int]


@dataclass(slots=True)
class Sent:
    """What the sender saw each time a frame left."""

    now_ns: int
    in_flight_bytes: int
    limit_bytes: int
    rate_bytes_s: float


@dataclass(slots=True)
class SimulatedLink:
    """Frames leave in order at the wire's rate; each is acknowledged half a round trip after it was written.

    The receiver writes nothing between `stalls` (start, end), as a destination QEMU at a SYNC.
    """

    window: Window
    rate: Rate
    trip_ns: int = MS // 5
    stalls: tuple[tuple[int, int], ...] = ()
    now_ns: int = 0
    log: list[Sent] = field(default_factory=list)
    _wire_free_ns: int = 0
    _sequence: int = 0
    _acknowledgements: deque[tuple[int, int]] = field(default_factory=deque)

    def saturate(self, until_ns: int, frame_bytes: Sizes = lambda _: FRAME_BYTES) -> None:
        """Send without pause, as `LinkSender` does: what does not fit waits for the next acknowledgement."""
        while self.now_ns < until_ns:
            self._take_due()
            size = frame_bytes(self._sequence)
            while not self.window.may_send(size):
                self.window.held_back()
                self._take_next()
            self._send(size)

    def trickle(self, frames: int, every_ns: int, frame_bytes: int, *, reads_late: bool = False) -> None:
        """Send one frame each `every_ns`; `reads_late` takes acknowledgements only then, not when they arrive."""
        for _ in range(frames):
            next_ns = self.now_ns + every_ns
            self._send(frame_bytes)
            while not reads_late and self._acknowledgements and self._acknowledgements[0][0] <= next_ns:
                self._take_next()
            self.now_ns = next_ns
            self._take_due()

    def drain(self) -> None:
        """Wait for everything."""
        while self._acknowledgements:
            self._take_next()

    def _send(self, size: int) -> None:
        self.window.sent(self._sequence, size, self.now_ns)
        self.log.append(
            Sent(self.now_ns, self.window.in_flight_bytes, self.window.limit_bytes, self.window.rate_bytes_s)
        )
        start_ns = max(self.now_ns, self._wire_free_ns)
        self._wire_free_ns = start_ns + int(size * S / self.rate(start_ns))
        written_ns = self._wire_free_ns + self.trip_ns // 2
        for stall_ns, end_ns in self.stalls:
            if stall_ns <= written_ns < end_ns:
                written_ns = end_ns
        self._acknowledgements.append((written_ns + self.trip_ns // 2, self._sequence))
        self._sequence += 1

    def _take_due(self) -> None:
        while self._acknowledgements and self._acknowledgements[0][0] <= self.now_ns:
            self._take_next()

    def _take_next(self) -> None:
        at_ns, sequence = self._acknowledgements.popleft()
        self.now_ns = max(self.now_ns, at_ns)
        self.window.acknowledged(sequence, self.now_ns)
