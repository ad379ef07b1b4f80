"""A Ray cluster that is there before the commands that use it, and stays; or is killed, and comes back."""

import os
import secrets
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.demo.running_guest import wait_until
from tests.fleet.kuaka_command import nothing_survives
from tests.fleet.live_pair import short_directory

#: Ray gives its own processes 30 s to start, which a busy machine may not have.
_STARTS = 3


def free_port() -> int:
    """A port of loopback that nobody listens at."""
    with socket.create_server(("127.0.0.1", 0)) as chosen:
        port: int = chosen.getsockname()[1]
    return port


class RayHead:
    """A head on loopback, its directory in `home`; it takes the environment's token."""

    def __init__(self, home: Path, jobs: int | None = None) -> None:
        """`jobs` is its job server's port."""
        self.home = home
        self.address = f"127.0.0.1:{free_port()}"
        self._jobs = jobs
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, or start it again; nothing of the one before is known to it."""
        for _ in range(_STARTS):
            if (words := self._start()) is None:
                return
            self.kill()
        pytest.fail(f"the head does not start: {words}")

    def _start(self) -> str | None:
        """What it said, where it did not start."""
        log = self.home / "head.log"
        dashboard = (
            [f"--dashboard-port={self._jobs}", "--dashboard-host=127.0.0.1"]
            if self._jobs
            else ["--include-dashboard=false"]
        )
        places = {
            "KUAKA_STATE": str(self.home / "state"),
            "KUAKA_RUNTIME": str(self.home / "run"),
            "PYTHONPATH": str(ROOT),
        }
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block"),
                *("--node-ip-address=127.0.0.1", f"--port={self.address.rpartition(':')[2]}", "--num-cpus=1"),
                *("--object-store-memory=80000000", "--disable-usage-stats", *dashboard),
                # Its default would be that of every other cluster here.
                f"--dashboard-agent-listen-port={free_port()}",
                f"--temp-dir={self.home}/ray",
            ],
            env={**os.environ, **places},
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=log.open("wb"),
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        ended = self._process.poll
        wait_until(lambda: ended() is not None or "Ray runtime started" in log.read_text(), "the head runs", 120)
        return None if ended() is None else log.read_text()

    def kill(self) -> None:
        """SIGKILL the head with all that Ray runs beside it; its actors see that it has gone, and end."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None


@contextmanager
def started_head(*, jobs: int | None = None) -> Iterator[RayHead]:
    """A Ray head on loopback that asks for a token; `jobs` is its job server's port."""
    with short_directory() as home, pytest.MonkeyPatch.context() as set_:
        set_.setenv("RAY_AUTH_MODE", "token")
        set_.setenv("RAY_AUTH_TOKEN", secrets.token_hex(16))
        # What makes Ray take 127.0.0.1 for an address, here and in the commands.
        set_.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
        head = RayHead(home, jobs)
        try:
            head.start()
            yield head
        finally:
            head.kill()
            with nothing_survives(home):
                pass


@contextmanager
def ray_head(*, jobs: int | None = None) -> Iterator[tuple[str, Path]]:
    """Address and directory of such a head."""
    with started_head(jobs=jobs) as head:
        yield head.address, head.home
