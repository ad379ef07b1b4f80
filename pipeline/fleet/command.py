"""What every command that migrates does around a run: journal, sweep, cluster, agents, run, and all of it ended again.

Ctrl-C (SIGINT) and SIGTERM cancel the run: every guest is put back where it ran, then the command ends with 130.
"""

import asyncio
import contextlib
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from pipeline.errors import KuakaError
from pipeline.fleet.attempts import make_attempts
from pipeline.fleet.directories import state_directory
from pipeline.fleet.journal import Journal
from pipeline.fleet.owner import Owner, is_alive, this_process
from pipeline.fleet.ray_environment import prepare_environment
from pipeline.fleet.results import MigrationResult
from pipeline.fleet.run import FleetRun, OnProgress
from pipeline.fleet.spec import HostSpec, Spec, resolve
from pipeline.fleet.sweep import sweep
from pipeline.wire.tls import TlsFiles

#: Worker processes per host unless asked otherwise.
DEFAULT_WORKERS = 2


@dataclass(frozen=True, slots=True)
class FinishedRun:
    """What a run left; `abandoned`: something does not answer, and the process should end without waiting for it."""

    results: Sequence[MigrationResult]
    wall_s: float
    abandoned: bool


def run_spec(
    spec: Spec,
    *,
    address: str | None,
    workers: int = DEFAULT_WORKERS,
    on_progress: OnProgress = lambda progress: None,
    say: Callable[[str], None] = lambda text: None,
    before: Callable[[], None] = lambda: None,
) -> FinishedRun:
    """Migrate everything in `spec` on the cluster at `address` (None: a local one). Raises `KuakaError`.

    `before` runs when all agents are ready, right before the first migration; `say` gets a line now and then.
    """
    prepare_environment(local=address is None)
    # Only now: Ray reads its environment when it is imported.
    from pipeline.fleet.cluster import ray_cluster

    owner = this_process()
    with Journal.open(state_directory(), owner) as journal, ray_cluster(address):
        return asyncio.run(_run(spec, journal, owner, workers, on_progress, say, before))


async def _run(
    spec: Spec,
    journal: Journal,
    owner: Owner,
    workers: int,
    on_progress: OnProgress,
    say: Callable[[str], None],
    before: Callable[[], None],
) -> FinishedRun:
    from pipeline.fleet.cluster import HostPlace, end_agents, start_agents, watch_head

    name = f"run-{owner.boot_id[:8]}-{owner.pid}-{owner.started_ticks}"
    say("starting agents and workers")
    places = [HostPlace(host.name, host.address, host.node, tls) for host, tls in _hosts(spec)]
    hosts = await start_agents(name, places, workers)
    run: FleetRun | None = None
    try:
        await sweep(journal, hosts, is_alive, say)
        number = journal.begin_run()
        attempts = make_attempts(spec, hosts, journal, number)
        before()
        run = FleetRun(attempts, on_progress, watch_head)
        began_s = time.monotonic()
        with _cancelled_by_signals():
            results = await run.run()
        finished = FinishedRun(results, time.monotonic() - began_s, run.abandoned)
        # Refused while a migration is in doubt: the next command looks at it again.
        with contextlib.suppress(KuakaError):
            journal.finish_run(number)
        return finished
    finally:
        if run is None or not run.abandoned:
            await end_agents(list(hosts.values()))


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
    caught = (signal.SIGINT, signal.SIGTERM)
    for number in caught:
        loop.add_signal_handler(number, task.cancel)
    try:
        yield
    finally:
        for number in caught:
            loop.remove_signal_handler(number)
