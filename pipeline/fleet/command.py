"""What a command that migrates by itself does around a run: journal, sweep, cluster, agents, and the end of it all.

Ctrl-C (SIGINT) and SIGTERM cancel the run: every guest is put back where it ran, then the command ends with 130.
"""

import asyncio
import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.errors import KuakaError
from pipeline.fleet.attempts import make_attempts
from pipeline.fleet.directories import state_directory
from pipeline.fleet.fleet_order import FleetOrder
from pipeline.fleet.journal import Journal
from pipeline.fleet.migration import to_its_end
from pipeline.fleet.owner import Owner, is_alive, run_name, this_process
from pipeline.fleet.places import AUTO, HostPlace, device_choice
from pipeline.fleet.plan.admission import admit
from pipeline.fleet.ray_environment import prepare_environment
from pipeline.fleet.read_fleet import order_of
from pipeline.fleet.results import MigrationResult
from pipeline.fleet.run import FleetRun, MayBegin, OnProgress
from pipeline.fleet.spec import HostSpec, Spec, resolve
from pipeline.fleet.sweep import sweep
from pipeline.wire.tls import TlsFiles

if TYPE_CHECKING:
    from pipeline.fleet.agent_handle import AgentHandle

#: Worker processes per host unless asked otherwise.
DEFAULT_WORKERS = 2
#: Of a run among the runs that share accelerators.
_TENANT_WEIGHT = 1


@dataclass(frozen=True, slots=True)
class FinishedRun:
    """What a run left: its results, one after the other.

    `abandoned`: the cluster has gone, and the process should end (`os._exit`) without waiting for it.
    """

    results: Sequence[MigrationResult]
    wall_s: float
    abandoned: bool

    def __iter__(self) -> Iterator[MigrationResult]:
        return iter(self.results)

    def __len__(self) -> int:
        return len(self.results)


def run_spec(
    spec: Spec,
    *,
    workers: int = DEFAULT_WORKERS,
    on_progress: OnProgress = lambda progress: None,
    say: Callable[[str], None] = lambda text: None,
    before: Callable[[], None] = lambda: None,
) -> FinishedRun:
    """Migrate everything in `spec` on a cluster of its own, on this machine. Raises `KuakaError`.

    `before` runs when all agents are ready, right before the first migration; `say` gets a line now and then.
    """
    order = order_of(spec.metadata.name, spec)
    prepare_environment(local=True)
    # Only now: Ray reads its environment when it is imported.
    from pipeline.fleet.cluster import ray_cluster

    owner = this_process()
    with Journal.open(state_directory(), owner) as journal, ray_cluster(None):
        try:
            return asyncio.run(_Command(spec, order, journal, owner, workers, on_progress, say, before).run())
        except asyncio.CancelledError:
            raise KeyboardInterrupt from None


@dataclass(slots=True)
class _Command:
    spec: Spec
    order: FleetOrder
    journal: Journal
    owner: Owner
    workers: int
    on_progress: OnProgress
    say: Callable[[str], None]
    before: Callable[[], None]

    async def run(self) -> FinishedRun:
        from pipeline.fleet.cluster import end_agents, keep_alive, share_accelerators, start_agents

        with _cancelled_by_signals():
            self.say("starting agents and workers")
            places = [
                HostPlace(host.name, host.address, host.node, tls, device_choice(host))
                for host, tls in _hosts(self.spec)
            ]
            # A host that has none of its own needs no scheduler, and one that has starts it.
            shared = any(place.devices not in (None, AUTO) for place in places)
            if shared:
                await share_accelerators(run_name(self.owner), _TENANT_WEIGHT)
            hosts = await start_agents(run_name(self.owner), places, self.workers)
            alive = asyncio.create_task(keep_alive(hosts.values()))
            run: FleetRun | None = None
            try:
                await sweep(self.journal, hosts, is_alive, self.say)
                run, finished = await self._migrate(hosts)
                if not run.cluster_lost:
                    hosts = await to_its_end(self._put_right(hosts, places))
                return finished
            finally:
                alive.cancel()
                if shared:
                    await share_accelerators(run_name(self.owner), None)
                if run is None or not run.abandoned:
                    await to_its_end(end_agents(list(hosts.values()), kill=run is None or not run.cluster_lost))

    async def _migrate(self, hosts: "Mapping[str, AgentHandle]") -> tuple[FleetRun, FinishedRun]:
        from pipeline.fleet.cluster import watch_cluster

        number = self.journal.begin_run()
        attempts = make_attempts(self.spec, hosts, self.journal, number, run_name(self.owner))
        # In a thread: agents must hear from us meanwhile.
        await asyncio.to_thread(self.before)
        timeouts = {each.vm: each.rules.timeouts for each in self.order.vms}
        run = FleetRun(attempts, self.on_progress, watch_cluster, _may_begin(self.order), timeouts)
        began_s = time.monotonic()
        results = await run.run()
        # Refused while a migration is in doubt.
        with contextlib.suppress(KuakaError):
            self.journal.finish_run(number)
        return run, FinishedRun(results, time.monotonic() - began_s, run.cluster_lost)

    async def _put_right(
        self, hosts: "Mapping[str, AgentHandle]", places: "list[HostPlace]"
    ) -> "dict[str, AgentHandle]":
        """Look once more at what is in doubt, with new agents where they have died; the agents there are now."""
        from pipeline.fleet.cluster import replaced

        def is_another(owner: Owner) -> bool:
            return owner != self.owner

        if not self.journal.unfinished(is_another):
            return dict(hosts)
        hosts = await replaced(f"{run_name(self.owner)}/again", places, hosts)
        await sweep(self.journal, hosts, is_another, self.say)
        return hosts


def _may_begin(order: FleetOrder) -> MayBegin:
    """The plan's own admission, for one fleet."""
    requests = {each.vm: each.request for each in order.vms}
    vms = {each.request.id: each.vm for each in order.vms}

    def may_begin(waiting: Sequence[str], running: Sequence[str]) -> list[str]:
        decision = admit([requests[vm] for vm in waiting], [requests[vm] for vm in running], order.limits, {})
        return [vms[each] for each in decision.admitted]

    return may_begin


def _hosts(spec: Spec) -> list[tuple[HostSpec, TlsFiles | None]]:
    """The hosts that the spec's machines use, each once."""
    hosts: dict[str, tuple[HostSpec, TlsFiles | None]] = {}
    for vm in spec.spec.virtual_machines:
        settings = resolve(spec, vm)
        hosts[settings.source.name] = (settings.source, settings.source_tls)
        hosts[settings.destination.name] = (settings.destination, settings.destination_tls)
    return list(hosts.values())


@contextlib.contextmanager
def _cancelled_by_signals() -> Iterator[None]:
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    if task is None:
        raise RuntimeError("not inside a task")
    # Other threads than the main one are sent no signals.
    caught = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()
    for number in caught:
        loop.add_signal_handler(number, task.cancel)
    try:
        yield
    finally:
        for number in caught:
            loop.remove_signal_handler(number)
