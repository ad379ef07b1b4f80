"""Hosts of a fleet in this process, with worker processes of their own: all that agents do, without Ray."""

import asyncio
import contextlib
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path

from pipeline.codecs.codec import CodecId
from pipeline.fleet.host import Host
from pipeline.fleet.host_accelerators import HostAccelerators
from pipeline.fleet.journal import Journal
from pipeline.fleet.migration import GuestMigration, QemuMigration
from pipeline.fleet.orders import DestinationOrder, DestinationReady, TransferTerms, new_session
from pipeline.fleet.owner import this_process
from pipeline.fleet.recorder import Recorder
from pipeline.fleet.results import MigrationResult
from tests.demo.running_guest import wait_until
from tests.fleet.live_pair import LivePair
from tests.fleet.relay import Relay

_ROOT = Path(__file__).parents[2]


class LocalHost(Host):
    """A host whose links can be made to pass a relay."""

    def __init__(self, name: str, home: Path, accelerators: HostAccelerators | None = None) -> None:
        path = home / "run" / name
        path.mkdir(mode=0o700)
        super().__init__(name, "127.0.0.1", path, None, accelerators=accelerators)
        self.directory = str(path)
        self.workers: list[subprocess.Popen[bytes]] = []
        #: Put between source and destination by the next migration that arrives here.
        self.relay_wanted = False
        self.swallow_shut = False
        self.relay: Relay | None = None

    async def launch(self, workers: int) -> None:
        """Start worker processes and then the host."""
        paths = [f"{self.directory}/worker-{number}" for number in range(workers)]
        await asyncio.to_thread(self._start_workers, paths)
        await self.start(paths)

    def _start_workers(self, paths: Sequence[str]) -> None:
        program = [sys.executable, "-m", "pipeline.worker_process"]
        self.workers = [subprocess.Popen([*program, path], cwd=_ROOT, stdin=subprocess.DEVNULL) for path in paths]
        wait_until(lambda: all(Path(path).exists() for path in paths), "the workers listen", 30)

    async def prepare_destination(self, order: DestinationOrder) -> DestinationReady:
        ready = await super().prepare_destination(order)
        if not self.relay_wanted:
            return ready
        self.relay = Relay(ready.port, swallow_shut=self.swallow_shut)
        return replace(ready, port=self.relay.port)

    async def end(self) -> None:
        """Stop, as an agent does, and end the workers."""
        await self.stop()
        if self.relay is not None:
            self.relay.close()
        for worker in self.workers:
            worker.kill()
            worker.wait()
        shutil.rmtree(self.directory)


@contextlib.asynccontextmanager
async def local_hosts(
    home: Path, workers: int = 1, accelerators: HostAccelerators | None = None
) -> AsyncIterator[tuple[LocalHost, LocalHost]]:
    """Hosts a, which may have accelerators, and b."""
    hosts = LocalHost("a", home, accelerators), LocalHost("b", home)
    try:
        await asyncio.gather(*(host.launch(workers) for host in hosts))
        yield hosts
    finally:
        for host in hosts:
            await host.end()


def order_of(pair: LivePair, *, slow: bool = False, stall_timeout_s: float = 15.0) -> QemuMigration:
    """The pair's migration; a slow one does not end by itself while a test looks."""
    return QemuMigration(
        vm="vm1",
        source_qmp=str(pair.source_qmp),
        destination_qmp=str(pair.destination_qmp),
        prepare=(str(pair.prepare),),
        cleanup=(str(pair.cleanup),),
        socket_user=None,
        zero_page_detection=None,
        terms=TransferTerms(
            new_session(), 2, CodecId.NONE, None, 300, stall_timeout_s, rate_bytes_s=(4 << 20) if slow else None
        ),
    )


class Attempt:
    """One migration of a pair, with a journal as a command keeps it."""

    def __init__(self, order: QemuMigration, home: Path, source: LocalHost, destination: LocalHost) -> None:
        self.journal = Journal.open(home / "state", this_process())
        place = {"host": "a", "qmp": order.source_qmp}
        recorder = Recorder(self.journal, self.journal.begin_run(), "vm1", "qemu", place)
        self.migration = GuestMigration(order, source, destination, recorder)

    async def run(self) -> MigrationResult:
        """Run it to its end."""
        try:
            return await self.migration.run()
        finally:
            self.journal.close()
