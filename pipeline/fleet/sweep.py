"""Cleaning up after commands or agents that died: unfinished migrations in the journal are brought to their end.

The rule is that of `fleet.migration`. Not handed over: the destination is removed, and once it is gone for certain
the source runs again if the migration had stopped it. Handed over: the destination owns the guest; if it is there it
is told to run, and the source is left stopped. What cannot be decided stays in the journal for the next command.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from pipeline.errors import KuakaError
from pipeline.fleet.journal import Journal, Migration
from pipeline.fleet.orders import Cleanup
from pipeline.fleet.owner import Owner
from pipeline.fleet.recorder import PAUSED
from pipeline.fleet.results import Status


@dataclass(frozen=True, slots=True)
class Swept:
    """What a migration came to, in words, and whether its guest or image is at the destination."""

    state: str
    moved: bool

    @property
    def status(self) -> Status:
        """The same for the journal."""
        return Status.COMPLETED if self.moved else Status.FAILED


class SweepingHost(Protocol):
    """The calls of a host that a sweep needs."""

    async def cleanup_destination(self, cleanup: Cleanup) -> None:
        """Remove a destination for certain."""

    async def recover_source(self, vm: str, qmp: str, *, paused: bool) -> str:
        """Give up the migration a dead command left, and let the guest run if that migration had stopped it."""

    async def recover_destination(self, vm: str, qmp: str) -> str:
        """Let a guest that was handed over run."""

    async def remove_partial(self, path: str, session: str) -> bool:
        """Remove what an image's migration left half-written; whether the image had its name already."""


async def sweep(
    journal: Journal,
    hosts: Mapping[str, SweepingHost],
    is_alive: Callable[[Owner], bool],
    say: Callable[[str], None],
) -> None:
    """Bring dead commands' migrations to their end, as far as their hosts are among `hosts`."""
    for run in journal.unfinished(is_alive):
        if not journal.take_over(run):
            continue
        for migration in run.migrations:
            try:
                swept = await bring_to_end(migration, hosts)
            except KuakaError as error:
                say(f"{migration.vm}: a migration that was not brought to its end is in doubt: {error}")
                continue
            journal.finish_migration(migration.id, swept.status, f"swept: {swept.state}")
            say(f"{migration.vm}: a migration that was not brought to its end: {swept.state}")
        try:
            journal.finish_run(run.id)
        except KuakaError:
            # Something of it is in doubt still: it stays ours until this process ends, then the next one's.
            continue


async def bring_to_end(migration: Migration, hosts: Mapping[str, SweepingHost]) -> Swept:
    """Put right what a migration left whose attempt runs no more.

    Raises `KuakaError` for what cannot be decided: it can be tried again.
    """
    source, destination = _host(hosts, migration.source), _host(hosts, migration.destination)
    if migration.kind == "image":
        if await destination.remove_partial(migration.destination["path"], migration.session):
            return Swept("the image was complete and has its name", moved=True)
        return Swept("the half-written image was removed", moved=False)
    cleanup = Cleanup(**migration.destination["cleanup"])
    paused = migration.state == PAUSED
    if migration.handed_over and paused:
        return Swept("the guest was handed over and is paused at the destination, as it was before", moved=True)
    if migration.handed_over:
        state = await destination.recover_destination(migration.vm, cleanup.environment["KUAKA_QMP"])
        return Swept(f"the guest was handed over and is {state} at the destination", moved=True)
    await destination.cleanup_destination(cleanup)
    state = await source.recover_source(migration.vm, migration.source["qmp"], paused=paused)
    return Swept(f"the guest is {state} at the source", moved=False)


def _host(hosts: Mapping[str, SweepingHost], record: Mapping[str, Any]) -> SweepingHost:
    try:
        return hosts[record["host"]]
    except KeyError:
        raise KuakaError(f"host {record['host']} is not part of this command") from None
