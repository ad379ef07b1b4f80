"""What goes wrong with an emulated device, and when: page faults by chance, stalls and disabled times by the clock."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

import numpy as np

PER_MILLION = 1_000_000


class DisturbanceKind(Enum):
    """A stalled device takes descriptors and completes none; a disabled one lets its clients go and takes no others."""

    STALL = "stall"
    DISABLE = "disable"


@dataclass(frozen=True, slots=True)
class Disturbance:
    """One, `at_ns` after the device has started; a DISABLE of 0 ns has no end."""

    kind: DisturbanceKind
    at_ns: int
    duration_ns: int


def fault_drawer(per_million: int, seed: int) -> Callable[[int], list[bool]]:
    """Which of so many descriptors meet a page fault; the same seed gives the same faults in the same order."""
    if not per_million:
        return lambda count: [False] * count
    generator = np.random.default_rng(seed)
    return lambda count: (generator.integers(0, PER_MILLION, count) < per_million).tolist()
