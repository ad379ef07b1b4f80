"""Where a process's metrics are scraped: an HTTP server on a thread of its own, and the file that tells of it.

Nothing here can fail what it watches: whatever keeps the server from starting is one line in the log. Scrapes are
answered one by one, so that any number of scrapers costs as much as one; who sends its request too slowly is cut off.

Each exporter has one file in the directory of files that Prometheus' `file_sd_configs` read. It is written when the
server listens and removed when it ends; that of a process that was killed stays, so that its absence is seen, until the
next exporter on this machine starts.
"""

import contextlib
import json
import logging
import os
import socketserver
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, Self

from prometheus_client.registry import Collector

from scheduler.page import CONTENT_TYPE, page
from scheduler.process_identity import ProcessIdentity

#: "off": no exporter.
SWITCH_VARIABLE = "KUAKA_METRICS"
ADDRESS_VARIABLE = "KUAKA_METRICS_ADDRESS"
#: Of the agent; the controller's is the next one, the scheduler's the one after. Unset or 0: whichever is free.
PORT_VARIABLE = "KUAKA_METRICS_PORT"
ROLES = ("agent", "controller", "scheduler")
_LOOPBACK = "127.0.0.1"
_WILDCARDS = ("0.0.0.0", "::", "")
_LAST_PORT = 65_535
#: How long a request may take to arrive, and its answer to be taken.
_CLIENT_TIMEOUT_S = 2.0
#: How soon a server that is to end does.
_POLL_S = 0.1

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class MetricsPlace:
    """Where an exporter listens, and whose it is; `port` 0: whichever is free."""

    role: str
    host: str
    address: str
    port: int
    #: Where others find it: `address`, unless that means all addresses.
    reachable: str
    directory: Path

    @classmethod
    def of(
        cls, role: str, host: str, directory: Path, reachable: str = _LOOPBACK, environ: Mapping[str, str] = os.environ
    ) -> Self | None:
        """As the environment says; None where it says off. Raises ValueError in one line for what cannot be meant."""
        if environ.get(SWITCH_VARIABLE, "").lower() == "off":
            return None
        address = environ.get(ADDRESS_VARIABLE) or _LOOPBACK
        text = environ.get(PORT_VARIABLE) or "0"
        if not text.isdecimal() or int(text) + len(ROLES) - 1 > _LAST_PORT:
            raise ValueError(f"{PORT_VARIABLE} is {text!r}: give a port, 0 for any")
        port = int(text) + ROLES.index(role) if int(text) else 0
        return cls(role, host, address, port, reachable if address in _WILDCARDS else address, directory)


class MetricsServer:
    """Serves a registry at a place; `stop` ends it. Raises OSError where that cannot be."""

    def __init__(self, place: MetricsPlace, registry: Collector) -> None:
        self._server = _listen(place, registry)
        self.port: int = self._server.server_address[1]
        self._file: Path | None = None
        serve = self._server.serve_forever
        threading.Thread(target=serve, args=(_POLL_S,), name="metrics", daemon=True).start()
        try:
            self._file = _announce(place, self.port)
        except OSError as error:
            _log.warning("metrics: port %d is not announced in %s: %s", self.port, place.directory, error.strerror)

    @classmethod
    def start(cls, place: MetricsPlace | None, registry: Collector) -> Self | None:
        """The same, or None, with one line in the log."""
        if place is None:
            return None
        try:
            return cls(place, registry)
        except OSError as error:
            where = f"{place.address}:{place.port}"
            _log.warning("no metrics of %s %s: %s: %s", place.role, place.host, where, error.strerror or error)
            return None

    def stop(self) -> None:
        """End it, and take back what told of it."""
        if self._file is not None:
            self._file.unlink(missing_ok=True)
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    timeout = _CLIENT_TIMEOUT_S
    server: "_Server"

    def do_GET(self) -> None:
        found = page(self.server.registry)
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", CONTENT_TYPE)
        self.send_header("Content-Length", str(len(found)))
        self.end_headers()
        self.wfile.write(found)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its name for it
        """A scrape is no news."""


class _Server(HTTPServer):
    def __init__(self, address: tuple[str, int], registry: Collector) -> None:
        self.registry = registry
        super().__init__(address, _Handler)

    #: More than that wait in vain.
    request_queue_size = 8

    def server_bind(self) -> None:
        # HTTPServer would ask for the address's name, and wait for an answer.
        socketserver.TCPServer.server_bind(self)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A scraper that goes away in the middle is no news."""


def _listen(place: MetricsPlace, registry: Collector) -> _Server:
    try:
        return _Server((place.address, place.port), registry)
    except OSError as error:
        if not place.port:
            raise
        _log.warning(
            "metrics: port %d of %s is taken (%s): another one is used, see %s",
            place.port, place.address, error.strerror, place.directory,
        )  # fmt: skip
        return _Server((place.address, 0), registry)


def _announce(place: MetricsPlace, port: int) -> Path:
    place.directory.mkdir(mode=0o755, exist_ok=True)
    remove_stale(place.directory)
    me = ProcessIdentity.own()
    file = place.directory / f"{place.role}-{me.pid}-{me.started}-{port}.json"
    labels = {"exporter": place.role, "exporter_host": place.host}
    being_written = file.with_suffix(".part")
    being_written.write_text(json.dumps([{"targets": [f"{_bracketed(place.reachable)}:{port}"], "labels": labels}]))
    being_written.rename(file)
    return file


def _bracketed(address: str) -> str:
    return f"[{address}]" if ":" in address else address


def remove_stale(directory: Path) -> None:
    """Take back what exporters of processes that have died announced."""
    for file in directory.glob("*-*-*-*.json"):
        pid, started = file.stem.split("-")[1:3]
        if pid.isdecimal() and started.isdecimal() and not ProcessIdentity(int(pid), int(started)).alive():
            with contextlib.suppress(OSError):
                file.unlink()
