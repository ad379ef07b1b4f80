"""How many threads of one QEMU stream memory, on average of late.

The fit knows averages only, and simulated batches are coarser than real ones: counting who streams at the very moment
one begins would make the answer depend on how batches happen to fall in step. So the count is averaged with an
exponential window: after dt at a count of n, average = n + (average - n) e^(-dt / window).
"""

from math import exp

import simpy

_WINDOW_NS = 20_000_000


class Streaming:
    """The count and its average, for one guest on one host."""

    def __init__(self, env: simpy.Environment) -> None:
        self._env = env
        self._count = 0
        self._average = 0.0
        self._at_ns = 0

    def average(self) -> float:
        """Threads streaming, averaged up to now."""
        elapsed_ns = int(self._env.now) - self._at_ns
        if elapsed_ns:
            self._average = self._count + (self._average - self._count) * exp(-elapsed_ns / _WINDOW_NS)
            self._at_ns += elapsed_ns
        return self._average

    def begin(self) -> None:
        """One more."""
        self.average()
        self._count += 1

    def end(self) -> None:
        """One less."""
        self.average()
        self._count -= 1
