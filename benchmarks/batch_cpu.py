"""CPU time of one thread per batch: medians of rounds, in which the contenders take turns."""

import gc
import statistics
import time
from collections.abc import Callable, Mapping

#: Of a round; a thread's clock is read before and after, so that reading it does not count.
_BATCHES = 200
_ROUNDS_PER_RUN = 5


def batch_cpu_us(
    contenders: Mapping[str, Callable[[], object]], runs: int, clock: Callable[[], int] = time.thread_time_ns
) -> dict[str, float]:
    """Microseconds of CPU that one call of each contender takes: this thread's, or what `clock` says."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    gc.collect()
    for _ in range(runs * _ROUNDS_PER_RUN):
        for name, contender in contenders.items():
            times[name].append(_one_round_us(contender, clock))
    return {name: statistics.median(rounds) for name, rounds in times.items()}


def _one_round_us(contender: Callable[[], object], clock: Callable[[], int]) -> float:
    contender()
    began_ns = clock()
    for _ in range(_BATCHES):
        contender()
    return (clock() - began_ns) / _BATCHES / 1000
