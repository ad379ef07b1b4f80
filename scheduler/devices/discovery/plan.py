"""How the host's DSA and IAA devices should be set up: the file for `accel-config load-config`, and the udev rule.

The rules, each from a trap of the hardware or of the tool that loads the file:

* One group holds all engines and all our queues: a queue's priority weighs it against the others of its group only.
* DSA gets two shared queues, so that bulk work cannot fill the one that critical work goes to. IAA gets one, for
  libqpl spreads jobs over every queue it can open, for the life of the process: its critical reserve is credit.
* The threshold is the size. Users reach the limited portal only, so entries above the threshold would stay empty; no
  privileged submitter shares these queues.
* The device waits for a page that is not there (block_on_fault), and no single descriptor or batch is larger than a
  migration needs: nothing else bounds how long one client holds an engine.
* Nothing is set that one generation or kind refuses: no read buffers (IAA), no traffic classes (first generation), no
  batch size (IAA). `driver_name`, which kernels need from 6.7 on, accel-config itself leaves out on older ones.
* Order counts, because accel-config writes each value as it meets it: the name of an object first, mode and size before
  the threshold that is checked against them.

All of it can be changed on a disabled device only: to load a plan disconnects every client of that device.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from scheduler.core.units import AcceleratorKind
from scheduler.devices.discovery.inventory import IdxdDevice

#: Entries of DSA's queues: together the 128 of a first-generation device.
CRITICAL_ENTRIES = 16
BULK_ENTRIES = 112
CRITICAL_PRIORITY = 15
BULK_PRIORITY = 5
_QUEUES = {AcceleratorKind.DSA: 2, AcceleratorKind.IAA: 1}
#: Of IAA's only queue, which nothing is weighed against.
_ONLY_PRIORITY = 10
#: Pages of one multifd packet, and so of one batch descriptor.
_BATCH = 128
#: As a disabled queue has it; the largest buffer that anybody here hands to a device is half of it.
_TRANSFER_BYTES = 2 << 20
#: No server has more.
MAX_BY_HAND = 32
GROUP = "kuaka"
_GROUP_NAME = re.compile(r"[a-z_][a-z0-9_-]{0,30}")


class PlanError(Exception):
    """A plan that cannot be: one line, what is wrong and what to do."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """Entries of the DSA queues; None: `CRITICAL_ENTRIES` and what the device has besides them."""

    critical: int = CRITICAL_ENTRIES
    bulk: int | None = None


@dataclass(frozen=True, slots=True)
class Capacity:
    """What a device has to give."""

    name: str
    kind: AcceleratorKind
    entries: int
    engines: int
    queues: int
    #: Largest batch, None: none (IAA).
    max_batch: int | None
    configurable: bool = True

    @property
    def number(self) -> int:
        """The device's, as its queues have it."""
        return int(self.name[3:])


#: First-generation devices, as every Sapphire Rapids server has them.
_BY_HAND = {
    AcceleratorKind.DSA: Capacity("dsa0", AcceleratorKind.DSA, entries=128, engines=4, queues=8, max_batch=1024),
    AcceleratorKind.IAA: Capacity("iax1", AcceleratorKind.IAA, entries=128, engines=8, queues=8, max_batch=None),
}


def capacity_of(device: IdxdDevice) -> Capacity:
    """A device that was found. Raises `PlanError` for one that does not say what it has."""
    if device.max_entries is None or device.max_queues is None or not device.engines:
        raise PlanError(
            f"{device.name}: how many entries, queues and engines it has cannot be read: plan it with --devices"
        )
    return Capacity(
        name=device.name,
        kind=device.kind,
        entries=device.max_entries,
        engines=len(device.engines),
        queues=device.max_queues,
        max_batch=device.max_batch if device.kind is AcceleratorKind.DSA else None,
        configurable=device.configurable is not False,
    )


def capacities_by_hand(kind: AcceleratorKind, count: int) -> tuple[Capacity, ...]:
    """`count` first-generation devices, numbered as the kernel does: DSA even, IAA odd. Raises `PlanError`."""
    if kind not in _BY_HAND:
        raise PlanError(f"--kind {kind.value}: accel-config sets up dsa and iaa; QAT is set up by qatmgr's own file")
    if not 1 <= count <= MAX_BY_HAND:
        raise PlanError(f"--devices {count}: give 1 to {MAX_BY_HAND}")
    first = _BY_HAND[kind]
    return tuple(replace(first, name=f"{first.name[:3]}{first.number + 2 * index}") for index in range(count))


def plan_json(devices: Sequence[Capacity], sizes: Sizes | None = None) -> str:
    """The file for `accel-config load-config -c`. Raises `PlanError` for sizes that a device does not have."""
    if not devices:
        raise PlanError("there is no DSA or IAA device here: give --devices N and --kind to plan for another host")
    return json.dumps([_device(device, sizes or Sizes()) for device in devices], indent=2) + "\n"


def udev_rule(devices: Sequence[Capacity], group: str = GROUP) -> str:
    """The rule that opens the planned queues' nodes to a group, and no others. Raises `PlanError` for its name."""
    if not _GROUP_NAME.fullmatch(group):
        raise PlanError(f"--group {group!r} is no name of a group: give one such as {GROUP}")
    lines = ["# Work queues that kuaka submits to. Written by `kuaka devices plan`."]
    for device in devices:
        for index in range(_QUEUES[device.kind]):
            # The kernel calls the node dsa!wq0.0, and udev shows the mark as a slash: ? matches either.
            name = f"{device.name[:3]}?wq{device.number}.{index}"
            lines.append(f'SUBSYSTEM=="dsa", KERNEL=="{name}", GROUP="{group}", MODE="0660"')
    return "\n".join(lines) + "\n"


def _device(device: Capacity, sizes: Sizes) -> dict[str, Any]:
    if not device.configurable:
        raise PlanError(f"{device.name} is not configurable: set it up in the machine's firmware or hypervisor")
    number = device.number
    queues = _queue_sizes(device, sizes)
    if len(queues) > device.queues:
        raise PlanError(f"{device.name} has {device.queues} queue, the plan needs {len(queues)}: leave its kind out")
    return {
        "dev": device.name,
        "groups": [
            {
                "dev": f"group{number}.0",
                "grouped_workqueues": [
                    _queue(device, f"wq{number}.{index}", *queue) for index, queue in enumerate(queues)
                ],
                "grouped_engines": [
                    {"dev": f"engine{number}.{index}", "group_id": 0} for index in range(device.engines)
                ],
            }
        ],
    }


def _queue_sizes(device: Capacity, sizes: Sizes) -> tuple[tuple[str, int, int], ...]:
    """Name, entries and priority of each queue."""
    if device.kind is AcceleratorKind.IAA:
        return (("all", device.entries, _ONLY_PRIORITY),)
    bulk = device.entries - sizes.critical if sizes.bulk is None else sizes.bulk
    if sizes.critical < 1 or bulk < 1 or sizes.critical + bulk > device.entries:
        raise PlanError(
            f"{device.name} has {device.entries} entries, which cannot be {sizes.critical} critical and {bulk} bulk "
            "ones: give --critical-entries and --bulk-entries that fit"
        )
    return ("crit", sizes.critical, CRITICAL_PRIORITY), ("bulk", bulk, BULK_PRIORITY)


def _queue(device: Capacity, queue: str, label: str, entries: int, priority: int) -> dict[str, Any]:
    batch = {} if device.max_batch is None else {"max_batch_size": min(_BATCH, device.max_batch)}
    return {
        "dev": queue,
        "mode": "shared",
        "size": entries,
        "group_id": 0,
        "priority": priority,
        "block_on_fault": 1,
        **batch,
        "max_transfer_size": _TRANSFER_BYTES,
        "type": "user",
        "driver_name": "user",
        "name": label,
        "threshold": entries,
    }
