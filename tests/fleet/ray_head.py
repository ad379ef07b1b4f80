"""A Ray cluster that is there before the commands that use it, and stays."""

import os
import secrets
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.demo.running_guest import wait_until
from tests.fleet.kuaka_command import nothing_survives
from tests.fleet.live_pair import short_directory


def free_port() -> int:
    """A port of loopback that nobody listens at."""
    with socket.create_server(("127.0.0.1", 0)) as chosen:
        port: int = chosen.getsockname()[1]
    return port


@contextmanager
def ray_head(*, jobs: int | None = None) -> Iterator[tuple[str, Path]]:
    """Address and directory of a Ray head on loopback that asks for a token; `jobs` is its job server's port."""
    with short_directory() as home, pytest.MonkeyPatch.context() as set_:
        address = f"127.0.0.1:{free_port()}"
        set_.setenv("RAY_AUTH_MODE", "token")
        set_.setenv("RAY_AUTH_TOKEN", secrets.token_hex(16))
        # What makes Ray take 127.0.0.1 for an address, here and in the commands.
        set_.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
        places = {"KUAKA_STATE": str(home / "state"), "KUAKA_RUNTIME": str(home / "run"), "PYTHONPATH": str(ROOT)}
        head = subprocess.Popen(
            [
                *(sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block"),
                *("--node-ip-address=127.0.0.1", f"--port={address.rpartition(':')[2]}", "--num-cpus=1"),
                *("--object-store-memory=80000000", "--disable-usage-stats"),
                *(
                    [f"--dashboard-port={jobs}", "--dashboard-host=127.0.0.1"]
                    if jobs
                    else ["--include-dashboard=false"]
                ),
                # Its default would be that of every other cluster here.
                f"--dashboard-agent-listen-port={free_port()}",
                f"--temp-dir={home}/ray",
            ],
            env={**os.environ, **places},
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=(home / "head.log").open("wb"),
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            wait_until(lambda: "Ray runtime started" in (home / "head.log").read_text(), "the head runs", 60)
            yield address, home
        finally:
            os.killpg(head.pid, signal.SIGKILL)
            head.wait()
            with nothing_survives(home):
                pass
