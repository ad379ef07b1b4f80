"""A Prometheus on loopback for as long as it is needed: Debian's program, with its data in a directory given to it."""

import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from pipeline.errors import KuakaError, UsageError

PROGRAM = "prometheus"
_PATIENCE_S = 30.0
_POLL_S = 0.1


def program() -> str:
    """The path of it. Raises `UsageError` where there is none."""
    found = shutil.which(PROGRAM)
    if found is None:
        raise UsageError(f"{PROGRAM} is not installed: make setup installs it (as root), or apt-get install prometheus")
    return found


def free_port(wish: int = 0) -> int:
    """A port of loopback that nobody listens on: `wish`, unless it is taken."""
    try:
        with socket.create_server(("127.0.0.1", wish)) as free:
            port: int = free.getsockname()[1]
            return port
    except OSError:
        return free_port()


class Prometheus:
    """Runs from `with` to its end. `configuration` is that of prometheus.yml; `directory` exists and is its own."""

    def __init__(self, program: str, directory: Path, configuration: Mapping[str, Any], port: int) -> None:
        self.address = f"127.0.0.1:{port}"
        self._log = directory / "log"
        # JSON is YAML.
        (directory / "prometheus.yml").write_text(json.dumps(configuration))
        self._command = [
            program,
            f"--config.file={directory / 'prometheus.yml'}",
            f"--storage.tsdb.path={directory / 'data'}",
            f"--web.listen-address={self.address}",
        ]

    def __enter__(self) -> Self:
        with self._log.open("wb") as log:
            # A session of its own: Ctrl-C is for whoever started it.
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        try:
            self._wait_until_ready()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(_PATIENCE_S)

    def ask(self, path: str, **parameters: str | float) -> Any:
        """`data` of an answer of its API. Raises `KuakaError`, with its words, where it refuses."""
        url = f"http://{self.address}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=_PATIENCE_S) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise KuakaError(f"Prometheus: {parameters}: {error.read().decode()}") from error
        except OSError as error:
            raise KuakaError(f"Prometheus at {self.address} does not answer: {error}") from error

    def said(self) -> str:
        """What it has logged."""
        return self._log.read_text(errors="replace")

    def _wait_until_ready(self) -> None:
        deadline_s = time.monotonic() + _PATIENCE_S
        while not self._ready():
            if self._process.poll() is not None or time.monotonic() > deadline_s:
                last = self.said().splitlines()[-1:] or ["nothing"]
                raise KuakaError(f"Prometheus does not start: {last[0]}")
            time.sleep(_POLL_S)

    def _ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://{self.address}/-/ready", timeout=_PATIENCE_S) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False
