"""Runs, medians, and interleaving: both sides of a comparison take turns, so a busy moment hits both."""

import gc
import statistics
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class Run:
    """One migration: what it took, and what it cost on either side."""

    wall_s: float
    #: As the network interface counted them, packet heads and acknowledgements of that direction included.
    wire_bytes: int
    source_cpu_s: float
    destination_cpu_s: float
    raw_bytes: int
    downtime_ms: float | None = None
    #: What kuaka's frames are larger than the normal pages in them.
    overhead_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Summary:
    """Medians of one contender's runs."""

    name: str
    runs: int
    wall_s: float
    wire_bytes: int
    source_cpu_s_per_gib: float
    destination_cpu_s_per_gib: float
    downtime_ms: float | None
    walls_s: tuple[float, ...]

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)


Contender = Callable[[], Run]


def interleaved(contenders: Mapping[str, Contender], runs: int) -> dict[str, Summary]:
    """Run all contenders in turn, `runs` times, and summarise each."""
    results: dict[str, list[Run]] = {name: [] for name in contenders}
    for turn in range(runs):
        for name, contender in contenders.items():
            sys.stderr.write(f"\r\x1b[K  run {turn + 1} of {runs}: {name}")
            sys.stderr.flush()
            gc.collect()
            results[name].append(contender())
    sys.stderr.write("\r\x1b[K")
    return {name: _summary(name, done) for name, done in results.items()}


def best(summaries: Mapping[str, Summary], *names: str) -> Summary:
    """Of these contenders the one with the least wall time."""
    return min((summaries[name] for name in names), key=lambda summary: summary.wall_s)


def _summary(name: str, runs: list[Run]) -> Summary:
    gib = runs[0].raw_bytes / GIB
    downtimes = [run.downtime_ms for run in runs if run.downtime_ms is not None]
    return Summary(
        name,
        len(runs),
        round(statistics.median(run.wall_s for run in runs), 4),
        int(statistics.median(run.wire_bytes for run in runs)),
        round(statistics.median(run.source_cpu_s for run in runs) / gib, 3),
        round(statistics.median(run.destination_cpu_s for run in runs) / gib, 3),
        round(statistics.median(downtimes), 1) if downtimes else None,
        tuple(round(run.wall_s, 4) for run in runs),
    )
