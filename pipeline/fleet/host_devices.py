"""The accelerators of a host: its own, or those that a file declares.

Either kind is imported by the hosts that have it.
"""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from pipeline.fleet.places import AUTO, DeviceChoice
from scheduler.core.events import DeviceSample, PoolSettings
from scheduler.devices.address import DeviceAddress
from scheduler.devices.cost import CostModel


class HostDevice(Protocol):
    """One pool of a host, and whether its device answers."""

    @property
    def settings(self) -> PoolSettings:
        """The pool."""

    @property
    def address(self) -> DeviceAddress:
        """How workers open it."""

    @property
    def cost(self) -> CostModel:
        """What its descriptors cost, and which operations there are."""

    @property
    def up(self) -> bool:
        """Whether it answered when it was last asked."""

    async def sample(self) -> DeviceSample | None:
        """Its counters; None while it does not answer, or has none to show."""

    def share_of(self, vm: str) -> tuple[int, int, int]:
        """Weight, reservation and cap (0: none) of a migration; the latter in device-ns per second."""

    def end(self) -> None:
        """It is used no more."""


async def start_devices(wanted: DeviceChoice, host: str, directory: Path) -> Sequence[HostDevice]:
    """The devices that a file declares, started, or (`AUTO`) those that the host has; none for None.

    Raises `KuakaError`, and none is left.
    """
    if wanted is None:
        return ()
    if wanted == AUTO:
        from pipeline.fleet.own_devices import own_devices

        return await asyncio.to_thread(own_devices, host)
    from pipeline.fleet.emulated_host_devices import start_emulated

    return await start_emulated(Path(wanted), host, directory)
