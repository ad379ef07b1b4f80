"""Warm worker processes for kuaka's side, where the benchmark can see what they cost."""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.namespaces import LOOPBACK, Place

_START_TIMEOUT_S = 30.0
_END_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class Workers:
    """One host's worker processes and the control sockets they listen at; each serves one pool."""

    pids: tuple[int, ...]
    sockets: tuple[Path, ...]


@contextmanager
def workers(count: int, folder: Path, place: Place = LOOPBACK) -> Iterator[Workers]:
    """Start workers whose control sockets lie in `folder`; they end when whoever connects to them goes, or here."""
    sockets = tuple(folder / f"worker-{index}" for index in range(count))
    with ExitStack() as stack:
        processes = []
        for path in sockets:
            with place.entered():
                process = subprocess.Popen(
                    [sys.executable, "-m", "pipeline.worker_process", str(path)],
                    stdin=subprocess.DEVNULL,
                    # See qemu.py: sessions share CPUs.
                    process_group=0,
                )
            stack.callback(_end, process)
            processes.append(process)
        deadline = time.monotonic() + _START_TIMEOUT_S
        while not all(path.exists() for path in sockets):
            if any(process.poll() is not None for process in processes) or time.monotonic() > deadline:
                raise RuntimeError("a worker process did not start")
            time.sleep(0.01)
        yield Workers(tuple(process.pid for process in processes), sockets)


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.kill()
    process.wait(_END_TIMEOUT_S)
