"""A process's metrics: what is collected, and the server that is scraped. This one knows an agent's.

Nothing here can fail a migration: whatever goes wrong is one line in the log, and the figures are missing. A scrape
runs on a thread of its own. It reads a host on the host's loop, a few sessions at a time, and gives up after
`SCRAPE_TIMEOUT_S`.

`KUAKA_METRICS=off` turns it off, `KUAKA_METRICS_ADDRESS` and `KUAKA_METRICS_PORT` say where it is: docs/metrics.md.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine, Iterable
from pathlib import Path
from typing import Any, Protocol

from pipeline.fleet.directories import metrics_directory
from pipeline.fleet.host_collector import HostFigures
from pipeline.fleet.host_statistics import HostStatistics
from scheduler.metrics_server import MetricsPlace, MetricsServer
from scheduler.process_collector import LoopLag, ProcessFigures
from scheduler.readings import Exposition, Part

#: A loop that does not answer within this time is left out of a scrape.
SCRAPE_TIMEOUT_S = 1.0
#: Longer than a server that serves nobody takes.
_STOP_TIMEOUT_S = 0.5

_log = logging.getLogger(__name__)


class WatchedHost(Protocol):
    """What an agent's exporter shows: `host.Host`."""

    async def statistics(self) -> HostStatistics:
        """A snapshot."""


class Exporter:
    """The exporter of one process; made and ended on its loop. `place` None: nothing is done."""

    def __init__(
        self, place: MetricsPlace | None, parts: Iterable[Part], work: Iterable[Coroutine[Any, Any, None]] = ()
    ) -> None:
        """`work` is done on the loop for as long as the exporter is there."""
        self._tasks: list[asyncio.Task[None]] = []
        self._server: MetricsServer | None = None
        if place is None:
            for each in work:
                each.close()
            return
        lag = LoopLag()
        own = ProcessFigures(place.role, place.host, lag)
        self._server = MetricsServer.start(place, Exposition(place.role, place.host, (*parts, own)).registry)
        self._tasks = [asyncio.create_task(each) for each in (lag.watch(), *work)]

    @property
    def port(self) -> int | None:
        """Where it listens; None: it does not."""
        return None if self._server is None else self._server.port

    async def stop(self) -> None:
        """End it, within `_STOP_TIMEOUT_S`. Raises nothing."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        if self._server is not None:
            server, self._server = self._server, None
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_STOP_TIMEOUT_S):
                    await asyncio.to_thread(server.stop)


def agent_exporter(name: str, address: str, host: WatchedHost, directory: Path | None = None) -> Exporter:
    """The exporter of the host of this name, whose links arrive at `address`; to be called on its loop."""
    loop = asyncio.get_running_loop()
    place = metrics_place("agent", name, directory, address)
    return Exporter(place, (HostFigures(name, lambda: _on_loop(loop, host.statistics)),))


def metrics_place(role: str, host: str, directory: Path | None, reachable: str = "127.0.0.1") -> MetricsPlace | None:
    """Where a process shows its metrics; None, and the log says why, where there is no place. Announced in the state
    directory unless another is given."""
    directory = directory or metrics_directory()
    if directory is None:
        _log.warning("no metrics of %s %s: there is no state directory to announce them in", role, host)
        return None
    try:
        return MetricsPlace.of(role, host, directory, reachable)
    except ValueError as error:
        _log.warning("no metrics of %s %s: %s", role, host, error)
        return None


def _on_loop(
    loop: asyncio.AbstractEventLoop, snapshot: Callable[[], Coroutine[Any, Any, HostStatistics]]
) -> HostStatistics:
    """For another thread. Raises TimeoutError where the loop is busy, RuntimeError where it has ended."""
    asked = asyncio.run_coroutine_threadsafe(snapshot(), loop)
    try:
        return asked.result(SCRAPE_TIMEOUT_S)
    except TimeoutError:
        asked.cancel()
        raise
