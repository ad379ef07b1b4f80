"""A worker as a process of its own: `python -m pipeline.worker_process CONTROL_SOCKET`.

Stand-alone gateways start their workers this way (under Ray a worker is an actor around the same class). It listens,
serves the one gateway that started it, and ends when that gateway does.
"""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.control import ControlChannel
from pipeline.errors import KuakaError
from pipeline.worker import Worker
from pipeline.worker_pool import WorkerPool

_START_TIMEOUT_S = 20.0
_STOP_TIMEOUT_S = 5.0


@contextmanager
def local_workers(count: int, directory: Path) -> Iterator[WorkerPool]:
    """A pool of `count` worker processes with their control sockets in `directory`; they end with the context."""
    paths = [directory / f"worker-{index}" for index in range(count)]
    processes = [
        # -P: what is imported does not depend on the folder the command was started in.
        subprocess.Popen([sys.executable, "-P", "-m", "pipeline.worker_process", str(path)], stdin=subprocess.DEVNULL)
        for path in paths
    ]
    pool: WorkerPool | None = None
    try:
        pool = WorkerPool([_await_control(path, process) for path, process in zip(paths, processes, strict=True)])
        yield pool
    finally:
        if pool is not None:
            pool.close()
        for process in processes:
            _end(process)


def _await_control(path: Path, process: "subprocess.Popen[bytes]") -> ControlChannel:
    deadline = time.monotonic() + _START_TIMEOUT_S
    while not path.exists():
        if process.poll() is not None or time.monotonic() > deadline:
            raise KuakaError(f"worker process did not start (exit code {process.poll()})")
        time.sleep(0.01)
    return ControlChannel.connect(path)


def _end(process: "subprocess.Popen[bytes]") -> None:
    try:
        process.wait(_STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


if __name__ == "__main__":
    # Ctrl-C is for the command that started this; when it goes, its control connection does.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    Worker(Path(sys.argv[1])).serve_one()
