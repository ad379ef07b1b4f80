"""What the bindings to real queues cost their caller: CPU time per batch of 128 pages, on a device that takes no time.

Each binding is a part, in a module of its own, that adds its figures; one whose means this machine lacks says so and is
skipped. Both sides of a comparison are measured in the same run, in turns.
"""

from collections.abc import Callable
from pathlib import Path

from benchmarks import bindings_dsa, bindings_iaa, bindings_qat
from benchmarks.report import Report

PARTS: dict[str, Callable[[Report, Path, int], None]] = {
    "dsa": bindings_dsa.run,
    "iaa": bindings_iaa.run,
    "qat": bindings_qat.run,
}


def run(report: Report, folder: Path, runs: int) -> None:
    """All parts."""
    for part in PARTS.values():
        part(report, folder, runs)
