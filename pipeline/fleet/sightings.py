"""A look at the machines that are on this one: how large they are, and what keeps them from going.

Only hosts without a node are this machine. Images are looked at, guests are asked by QMP; nothing is changed. Whoever
cannot be seen is no problem of the plan's: its memory is assumed then, and a note says why.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import KuakaError
from pipeline.fleet.plan.from_spec import Size, is_local
from pipeline.fleet.plan.plan import Sightings
from pipeline.fleet.spec import ImageVm, QemuVm, Spec
from pipeline.qemu.disks import refusal, unshared_disks, writable_disks
from pipeline.qemu.qmp import Qmp

#: Guests that are asked at the same time.
_AT_ONCE = 16
#: A guest that does not answer in this time is assumed.
_PATIENCE_S = 3.0
_MAX_NOTES = 10


@dataclass(frozen=True, slots=True)
class _Seen:
    size: Size | None = None
    refused: str | None = None
    note: str | None = None


def look(spec: Spec) -> Sightings:
    """What can be seen of the spec's machines from here."""
    return asyncio.run(_look(spec))


async def _look(spec: Spec) -> Sightings:
    turn = asyncio.Semaphore(_AT_ONCE)
    machines = [vm for vm in spec.spec.virtual_machines if is_local(spec.host(vm.source.host))]
    found = await asyncio.gather(*(_see(vm, turn) for vm in machines))
    seen: Mapping[str, _Seen] = {vm.name: one for vm, one in zip(machines, found, strict=True)}
    notes = [f"{name}: {one.note}" for name, one in seen.items() if one.note]
    if len(notes) > _MAX_NOTES:
        notes = [*notes[:_MAX_NOTES], f"and {len(notes) - _MAX_NOTES} more that cannot be seen from here"]
    return Sightings(
        {name: one.size for name, one in seen.items() if one.size},
        {name: one.refused for name, one in seen.items() if one.refused},
        tuple(notes),
    )


async def _see(vm: QemuVm | ImageVm, turn: asyncio.Semaphore) -> _Seen:
    if isinstance(vm, ImageVm):
        return _see_image(vm.source.path)
    async with turn:
        return await _see_guest(vm)


def _see_image(path: Path) -> _Seen:
    try:
        return _Seen(Size(max(1, path.stat().st_size), "file"))
    except OSError as error:
        return _Seen(note=f"{path} cannot be seen: {error.strerror}")


async def _see_guest(vm: QemuVm) -> _Seen:
    try:
        async with asyncio.timeout(_PATIENCE_S), Qmp(vm.source.qmp, vm.name) as qmp:
            memory = await qmp.execute("query-memory-size-summary")
            blocks = await qmp.execute("query-block")
    except TimeoutError:
        return _Seen(note=f"{vm.source.qmp} did not answer within {_PATIENCE_S:g} s")
    except KuakaError as error:
        return _Seen(note=str(error).removeprefix(f"{vm.name}: "))
    size = Size(memory["base-memory"] + memory.get("plugged-memory", 0), "QMP")
    shared = vm.shared_disks
    unshared = () if shared is None else unshared_disks(writable_disks(blocks), shared)
    return _Seen(size, refusal(unshared) if unshared else None)
