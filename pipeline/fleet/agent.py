"""The Ray shell of a host: its agent actor.

The shell adds what belongs to a process (directory, log, metrics, the scheduler of the cluster); what it wraps runs
without Ray in the tests.
"""

import asyncio
import gc
import os
from collections.abc import Sequence

from pipeline.fleet.agent_directory import AgentDirectory
from pipeline.fleet.directories import metrics_directory, runtime_directory
from pipeline.fleet.exporter import Exporter, agent_exporter
from pipeline.fleet.host import Host
from pipeline.fleet.host_accelerators import HostAccelerators
from pipeline.fleet.places import HostPlace
from pipeline.logs import set_up_logs
from scheduler.client import Transport


class AgentShell(Host):
    """A host in its actor's process, with a directory of its own there."""

    def __init__(self, place: HostPlace, run: str) -> None:
        gc.freeze()
        set_up_logs("agent", place.name)
        self._own = AgentDirectory.create(runtime_directory())
        accelerators = HostAccelerators(f"{run}/{place.name}", self._own.path, place.devices, _scheduler)
        super().__init__(place.name, place.address, self._own.path, place.tls, accelerators=accelerators)
        self._link_address = place.address
        self._exporter: Exporter | None = None

    async def start(self, worker_sockets: Sequence[str]) -> None:
        """See `Host.start`; then it shows its metrics."""
        await super().start(worker_sockets)
        self._exporter = agent_exporter(self.name, self._link_address, self)

    async def where(self) -> str:
        """The agent's directory; from now on an absent controller ends this actor."""
        self._watching = asyncio.create_task(self._watch())
        return str(self._own.path)

    async def stop(self) -> None:
        """See `Host.stop`; the directory goes, too."""
        if self._exporter is not None:
            await self._exporter.stop()
        await super().stop()
        self._own.remove()

    async def _watch(self) -> None:
        await self.watch_for_orphans()
        try:
            await self.stop()
        finally:
            os._exit(0)


def _scheduler() -> Transport:
    # Imported by the hosts that have accelerators to share.
    from scheduler.actor import find_or_start, transport

    return transport(find_or_start(metrics_directory()))
