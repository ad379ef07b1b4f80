"""What a process costs: CPU time and private memory, from /proc."""

import os
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_SAMPLE_PERIOD_S = 0.01


def cpu_seconds(pids: Iterable[int]) -> float:
    """User and system time of these processes so far, all threads included; resolution 10 ms."""
    total = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / _TICKS_PER_S


def rss_anon_bytes(pid: int) -> int:
    """Private memory of a process that is resident."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) << 10
    raise RuntimeError(f"process {pid} has no RssAnon")


@dataclass(slots=True)
class RssPeaks:
    """Most private memory seen of each process."""

    peak_bytes: dict[int, int] = field(default_factory=dict)

    def sample(self) -> None:
        """Look once."""
        for pid in self.peak_bytes:
            self.peak_bytes[pid] = max(self.peak_bytes[pid], rss_anon_bytes(pid))


@contextmanager
def watched_rss(pids: Iterable[int]) -> Iterator[RssPeaks]:
    """Sample these processes every 10 ms while the context lasts."""
    peaks = RssPeaks({pid: rss_anon_bytes(pid) for pid in pids})
    over = threading.Event()

    def watch() -> None:
        while not over.wait(_SAMPLE_PERIOD_S):
            peaks.sample()

    thread = threading.Thread(target=watch, name="rss", daemon=True)
    thread.start()
    try:
        yield peaks
    finally:
        over.set()
        thread.join()
        peaks.sample()
