"""The `kuaka` command as a process, and the processes it starts: found by the environment that they inherit from it."""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from tests.demo.running_guest import wait_until

_ROOT = Path(__file__).parents[2]
_RUN = "from pipeline.cli import main; main()"


class KuakaCommand:
    """`kuaka ARGUMENTS` with state and sockets in `home`, in a session of its own."""

    def __init__(self, home: Path, *arguments: str, before: str = "") -> None:
        """`before` is Python that runs first, in the command's process."""
        self.home = home
        self._process = subprocess.Popen(
            [sys.executable, "-c", f"{before}\n{_RUN}", *arguments],
            env={
                **os.environ,
                "KUAKA_STATE": str(home / "state"),
                "KUAKA_RUNTIME": str(home / "run"),
                "PYTHONPATH": str(_ROOT),
            },
            cwd=_ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.stdout = self.stderr = ""

    @property
    def pid(self) -> int:
        """The command's process, which leads a group of its own."""
        return self._process.pid

    def end(self, timeout_s: float = 60) -> int:
        """Wait for its end; the exit code (negative: the signal)."""
        self.stdout, self.stderr = self._process.communicate(timeout=timeout_s)
        return self._process.returncode

    def running(self) -> bool:
        """Whether it has not ended yet."""
        return self._process.poll() is None

    @property
    def migrations(self) -> list[dict[str, Any]]:
        """What it printed with `-o json`: nothing else is on stdout."""
        migrations: list[dict[str, Any]] = json.loads(self.stdout)["migrations"]
        return migrations

    @property
    def said(self) -> list[str]:
        """Its lines on stderr but for those of QEMUs."""
        return [line for line in self.stderr.splitlines() if line.startswith("kuaka: ")]


def processes(home: Path, *words: str) -> list[psutil.Process]:
    """Processes of commands in `home`, QEMUs included, whose command line begins with or contains one of the words."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.status() == psutil.STATUS_ZOMBIE or process.environ().get("KUAKA_RUNTIME") != str(home / "run"):
                continue
            line = " ".join(process.cmdline())
            if not words or any(word in line for word in words):
                found.append(process)
    return found


def wait_nothing_runs(home: Path, timeout_s: float = 10) -> None:
    """Wait until no process of commands in `home` is left."""
    wait_until(lambda: not processes(home), "no process is left", timeout_s)


@contextlib.contextmanager
def nothing_survives(home: Path) -> Iterator[None]:
    """Whatever the test does, no process of it outlives it."""
    try:
        yield
    finally:
        deadline = time.monotonic() + 10
        while (left := processes(home)) and time.monotonic() < deadline:
            for process in left:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            time.sleep(0.05)
