"""How many processes want this machine's cores now, and how much of them is left for a migration's own.

Linux shares cores equally among those that want one. With L others and P of ours on c cores each has c / (L + P) of a
core, and never more than one, so ours have

    min(P, P c / (L + P))         cores.
"""

import time
from pathlib import Path

_STATISTICS = Path("/proc/stat")
_LINE = "procs_running "
_SAMPLES = 10
_PAUSE_S = 0.02


def others_running(statistics: Path = _STATISTICS, pause_s: float = _PAUSE_S) -> float:
    """Processes that run or could, ours not counted, the mean of ten looks; 0 where nobody says."""
    counts = []
    for _ in range(_SAMPLES):
        try:
            lines = statistics.read_text().splitlines()
        except OSError:
            return 0.0
        counts += [int(line.removeprefix(_LINE)) - 1 for line in lines if line.startswith(_LINE)]
        time.sleep(pause_s)
    return max(0.0, sum(counts) / len(counts)) if counts else 0.0


def spare_cores(cores: int, ours: int, others: float) -> float:
    """What `ours` busy processes get of the cores beside `others`."""
    return min(float(ours), ours * cores / (others + ours))
