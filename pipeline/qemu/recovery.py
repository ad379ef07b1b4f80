"""Putting a guest right after the command that migrated it has died: short QMP visits of its own.

The caller has decided who owns the guest; see `fleet.sweep`.
"""

import asyncio
from pathlib import Path

from pipeline.errors import KuakaError
from pipeline.qemu.qmp import Qmp, is_there
from pipeline.qemu.source_vm import until_ended

#: States in which a migration leaves its source stopped; a guest that its operator paused is in state "paused" as
#: well, so that one is resumed only if the migration itself says it completed.
_STOPPED_BY_MIGRATION = frozenset(("postmigrate", "finish-migrate"))


async def recover_source(vm: str, qmp_path: Path, *, paused: bool) -> str:
    """Cancel a migration under way and let a guest run that it has stopped; its state, or "gone".

    `paused`: the guest did not run before the migration, so it is not told to.
    Raises `KuakaError` for one that is there and cannot be told.
    """
    if not await asyncio.to_thread(is_there, qmp_path):
        return "gone"
    async with Qmp(qmp_path, f"{vm} (source)") as qmp:
        await qmp.execute("migrate_cancel")
        await until_ended(qmp)
        status: str = (await qmp.execute("query-status"))["status"]
        if status in _STOPPED_BY_MIGRATION and not paused:
            await qmp.execute("cont")
            status = (await qmp.execute("query-status"))["status"]
        return status


async def recover_destination(vm: str, qmp_path: Path) -> str:
    """Let a guest that was handed over run; its state. Raises `KuakaError` when it cannot be reached or told."""
    async with Qmp(qmp_path, f"{vm} (destination)") as qmp:
        status: str = (await qmp.execute("query-status"))["status"]
        if status in ("inmigrate", "paused"):
            await qmp.execute("cont")
            status = (await qmp.execute("query-status"))["status"]
        if status != "running":
            raise KuakaError(f"{vm}: the guest was handed over but is {status} at {qmp_path}: look at it")
        return status
