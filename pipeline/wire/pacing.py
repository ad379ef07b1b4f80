"""A cap on the bytes a link sends: pure, the clock is an argument.

The rule: by the time t after an idle moment no more than rate x t bytes have left, as on a wire of that rate. A frame
leaves when its last byte would have left such a wire, not when its first would: so what waits here is one frame at
most, whoever writes into the sender is held up at the rate, and nothing is hidden from it.

A thread wakes late, by a tenth of a millisecond or more. That time is not lost: the next frame may leave as much
earlier, up to `_CATCH_UP_NS`; an idle wire saves nothing beyond that.
"""

_CATCH_UP_NS = 5_000_000


class Pacer:
    """When each of one link's frames may leave. Used by one thread."""

    def __init__(self, rate_bytes_s: int) -> None:
        """`rate_bytes_s` is at least 1."""
        if rate_bytes_s < 1:
            raise ValueError(f"a wire of {rate_bytes_s} bytes/s would never send")
        self._rate_bytes_s = rate_bytes_s
        #: When the wire is free again; None before the first frame.
        self._free_ns: int | None = None

    def leave_ns(self, wire_bytes: int, now_ns: int) -> int:
        """Take the wire for one frame of `wire_bytes`; when it may leave, `now_ns` or later."""
        earliest_ns = now_ns if self._free_ns is None else max(self._free_ns, now_ns - _CATCH_UP_NS)
        self._free_ns = earliest_ns + wire_bytes * 10**9 // self._rate_bytes_s
        return max(self._free_ns, now_ns)
