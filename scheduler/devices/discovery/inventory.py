"""What was found on a host: frozen data, no I/O.

A value of None was not there, or was no value; in the second case `problems` says so. Sizes of queues are entries.
"""

from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from scheduler.core.units import AcceleratorKind

#: First generation of DSA and IAA: through write(2) the kernel refuses its BATCH descriptor.
VERSION_1 = 0x100
UNKNOWN_NODE = -1
#: QAT services that deflate: compression, and compression chained with hashing.
_COMPRESSION = frozenset({"dc", "dcc"})


class Access(Enum):
    """Whether this process may submit to a queue, and if not, the first reason why."""

    OPEN = "open"
    DEVICE_DISABLED = "device disabled"
    QUEUE_DISABLED = "queue disabled"
    NOT_USER = "not of type user"
    DEDICATED = "dedicated"
    NO_SVM = "no shared virtual memory"
    NO_NODE = "no device node"
    NOT_A_DEVICE = "the node is no device"
    NO_PERMISSION = "no permission"
    #: The node is there and cannot be opened for another reason; the queue's `access_detail` has it.
    REFUSED = "refused"
    #: What would decide it could not be read.
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Owner:
    """Whom a device node belongs to; numbers, because a container may have no names for them."""

    uid: int
    gid: int
    mode: int


@dataclass(frozen=True, slots=True)
class Queue:
    """A work queue of an idxd device."""

    name: str
    label: str | None
    state: str | None
    type: str | None
    mode: str | None
    size: int | None
    threshold: int | None
    priority: int | None
    group: int | None
    max_batch: int | None
    max_transfer_bytes: int | None
    block_on_fault: bool | None
    prs_disabled: bool | None
    clients: int | None
    driver: str | None
    node: Path
    owner: Owner | None
    access: Access
    access_detail: str | None = None

    @property
    def slots(self) -> int:
        """Entries that user submissions may fill: portals that users reach, and write(2), stop at the threshold."""
        size = self.size or 0
        return size if self.threshold is None else min(size, self.threshold)

    @property
    def waits_for_faults(self) -> bool:
        """Whether the device waits for a page that is not there; page requests disabled override block_on_fault."""
        return bool(self.block_on_fault) and not self.prs_disabled


@dataclass(frozen=True, slots=True)
class Group:
    """Engines and the queues that they serve."""

    name: str
    engines: tuple[str, ...]
    queues: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Engine:
    """One engine; group -1 is none."""

    name: str
    group: int | None


@dataclass(frozen=True, slots=True)
class IdxdDevice:
    """A DSA or IAA device."""

    name: str
    kind: AcceleratorKind
    state: str | None
    numa_node: int
    version: int | None
    max_queues: int | None
    max_entries: int | None
    max_groups: int | None
    max_engines: int | None
    max_batch: int | None
    max_transfer_bytes: int | None
    pasid_enabled: bool | None
    configurable: bool | None
    clients: int | None
    #: How the last command to the device ended; 0: well. See `cmd_status.py`.
    command_status: int | None
    groups: tuple[Group, ...]
    engines: tuple[Engine, ...]
    queues: tuple[Queue, ...]
    problems: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class QatDevice:
    """A QAT physical function with a driver of the kernel."""

    address: str
    driver: str
    state: str | None
    services: tuple[str, ...] | None
    numa_node: int
    #: Virtual functions that are there; libqatzip's instances live in them.
    functions: int | None
    rate_limits: bool
    problems: tuple[str, ...]

    @property
    def compresses(self) -> bool:
        """Whether its services have compression; services that nobody knows might."""
        return self.services is None or not _COMPRESSION.isdisjoint(self.services)

    @property
    def serves(self) -> bool:
        """Whether it has instances that compress."""
        return self.state == "up" and self.compresses and self.functions != 0


@dataclass(frozen=True, slots=True)
class Qatmgr:
    """The daemon that hands QAT instances to processes."""

    socket: Path
    present: bool
    permitted: bool
    #: How many virtual functions a process gets; 0: as many devices as there are services; None: not said.
    policy: int | None
    problems: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Host:
    """What the kernel says of itself."""

    kernel: str | None
    #: (major, minor, patch); None where it cannot be told.
    kernel_version: tuple[int, int, int] | None
    iommu_on: bool
    scalable_mode: bool
    #: CAP_SYS_RAWIO, without which newer kernels let nobody map a queue's portal.
    may_map_portals: bool
    #: PCI functions that are accelerators and have no driver: kind and address.
    unbound: tuple[tuple[AcceleratorKind, str], ...]


@dataclass(frozen=True, slots=True)
class Inventory:
    """Everything that was found."""

    host: Host
    idxd: tuple[IdxdDevice, ...]
    qat: tuple[QatDevice, ...]
    qatmgr: Qatmgr

    def devices(self, kind: AcceleratorKind) -> tuple[IdxdDevice, ...]:
        """DSA or IAA devices."""
        return tuple(device for device in self.idxd if device.kind is kind)


def usable_queues(inventory: Inventory, kind: AcceleratorKind, numa_node: int | None) -> tuple[Queue, ...]:
    """Queues of a kind that this process may submit to, of one NUMA node (None: of all).

    A device whose node nobody knows counts for every node. QAT has no queues that a process could choose: its instances
    are handed out by qatmgr, see `usable_qat`.
    """
    near = (device for device in inventory.devices(kind) if _is_near(device.numa_node, numa_node))
    return tuple(queue for device in near for queue in device.queues if queue.access is Access.OPEN)


def usable_qat(inventory: Inventory, numa_node: int | None) -> tuple[QatDevice, ...]:
    """QAT devices with instances that compress; none where this process cannot ask qatmgr for one."""
    if not inventory.qatmgr.permitted:
        return ()
    return tuple(device for device in inventory.qat if device.serves and _is_near(device.numa_node, numa_node))


def _is_near(device_node: int, wanted: int | None) -> bool:
    return wanted is None or device_node in (wanted, UNKNOWN_NODE)
