"""Debian's Prometheus for a test: on a free port of loopback, with what it logs in a failure."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from dashboards.prometheus import Prometheus, free_port
from tests.needs import need

_PATIENCE_S = 30


class LoggedPrometheus(Prometheus):
    """Says what it has logged where it does not do what is waited for."""

    def __init__(self, directory: Path, configuration: Mapping[str, Any]) -> None:
        super().__init__(need("prometheus"), directory, configuration, free_port())

    def wait_until(self, true: Callable[[], bool], what: str) -> None:
        """Poll; AssertionError with what Prometheus has logged if it takes too long."""
        deadline = time.monotonic() + _PATIENCE_S
        while not true():
            assert time.monotonic() < deadline, f"{what}: not within {_PATIENCE_S} s\n{self.said()}"
            time.sleep(0.1)


def scraping(targets: list[str], rules: list[Path]) -> dict[str, Any]:
    """The configuration of one that scrapes `targets` once a second."""
    return {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(path) for path in rules],
        "scrape_configs": [{"job_name": "any", "static_configs": [{"targets": targets}]}],
    }
