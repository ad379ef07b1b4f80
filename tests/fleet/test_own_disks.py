"""A guest that writes to disks nobody called shared is refused when its source is looked at, before anything moves."""

import asyncio
from dataclasses import replace
from typing import cast

import pytest

from pipeline.errors import ExitCode
from pipeline.fleet.migration import GuestMigration
from pipeline.fleet.recorder import Recorder
from pipeline.fleet.results import MigrationResult, Status
from pipeline.qemu.qmp import QemuFacts
from tests.fleet.guest_world import Calls, FakeHost, FakeRecorder, World
from tests.fleet.test_migration import ORDER

DISKS = (("/san/1", "#block1", "ide0-hd0"), ("/local/2", "#block2"))


class HostWithDisks(FakeHost):
    """A source whose guest writes to two disks."""

    async def inspect_source(self, vm: str, qmp: str, session_id: str) -> QemuFacts:
        return replace(await super().inspect_source(vm, qmp, session_id), writable_disks=DISKS)


def migrate(shared: frozenset[str] | None) -> tuple[MigrationResult, World]:
    async def story() -> tuple[MigrationResult, World]:
        world = World(was_running=True, source_runs=True)
        calls = Calls(world, {})
        order = replace(ORDER, shared_disks=shared)
        hosts = HostWithDisks("a", calls), FakeHost("b", calls)
        migration = GuestMigration(order, *hosts, cast(Recorder, FakeRecorder(calls)))
        calls.task = asyncio.create_task(migration.run())
        return await calls.task, world

    return asyncio.run(story())


def test_a_disk_that_stays_behind_is_a_refusal_and_no_destination_is_made() -> None:
    result, world = migrate(frozenset({"ide0-hd0"}))
    assert (result.status, result.exit_code) == (Status.FAILED, ExitCode.SPEC_REJECTED)
    assert result.error == (
        "vm1: it writes to /local/2, not said to be shared: declare it in disks with shared: true, or say sharedStorage"
    )
    assert world.source_runs
    assert not world.destination_exists


@pytest.mark.parametrize("shared", [None, frozenset({"ide0-hd0", "/local/2"})])
def test_disks_that_are_shared_keep_nobody(shared: frozenset[str] | None) -> None:
    result, _ = migrate(shared)
    assert result.status is Status.COMPLETED
