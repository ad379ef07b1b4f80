"""What the benchmarks of codecs over bindings share: a packet of a program's pages, and credit that costs nothing."""

from pathlib import Path

import numpy as np

from pipeline.memory.pages import PAGE_BYTES

PAGES = 128
#: Half a megabyte of a program, as in docs/devices.md.
_PROGRAM = "libcrypto.so*"


def packet() -> memoryview:
    """`PAGES` pages of a program, or of words where there is none."""
    found = sorted(Path("/usr/lib").glob(f"*/{_PROGRAM}"))
    size = PAGES * PAGE_BYTES
    if found and found[0].stat().st_size >= 3 * size:
        return memoryview(found[0].read_bytes()[size : 2 * size])
    return memoryview(np.random.default_rng(1).choice([b"guest", b"of", b"page"], size).tobytes()[:size])


class _Hold:
    def __init__(self, slots: int) -> None:
        self.slots = slots

    def current(self) -> bool:
        return True

    def release(self, used_ns: int) -> None:
        """Nothing is kept."""


class EndlessCredit:
    """Costs nothing, so that the device's side alone is measured."""

    def prefers_device(self) -> bool:
        return True

    def acquire(self, slots: int, cost_ns: int, timeout_ns: int) -> _Hold:
        return _Hold(slots)

    def count(self, **numbers: int) -> None:
        """Nobody asks."""
