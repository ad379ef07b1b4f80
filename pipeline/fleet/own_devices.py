"""A host's own accelerators as pools: what discovery finds that this process may use, one pool per kind and NUMA node.

Of DSA the queues with the lowest priority of each device are used, which `kuaka devices plan` calls bulk: nothing here
submits to two queues of one device, and the scheduler keeps its own reserve among the slots. Of IAA all queues count,
because libqpl spreads over all of them. QAT has no queues that one could count; a device is taken for 64 entries.

Hardware shows no counters of what it has done without the kernel's performance events, so there are no samples: grants
go by what workers report, and the rate stays the one that the devices are rated at. Whether they are still there is
looked at now and then; until then a device that has gone costs each thread one bounded wait.
"""

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby

from scheduler.core.events import DeviceSample, PoolSettings
from scheduler.core.units import AcceleratorKind
from scheduler.devices.address import DeviceAddress
from scheduler.devices.cost import CostModel
from scheduler.devices.device import DeviceUnavailable
from scheduler.devices.discovery.discover import discover
from scheduler.devices.discovery.inventory import IdxdDevice, Inventory, Queue, usable_qat, usable_queues
from scheduler.devices.iaa.libqpl import load as load_libqpl
from scheduler.devices.presets import COSTS, ENGINES
from scheduler.devices.qat.device import QAT_SLOTS
from scheduler.devices.qat.libqatzip import load_qatzip

#: Part of a pool's slots that is kept for guests that stand still.
_CRITICAL_PART = 8
#: Below this a pool has no reserve: its smallest window would not fit beside it.
_LEAST_SLOTS = 16
_LOOK_AGAIN_S = 10.0

_log = logging.getLogger(__name__)


class OwnDevice:
    """One pool of real devices; see `host_devices.HostDevice`."""

    def __init__(
        self,
        settings: PoolSettings,
        address: DeviceAddress,
        there: Callable[[], bool],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.settings = settings
        self.address = address
        self.cost: CostModel = COSTS[address.kind]
        self.up = True
        self._there = there
        self._clock = clock
        self._look_at_s = clock() + _LOOK_AGAIN_S

    async def sample(self) -> DeviceSample | None:
        """There are none; see the module."""
        if self._clock() >= self._look_at_s:
            self._look_at_s = self._clock() + _LOOK_AGAIN_S
            self.up = self._there()
        return None

    def share_of(self, vm: str) -> tuple[int, int, int]:
        """Nothing is said of single migrations here."""
        return 1, 0, 0

    def end(self) -> None:
        """Hardware stays."""


def own_devices(
    host: str,
    look: Callable[[], Inventory] = discover,
    libraries: Sequence[tuple[str, Callable[[], object]]] = (("iaa", load_libqpl), ("qat", load_qatzip)),
) -> tuple[OwnDevice, ...]:
    """The pools of this host; `libraries` are what the kinds that need one are used by."""
    inventory = look()
    found = [*_idxd_pools(host, inventory), *_qat_pools(host, inventory)]
    missing = {kind: why for kind, load in libraries if (why := _missing(load)) is not None}
    for settings, address in found:
        if (why := missing.get(address.kind)) is not None:
            _log.warning("%s is not used: %s", settings.pool, why)
    return tuple(
        OwnDevice(settings, address, lambda pool=settings.pool: _is_there(host, pool, look()))  # type: ignore[misc]
        for settings, address in found
        if address.kind not in missing
    )


def _missing(load: Callable[[], object]) -> str | None:
    try:
        load()
    except DeviceUnavailable as error:
        return str(error)
    return None


def _is_there(host: str, pool: str, inventory: Inventory) -> bool:
    return any(settings.pool == pool for settings, _ in (*_idxd_pools(host, inventory), *_qat_pools(host, inventory)))


def _idxd_pools(host: str, inventory: Inventory) -> Iterable[tuple[PoolSettings, DeviceAddress]]:
    for kind in (AcceleratorKind.DSA, AcceleratorKind.IAA):
        usable = {queue.name for queue in usable_queues(inventory, kind, None)}
        devices = sorted(inventory.devices(kind), key=lambda device: device.numa_node)
        for node, near in groupby(devices, key=lambda device: device.numa_node):
            queues = [(device, _of(device, kind, usable)) for device in near]
            ours = [queue for _, of_device in queues for queue in of_device]
            if ours:
                count = sum(bool(of_device) for _, of_device in queues)
                yield _pool(host, kind, node, sum(queue.slots for queue in ours), count, ours)


def _of(device: IdxdDevice, kind: AcceleratorKind, usable: set[str]) -> list[Queue]:
    """The queues of one device that are used."""
    queues = [queue for queue in device.queues if queue.name in usable and queue.slots]
    if kind is AcceleratorKind.IAA or not queues:
        return queues
    return [min(queues, key=lambda queue: (queue.priority or 0, -queue.slots))]


def _qat_pools(host: str, inventory: Inventory) -> Iterable[tuple[PoolSettings, DeviceAddress]]:
    devices = sorted(usable_qat(inventory, None), key=lambda device: device.numa_node)
    for node, near in groupby(devices, key=lambda device: device.numa_node):
        count = len(list(near))
        yield _pool(host, AcceleratorKind.QAT, node, QAT_SLOTS * count, count, ())


def _pool(
    host: str, kind: AcceleratorKind, node: int, slots: int, devices: int, queues: Sequence[Queue]
) -> tuple[PoolSettings, DeviceAddress]:
    critical = slots // _CRITICAL_PART if slots >= _LEAST_SLOTS else 0
    settings = PoolSettings(
        f"{host}/{kind.value}/{max(0, node)}",
        host,
        kind,
        slots,
        critical,
        ENGINES[kind.value] * devices,
        least_window=min(8, slots - critical),
    )
    paths = tuple(str(queue.node) for queue in queues) if kind is AcceleratorKind.DSA else ()
    return settings, DeviceAddress(kind.value, paths, slots, numa_node=node)
