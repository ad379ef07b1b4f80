"""The time that passes for a device: it stands still while the device is stalled.

A stall is then nothing but a later completion of all that is queued, as with real hardware, and the queue needs to know
nothing of it.
"""


class PausableClock:
    """Nanoseconds that pass only while the device runs; the caller brings the real time."""

    def __init__(self) -> None:
        self._lost_ns = 0
        self._paused_at_ns = 0
        self._paused_until_ns = 0

    def pause(self, now_ns: int, duration_ns: int) -> None:
        """Stand still for `duration_ns` from now, or longer where a pause is on that ends later."""
        if self.resumes_ns(now_ns) is None:
            self._paused_at_ns = self._paused_until_ns = now_ns
        self._paused_until_ns = max(self._paused_until_ns, now_ns + duration_ns)

    def resumes_ns(self, now_ns: int) -> int | None:
        """When a pause that is on will end, in real time; None while the device runs."""
        if now_ns < self._paused_until_ns:
            return self._paused_until_ns
        self._lost_ns += self._paused_until_ns - self._paused_at_ns
        self._paused_at_ns = self._paused_until_ns
        return None

    def read(self, now_ns: int) -> int:
        """Device time at real time `now_ns`, which never goes back."""
        paused = self.resumes_ns(now_ns) is not None
        return (self._paused_at_ns if paused else now_ns) - self._lost_ns
