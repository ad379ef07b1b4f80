"""A destination QEMU under kuaka's hand: started with -S, it waits for a migration and runs only when it is told to."""

import asyncio
import contextlib
import os
import signal
from collections.abc import Mapping
from pathlib import Path

from pipeline.errors import KuakaError, MigrationError, SpecError
from pipeline.qemu.compatibility import destination_problems
from pipeline.qemu.qmp import QemuFacts, Qmp, event_time_ns, is_there, pid_behind
from pipeline.qemu.source_vm import set_capabilities
from pipeline.qemu.switchover import SWITCHOVER_ACK

#: A destination that `prepare` has just started answers within this time.
_APPEAR_TIMEOUT_S = 15.0
_APPEAR_POLL_S = 0.02
_RESUME_TIMEOUT_S = 10.0
#: A QEMU that was told to end has done so within this time.
_END_TIMEOUT_S = 5.0
_QUIT_TIMEOUT_S = 1.0


class DestinationVm:
    """One destination QEMU; `connect` first."""

    def __init__(self, name: str, qmp_path: Path) -> None:
        self._name = f"{name} (destination)"
        self._path = qmp_path
        self._qmp = Qmp(qmp_path, self._name)
        self._capabilities: Mapping[str, bool] = {}
        self._acknowledges = False

    async def connect(self) -> QemuFacts:
        """Wait for the QMP socket, connect and check; raises `SpecError` naming all that is in the way."""
        deadline = asyncio.get_running_loop().time() + _APPEAR_TIMEOUT_S
        while True:
            try:
                await self._qmp.connect()
                break
            except SpecError:
                if asyncio.get_running_loop().time() > deadline:
                    raise
                await asyncio.sleep(_APPEAR_POLL_S)
                self._qmp = Qmp(self._path, self._name)
        facts = await self._qmp.facts()
        self._capabilities = facts.capabilities
        if problems := destination_problems(facts):
            raise SpecError(f"{self._name}: {'; '.join(problems)}")
        return facts

    async def listen(self, channels: int, incoming: Path, *, acknowledges: bool = False) -> None:
        """Make QEMU wait for the gateway at `incoming`. Raises `MigrationError`.

        `acknowledges`: it sends a SWITCHOVER_ACK (QEMU 8.1).
        """
        # While a migration is awaited, `stop` clears the flag that would start the guest: -S, said once more.
        await self._qmp.execute("stop")
        self._acknowledges = acknowledges and not self._capabilities.get(SWITCHOVER_ACK, False)
        acknowledge = {SWITCHOVER_ACK: True} if self._acknowledges else {}
        await set_capabilities(self._qmp, {"multifd": True, "return-path": True, **acknowledge})
        await self._qmp.execute(
            "migrate-set-parameters", **{"multifd-channels": channels, "multifd-compression": "none"}
        )
        await self._qmp.execute("migrate-incoming", uri=f"unix:{incoming}")

    async def resume(self) -> int:
        """Start the guest; returns when it runs, by its host's clock in ns. Only after the hand-over was recorded.

        Raises `MigrationError` when it does not start.
        """
        await self._qmp.execute("cont")
        try:
            async with asyncio.timeout(_RESUME_TIMEOUT_S):
                event = await self._qmp.next_event("RESUME")
        except TimeoutError:
            raise MigrationError(
                f"{self._name}: told to run, the guest did not within {_RESUME_TIMEOUT_S:g} s"
            ) from None
        return event_time_ns(event)

    async def restore(self) -> None:
        """Take back what would keep a later migration from here waiting for ever. Raises `MigrationError`."""
        if self._acknowledges:
            await set_capabilities(self._qmp, {SWITCHOVER_ACK: False})

    async def disconnect(self) -> None:
        """Leave QEMU alone."""
        await self._qmp.disconnect()


async def refuse_occupied(name: str, qmp_path: Path) -> None:
    """Raise `SpecError` when a QEMU answers where `prepare` is to start a fresh one."""
    if await asyncio.to_thread(is_there, qmp_path):
        raise SpecError(
            f"{name} (destination): a QEMU answers at {qmp_path} already: end it, or give the path that prepare uses"
        )


async def remove_destination(name: str, qmp_path: Path, *, ours: bool) -> None:
    """Make sure that no QEMU answers at `qmp_path` any more.

    One that is `ours`, or that still waits for its migration, is told to end; any other is left alone, for it may be a
    guest that somebody needs. Raises `MigrationError` when one still answers: then a second guest may exist.
    """
    if await asyncio.to_thread(is_there, qmp_path):
        await _end(Qmp(qmp_path, f"{name} (destination)"), ours=ours)
    deadline = asyncio.get_running_loop().time() + _END_TIMEOUT_S
    while await asyncio.to_thread(is_there, qmp_path):
        if asyncio.get_running_loop().time() > deadline:
            raise MigrationError(f"{name}: a QEMU still answers at {qmp_path}: look at it, and end it by hand")
        await asyncio.sleep(_APPEAR_POLL_S)


async def _end(qmp: Qmp, *, ours: bool) -> None:
    """Tell it to quit. One of ours that hangs is killed: QEMU 7.2 never wakes from a barrier whose stream was cut."""
    try:
        async with asyncio.timeout(_QUIT_TIMEOUT_S):
            await qmp.connect()
            status: str = (await qmp.execute("query-status"))["status"]
            if status == "inmigrate" or (ours and status != "running"):
                await qmp.execute("quit")
    except (KuakaError, TimeoutError):
        # It may have ended before it could answer; what counts is whether it still does, which the caller looks at.
        pid = await asyncio.to_thread(pid_behind, qmp.path) if ours else None
        if pid is not None:
            with contextlib.suppress(PermissionError, ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    finally:
        await qmp.disconnect()
