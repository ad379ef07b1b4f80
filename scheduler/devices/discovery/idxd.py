"""DSA and IAA devices from sysfs: Documentation/ABI/stable/sysfs-driver-dma-idxd is what may be there.

Both kinds are on the bus `dsa`; IAA devices are called iax. Groups, engines and queues are directories in the device's.
Everything that kernels before 6.7 lack, and max_batch_size, which IAA hides, is optional.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from scheduler.core.units import AcceleratorKind
from scheduler.devices.discovery.attributes import Attributes, entries, printable
from scheduler.devices.discovery.inventory import UNKNOWN_NODE, Access, Engine, Group, IdxdDevice, Queue
from scheduler.devices.discovery.node import OpenNode, node_owner, probe_node
from scheduler.devices.discovery.roots import Roots

#: Beyond what any machine has: what a tree claims to have more of is not looked at.
MAX_DEVICES = 64
MAX_CHILDREN = 64
MAX_ENTRIES_PER_DEVICE = 65_536
_MAX_COUNT = 1024
_MAX_BATCH = 1 << 20
_MAX_TRANSFER_BYTES = 1 << 40
_MAX_CLIENTS = 1 << 22
_MAX_PRIORITY = 15
_MAX_NODE = 1023
_DEVICE = re.compile(r"(dsa|iax)([0-9]{1,4})")
_KINDS = {"dsa": AcceleratorKind.DSA, "iax": AcceleratorKind.IAA}


def find_idxd(roots: Roots, open_node: OpenNode) -> tuple[IdxdDevice, ...]:
    """Every DSA and IAA device, by kind and number."""
    bus = roots.sysfs / "bus/dsa/devices"
    found = [match for name in entries(bus) if (match := _DEVICE.fullmatch(name))]
    found.sort(key=lambda match: (match[1], int(match[2])))
    return tuple(_device(bus / match[0], match, roots.dev, open_node) for match in found[:MAX_DEVICES])


def _device(directory: Path, match: "re.Match[str]", dev: Path, open_node: OpenNode) -> IdxdDevice:
    problems: list[str] = []
    read = Attributes(directory, match[0], problems)
    state = read.word("state", ("disabled", "enabled", "halted"), required=True)
    pasid_enabled = read.flag("pasid_enabled")
    numa_node = read.whole("numa_node", UNKNOWN_NODE, _MAX_NODE)
    queues = tuple(
        _queue(directory / name, dev / match[1] / name, _Setting(state, pasid_enabled), open_node, problems)
        for name in _children(directory, "wq", match[2])
    )
    return IdxdDevice(
        name=match[0],
        kind=_KINDS[match[1]],
        state=state,
        numa_node=UNKNOWN_NODE if numa_node is None else numa_node,
        version=read.whole("version", 0, 0xFFFF),
        max_queues=read.whole("max_work_queues", 1, _MAX_COUNT),
        max_entries=read.whole("max_work_queues_size", 1, MAX_ENTRIES_PER_DEVICE),
        max_groups=read.whole("max_groups", 1, _MAX_COUNT),
        max_engines=read.whole("max_engines", 1, _MAX_COUNT),
        max_batch=read.whole("max_batch_size", 1, _MAX_BATCH),
        max_transfer_bytes=read.whole("max_transfer_size", 1, _MAX_TRANSFER_BYTES),
        pasid_enabled=pasid_enabled,
        configurable=read.flag("configurable"),
        clients=read.whole("clients", 0, _MAX_CLIENTS),
        command_status=read.whole("cmd_status", 0, 0xFFFF_FFFF),
        groups=tuple(_group(directory / name, problems) for name in _children(directory, "group", match[2])),
        engines=tuple(_engine(directory / name, problems) for name in _children(directory, "engine", match[2])),
        queues=queues,
        problems=tuple(problems),
    )


def _children(directory: Path, what: str, number: str) -> list[str]:
    pattern = re.compile(rf"{what}{number}\.([0-9]{{1,4}})")
    found = [match for name in entries(directory) if (match := pattern.fullmatch(name))]
    return [match[0] for match in sorted(found, key=lambda match: int(match[1]))[:MAX_CHILDREN]]


def _group(directory: Path, problems: list[str]) -> Group:
    read = Attributes(directory, directory.name, problems)
    return Group(directory.name, _names(read.text("engines")), _names(read.text("work_queues")))


def _names(text: str | None) -> tuple[str, ...]:
    return tuple(printable(name) for name in (text or "").split()[:MAX_CHILDREN])


def _engine(directory: Path, problems: list[str]) -> Engine:
    read = Attributes(directory, directory.name, problems)
    return Engine(directory.name, read.whole("group_id", -1, _MAX_COUNT))


@dataclass(frozen=True, slots=True)
class _Setting:
    """What of its device decides about a queue."""

    state: str | None
    pasid_enabled: bool | None


def _queue(directory: Path, node: Path, device: _Setting, open_node: OpenNode, problems: list[str]) -> Queue:
    read = Attributes(directory, directory.name, problems)
    state = read.word("state", ("disabled", "enabled", "unknown"), required=True)
    kind = read.word("type", ("none", "kernel", "user"), required=True)
    mode = read.word("mode", ("shared", "dedicated"), required=True)
    reason = _keeps_out(device, state, kind, mode)
    access, detail = (reason, None) if reason is not None else probe_node(node, open_node)
    label = read.text("name")
    return Queue(
        name=directory.name,
        label=None if label is None else printable(label),
        state=state,
        type=kind,
        mode=mode,
        size=read.whole("size", 0, MAX_ENTRIES_PER_DEVICE, required=True),
        threshold=read.whole("threshold", 0, MAX_ENTRIES_PER_DEVICE),
        priority=read.whole("priority", 0, _MAX_PRIORITY),
        group=read.whole("group_id", -1, _MAX_COUNT),
        max_batch=read.whole("max_batch_size", 0, _MAX_BATCH),
        max_transfer_bytes=read.whole("max_transfer_size", 0, _MAX_TRANSFER_BYTES),
        block_on_fault=read.flag("block_on_fault"),
        prs_disabled=read.flag("prs_disable"),
        clients=read.whole("clients", 0, _MAX_CLIENTS),
        driver=read.word("driver_name", ("", "user", "crypto", "dmaengine")),
        node=node,
        owner=node_owner(node),
        access=access,
        access_detail=detail,
    )


def _keeps_out(device: _Setting, state: str | None, kind: str | None, mode: str | None) -> Access | None:
    """The first thing in sysfs that keeps this process from the queue; None: try the node."""
    if device.state is None or state is None or kind is None or mode is None:
        return Access.UNKNOWN
    reasons = (
        (device.state != "enabled", Access.DEVICE_DISABLED),
        (state != "enabled", Access.QUEUE_DISABLED),
        (kind != "user", Access.NOT_USER),
        # A second open of a dedicated queue is refused: it has its owner already, or would keep everybody else out.
        (mode != "shared", Access.DEDICATED),
        (device.pasid_enabled is False, Access.NO_SVM),
    )
    return next((reason for holds, reason in reasons if holds), None)
