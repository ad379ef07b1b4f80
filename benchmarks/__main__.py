"""`python -m benchmarks [NAME...] [--runs N] [-o json]`: run benchmarks and say which bounds hold."""

import argparse
import json
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from benchmarks import (
    case_bindings,
    case_downtime,
    case_drain,
    case_fleet,
    case_image,
    case_live,
    case_memory,
    case_metrics,
    case_overhead,
    case_plan,
    case_scheduler,
    case_ticks,
)
from benchmarks.namespaces import NamespaceError, private_loopback
from benchmarks.report import Report

CASES: dict[str, Callable[[Report, Path, int], None]] = {
    "image": case_image.run,
    "live": case_live.run,
    "capped": case_live.run_capped,
    "downtime": case_downtime.run,
    "memory": case_memory.run,
    "metrics": case_metrics.run,
    "overhead": case_overhead.run,
    "scheduler": case_scheduler.run,
    "ticks": case_ticks.run,
    "bindings": case_bindings.run,
    "plan": case_plan.run,
    "fleet": case_fleet.run,
    "drain": case_drain.run,
}
#: Memory, not a disk, is what is to be compared with QEMU's RAM.
_MEMORY_FILES = Path("/dev/shm")
_INTERRUPTED = 130


def main() -> int:
    """Run; 0 when every bound holds, 1 when one does not."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(CASES)}; all of them by default")
    parser.add_argument("--runs", type=int, default=5, help="runs of each contender (default 5)")
    parser.add_argument("-o", "--output", choices=("text", "json"), default="text")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(CASES):
        parser.error(f"no benchmark is called {', '.join(sorted(unknown))}")
    if not shutil.which("qemu-system-x86_64"):
        parser.error("qemu-system-x86_64 is missing: run `make setup`")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    report = Report(quiet=arguments.output == "json")
    try:
        private_loopback()
    except NamespaceError as error:
        sys.stderr.write(f"wire bytes count whatever else uses loopback meanwhile: {error}\n")
    try:
        for name in arguments.names or CASES:
            with tempfile.TemporaryDirectory(prefix="kuaka-bench-", dir=_MEMORY_FILES) as folder:
                CASES[name](report, Path(folder), arguments.runs)
    except KeyboardInterrupt:
        return _INTERRUPTED
    if report.quiet:
        print(json.dumps(report.to_json(), indent=2))
    elif report.figures:
        bounds = sum(figure.passed is not None for figure in report.figures)
        print(f"\n{bounds - len(report.failed)} of {bounds} bounds hold")
    return 1 if report.failed else 0


if __name__ == "__main__":
    sys.exit(main())
