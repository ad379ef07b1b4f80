"""Nodes of a Ray cluster on this machine, each with a runtime directory of its own, which its actors inherit."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import ROOT
from tests.demo.running_guest import wait_until
from tests.fleet.kuaka_command import nothing_survives, processes


@dataclass(frozen=True)
class Node:
    """A Ray node: its spec host, its address and its own directory."""

    name: str
    address: str
    home: Path

    def processes(self, *words: str) -> int:
        """How many of its processes are called so."""
        return len(processes(self.home, *words))


@contextmanager
def raylet(node: Node, *arguments: str) -> Iterator[None]:
    """The node's part of Ray, started where the calling thread is; `arguments` make it the head or name that."""
    for name in ("", "run", "state"):
        (node.home / name).mkdir(mode=0o700)
    log = node.home / "raylet.log"
    places = {"KUAKA_STATE": str(node.home / "state"), "KUAKA_RUNTIME": str(node.home / "run")}
    # A machine that is busy is no node that is dead.
    patience = {"RAY_health_check_timeout_ms": "60000", "RAY_health_check_failure_threshold": "20"}
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "ray.scripts.scripts", "start", "--block", f"--node-ip-address={node.address}"),
            *("--num-cpus=1", "--object-store-memory=80000000", "--min-worker-port=0", "--max-worker-port=0"),
            *("--disable-usage-stats", *arguments),
        ],
        env={**os.environ, **places, **patience, "PYTHONPATH": str(ROOT)},
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=log.open("wb"),
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    with nothing_survives(node.home):
        try:
            wait_until(
                lambda: process.poll() is not None or "Ray runtime started" in log.read_text(), "a node runs", 120
            )
            assert process.poll() is None, log.read_text()
            yield
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
