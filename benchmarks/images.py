"""kuaka's side of an image: two hosts with warm workers in this process, a file to a file."""

import asyncio
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.measure import Run
from benchmarks.namespaces import LOOPBACK
from benchmarks.processes import cpu_seconds
from benchmarks.workers import Workers, workers
from pipeline.codecs.codec import CodecId
from pipeline.fleet.command import DEFAULT_WORKERS
from pipeline.fleet.host import Host
from pipeline.fleet.image_migration import ImageMigration, ImageOrder
from pipeline.fleet.orders import TransferTerms, new_session
from pipeline.fleet.results import Status

#: The spec's default.
CHANNELS = 4
_STALL_TIMEOUT_S = 15.0
_WINDOW_DOWNTIME_MS = 300


class NoJournal:
    """A recorder that keeps nothing: what is timed is the transfer."""

    def begun(self, session: str, destination: dict[str, Any]) -> None:
        """The migration begins."""

    def handed_over(self) -> None:
        """Images are not handed over."""

    def finished(self, state: str, error: str | None) -> None:
        """The migration has ended."""


class NamedHost(Host):
    """A host under the name and directory that a handle shows."""

    directory = ""


@dataclass(frozen=True, slots=True)
class ImageHosts:
    """Two hosts that move images."""

    runner: asyncio.Runner
    source: Host
    destination: Host
    source_workers: Workers
    destination_workers: Workers

    def run(
        self,
        image: Path,
        target: Path,
        codec: CodecId,
        level: int | None = None,
        *,
        reuse: Path | None = None,
        channels: int = CHANNELS,
    ) -> Run:
        """Move `image` to `target`, into the blocks of `reuse` where given; timed up to the committed name."""
        terms = TransferTerms(new_session(), channels, codec, level, _WINDOW_DOWNTIME_MS, _STALL_TIMEOUT_S)
        order = ImageOrder("image", str(image), str(target), str(reuse) if reuse else None, False, terms)
        sides = (self.source_workers.pids, self.destination_workers.pids)
        migration = ImageMigration(order, self.source, self.destination, NoJournal())  # type: ignore[arg-type]
        cpu, own = [cpu_seconds(pids) for pids in sides], _own_cpu_s()
        wire = LOOPBACK.received_bytes()
        began = time.perf_counter()
        result = self.runner.run(migration.run())
        wall = time.perf_counter() - began
        own = (_own_cpu_s() - own) / 2
        if result.status is not Status.COMPLETED:
            raise RuntimeError(f"kuaka's migration failed: {result.error}")
        costs = [cpu_seconds(pids) - before + own for pids, before in zip(sides, cpu, strict=True)]
        wire = LOOPBACK.received_bytes() - wire
        overhead = None
        if codec is CodecId.NONE:
            overhead = result.wire_bytes - sum(result.codec_pages.values()) * 4096
        return Run(wall, wire, costs[0], costs[1], image.stat().st_size, overhead_bytes=overhead)


@contextmanager
def image_hosts(folder: Path, count: int = DEFAULT_WORKERS) -> Iterator[ImageHosts]:
    """Two hosts with `count` warm workers each."""
    with ExitStack() as stack:
        runner = stack.enter_context(asyncio.Runner())
        hosts = []
        sides = []
        for name in ("source", "destination"):
            home = folder / name
            home.mkdir()
            stack.callback(home.rmdir)
            side = stack.enter_context(workers(count, home))
            host = NamedHost(name, LOOPBACK.address, home, None)
            runner.run(host.start([str(path) for path in side.sockets]))
            stack.callback(lambda host=host: runner.run(host.stop()))
            hosts.append(host)
            sides.append(side)
        yield ImageHosts(runner, hosts[0], hosts[1], sides[0], sides[1])


def _own_cpu_s() -> float:
    times = os.times()
    return times.user + times.system
