"""How many bytes one channel may have on their way: pure, the clock is an argument.

QEMU takes bytes that a socket accepted for bytes that arrived, so whatever waits between it and the destination is
downtime it does not know of: hidden_s = queued_bytes / wire_rate (measured: 16 MB in the way of 50 MB/s made 14 ms
of downtime into 353). The bound of the architecture is

    limit = max(one packet, wire_rate x 10 % of downtime_limit / channels)

with `wire_rate` the whole migration's. A channel sees its own rate r; channels of one migration share a link alike, so
wire_rate = r x channels and the limit of a channel is r x 10 % of downtime_limit.

r is measured as delivery rate (as BBR does, draft-cheng-iccrg-delivery-rate-estimation): bytes acknowledged between
the moment a frame left and the moment it was acknowledged, over that time or over the time those bytes took to
leave, whichever is longer: after a stall the acknowledgements of what had piled up come in one burst, which is not the
wire's rate. A sample during which no frame had to wait for the window says what the guest offered, not what the wire
takes: it may raise the estimate and never lowers it.
"""

from collections import deque
from dataclasses import dataclass

#: Share of the downtime limit that may hide in the window.
WINDOW_SHARE = 0.1
#: Weights of a new sample. A rise counts for more, so that a fast link is not starved at start.
_RISE, _FALL = 0.5, 0.125


# One for each frame: not frozen, which would cost a call for each field.
@dataclass(slots=True, eq=False)
class _Outstanding:
    sequence: int
    wire_bytes: int
    sent_ns: int
    #: Bytes delivered when it left, when that was, and when the last of them had left.
    delivered_bytes: int
    delivered_ns: int
    delivered_sent_ns: int


class Window:
    """Outstanding frames of one channel and the limit on their bytes."""

    def __init__(self, packet_bytes: int, downtime_limit_ns: int) -> None:
        self._packet_bytes = packet_bytes
        self._share_ns = int(downtime_limit_ns * WINDOW_SHARE)
        self._outstanding: deque[_Outstanding] = deque()
        self._in_flight_bytes = 0
        self._delivered_bytes = 0
        self._delivered_ns = 0
        self._delivered_sent_ns = 0
        self._held_back_sequence = -1
        self._rate_bytes_s = 0.0

    @property
    def in_flight_bytes(self) -> int:
        """Bytes sent and not yet acknowledged."""
        return self._in_flight_bytes

    @property
    def rate_bytes_s(self) -> float:
        """Delivery rate of this channel; 0 until the first acknowledgement."""
        return self._rate_bytes_s

    @property
    def limit_bytes(self) -> int:
        """Bytes that may be in flight."""
        return max(self._packet_bytes, int(self._rate_bytes_s * self._share_ns / 1e9))

    @property
    def oldest_sent_ns(self) -> int | None:
        """When the oldest unacknowledged frame left; None when nothing is outstanding."""
        return self._outstanding[0].sent_ns if self._outstanding else None

    def may_send(self, wire_bytes: int) -> bool:
        """Whether a frame of `wire_bytes` fits; an empty window takes any frame."""
        return not self._outstanding or self._in_flight_bytes + wire_bytes <= self.limit_bytes

    def held_back(self) -> None:
        """A frame has to wait for this window: what is on its way measures the wire, if it is more than a few bytes."""
        if self._outstanding and 2 * self._in_flight_bytes >= self.limit_bytes:
            self._held_back_sequence = self._outstanding[-1].sequence

    def sent(self, sequence: int, wire_bytes: int, now_ns: int) -> None:
        """A frame is about to leave."""
        if not self._outstanding:
            # Time without anything on its way is not the wire's: the sample starts here.
            self._delivered_ns = self._delivered_sent_ns = now_ns
        self._in_flight_bytes += wire_bytes
        self._outstanding.append(
            _Outstanding(
                sequence, wire_bytes, now_ns, self._delivered_bytes, self._delivered_ns, self._delivered_sent_ns
            )
        )

    def acknowledged(self, sequence: int, now_ns: int) -> None:
        """Every frame up to `sequence` was written to its destination; raises ValueError for a frame never sent."""
        last = None
        while self._outstanding and self._outstanding[0].sequence <= sequence:
            last = self._outstanding.popleft()
            self._in_flight_bytes -= last.wire_bytes
            self._delivered_bytes += last.wire_bytes
        if last is None or last.sequence != sequence:
            raise ValueError(f"frame {sequence} was acknowledged but is not outstanding")
        self._sample(last, now_ns)
        self._delivered_ns = now_ns
        self._delivered_sent_ns = last.sent_ns

    def _sample(self, frame: _Outstanding, now_ns: int) -> None:
        elapsed_ns = max(now_ns - frame.delivered_ns, frame.sent_ns - frame.delivered_sent_ns)
        if elapsed_ns <= 0:
            return
        change = (self._delivered_bytes - frame.delivered_bytes) * 1e9 / elapsed_ns - self._rate_bytes_s
        if change > 0:
            self._rate_bytes_s += _RISE * change
        elif frame.sequence <= self._held_back_sequence:
            self._rate_bytes_s += _FALL * change
