"""DRAM bandwidth of a host: when more is wanted than there is, everybody who reads is slowed alike."""

from collections.abc import Generator
from contextlib import contextmanager


class MemoryDemand:
    """Bytes per ns that are wanted now, against `bandwidth_b_ns`.

    Threads are slowed, by what is wanted as they begin: what comes later slows only what begins after it. Devices read
    at their own rate; they take bandwidth from the threads.
    """

    def __init__(self, bandwidth_b_ns: float) -> None:
        self._bandwidth_b_ns = bandwidth_b_ns
        self._wanted_b_ns = 0.0

    def add(self, bytes_per_ns: float) -> None:
        """Somebody reads at that rate from now on; a negative rate takes it back."""
        self._wanted_b_ns += bytes_per_ns

    @property
    def stretch(self) -> float:
        """By what factor reading is slowed now."""
        return max(1.0, self._wanted_b_ns / self._bandwidth_b_ns)

    @contextmanager
    def reading(self, bytes_per_ns: float) -> Generator[float, None, None]:
        """Read at that rate meanwhile; yields by what factor the work is stretched (1: not at all)."""
        self.add(bytes_per_ns)
        try:
            yield self.stretch
        finally:
            self.add(-bytes_per_ns)
