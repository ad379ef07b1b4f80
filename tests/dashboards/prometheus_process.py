"""Debian's Prometheus on a free port of loopback, with targets and rules of ours."""

import json
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any, Self

from tests.needs import need

_PATIENCE_S = 30
_SCRAPE_S = 1


class Prometheus:
    """Runs from `with` to its end; scrapes `targets` once a second."""

    def __init__(self, directory: Path, targets: list[str], rules: list[Path]) -> None:
        configuration = {
            "global": {"scrape_interval": f"{_SCRAPE_S}s", "evaluation_interval": f"{_SCRAPE_S}s"},
            "rule_files": [str(path) for path in rules],
            "scrape_configs": [{"job_name": "any", "static_configs": [{"targets": targets}]}],
        }
        self._directory = directory
        # JSON is YAML.
        (directory / "prometheus.yml").write_text(json.dumps(configuration))
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.address = f"127.0.0.1:{free.getsockname()[1]}"

    def __enter__(self) -> Self:
        log = (self._directory / "log").open("wb")
        self._process = subprocess.Popen(
            [
                need("prometheus"),
                f"--config.file={self._directory / 'prometheus.yml'}",
                f"--storage.tsdb.path={self._directory / 'data'}",
                f"--web.listen-address={self.address}",
            ],
            stdout=log,
            stderr=log,
        )
        self.wait_until(self._ready, "Prometheus listens")
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(_PATIENCE_S)

    def wait_until(self, true: Any, what: str) -> None:
        """Poll; AssertionError with what Prometheus has logged if it takes too long."""
        deadline = time.monotonic() + _PATIENCE_S
        while not true():
            assert time.monotonic() < deadline, f"{what}: not within {_PATIENCE_S} s\n" + (
                self._directory / "log"
            ).read_text(errors="replace")
            time.sleep(0.1)

    def ask(self, path: str, **parameters: str | float) -> Any:
        """`data` of an answer of its API. AssertionError, with its words, if it refuses."""
        url = f"http://{self.address}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=_PATIENCE_S) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{parameters}: {error.read().decode()}") from error

    def _ready(self) -> bool:
        assert self._process.poll() is None, (self._directory / "log").read_text(errors="replace")
        try:
            with urllib.request.urlopen(f"http://{self.address}/-/ready", timeout=_PATIENCE_S) as answer:
                return answer.status == 200
        except OSError:
            return False
