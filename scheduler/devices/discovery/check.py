"""What keeps this host's accelerators from use, or makes them worth less than they could be.

A kind is usable when this process could submit to it now: a queue that opens (DSA, IAA), an instance that qatmgr would
hand out (QAT), and the libraries that the kind needs. A finding blocks where its kind is not usable because of it, and
costs where the kind is usable all the same.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from scheduler.core.units import AcceleratorKind
from scheduler.devices.discovery.cmd_status import command_problem
from scheduler.devices.discovery.findings import Finding, Report, Weight, bad_value, merged
from scheduler.devices.discovery.inventory import Access, IdxdDevice, Inventory, Queue, usable_qat, usable_queues
from scheduler.devices.discovery.qat_check import check_qat

#: Takes a name without lib and ending, returns where the library is: `ctypes.util.find_library` is one.
FindLibrary = Callable[[str], str | None]

#: What each kind is used through; DSA's descriptors are our own.
LIBRARIES = {
    AcceleratorKind.DSA: (),
    AcceleratorKind.IAA: ("qpl", "accel-config"),
    AcceleratorKind.QAT: ("qatzip",),
}
#: The first kernel that has write() submission in the mainline; stable ones of May 2024 and later have it as well.
WRITE_SUBMISSION = (6, 9, 1)
_PACKET_PAGES = 128
_PLAN = "kuaka devices plan writes a file for accel-config that does it"
_PCI_DRIVERS = {AcceleratorKind.DSA: "idxd", AcceleratorKind.IAA: "idxd", AcceleratorKind.QAT: "qat_4xxx"}


@dataclass(frozen=True, slots=True)
class SubmissionCost:
    """Caller's CPU time of a zero scan of one packet's 128 pages: by descriptors through write(2), and by numpy."""

    #: The slower bound of one ENQCMD on Sapphire Rapids, 1.8 million a second and core; not measured here.
    descriptor_ns: int = 550
    #: Measured, one core, pages in the cache.
    cpu_scan_ns: int = 17_000

    @property
    def device_scan_ns(self) -> int:
        """A first-generation device takes no BATCH descriptor through write(2): every page is a descriptor."""
        return self.descriptor_ns * _PACKET_PAGES


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What `check` cannot see in the inventory."""

    find_library: FindLibrary
    #: How often this process has each queue open.
    own_clients: Mapping[str, int] = field(default_factory=dict)
    submission: SubmissionCost = SubmissionCost()


def check(inventory: Inventory, circumstances: Circumstances, kinds: tuple[AcceleratorKind, ...]) -> Report:
    """Everything that is not as it should be with devices of these kinds."""
    names = [name for kind in kinds for name in LIBRARIES[kind]]
    libraries = {name: circumstances.find_library(name) for name in names}
    findings: list[Finding] = []
    usable = {}
    for kind in kinds:
        missing = [name for name in LIBRARIES[kind] if libraries[name] is None]
        submits = _submits(inventory, kind)
        usable[kind] = submits and not missing
        findings += _findings_of(kind, inventory, circumstances, missing, Weight.COSTS if submits else Weight.BLOCKS)
    if [finding.code for finding in findings] == ["no-hardware"] * len(kinds):
        findings = [_no_hardware(None, kinds)]
    return Report(usable, libraries, merged(findings))


def _submits(inventory: Inventory, kind: AcceleratorKind) -> bool:
    if kind is AcceleratorKind.QAT:
        return bool(usable_qat(inventory, None))
    return any(queue.slots for queue in usable_queues(inventory, kind, None))


def _findings_of(
    kind: AcceleratorKind, inventory: Inventory, circumstances: Circumstances, missing: list[str], weight: Weight
) -> Iterator[Finding]:
    unbound = tuple(address for other, address in inventory.host.unbound if other is kind)
    if unbound:
        remedy = f"modprobe {_PCI_DRIVERS[kind]}; if that is loaded, dmesg says why it refused"
        yield Finding("no-driver", kind, weight, unbound, "no driver holds it", remedy)
    devices = inventory.qat if kind is AcceleratorKind.QAT else inventory.devices(kind)
    if not devices:
        if not unbound:
            yield _no_hardware(kind, (kind,))
        return
    for name in missing:
        remedy = "install it, or have ldconfig know where it is"
        yield Finding("no-library", kind, Weight.BLOCKS, (f"lib{name}",), "the library was not found", remedy)
    if kind is AcceleratorKind.QAT:
        yield from check_qat(inventory, weight)
    else:
        yield from _check_idxd(kind, inventory, circumstances, weight)


def _no_hardware(kind: AcceleratorKind | None, kinds: tuple[AcceleratorKind, ...]) -> Finding:
    names = ", ".join(each.value for each in kinds)
    return Finding(
        "no-hardware",
        kind,
        Weight.BLOCKS,
        ("this host",),
        f"no device ({names}) is here",
        "nothing to do, the CPU does the work; a guest or container must be given its devices",
    )


def _check_idxd(
    kind: AcceleratorKind, inventory: Inventory, circumstances: Circumstances, weight: Weight
) -> Iterator[Finding]:
    if kind is AcceleratorKind.DSA:
        yield from _check_kernel(inventory)
        yield from _check_submission(inventory, circumstances.submission)
    for device in inventory.devices(kind):
        yield from _check_device(device, inventory, weight)
        for queue in device.queues:
            yield from _check_queue(kind, queue, circumstances.own_clients, weight)


def _check_kernel(inventory: Inventory) -> Iterator[Finding]:
    version = inventory.host.kernel_version
    if version is None or version < WRITE_SUBMISSION:
        what = f"{inventory.host.kernel or 'a kernel of no known version'} may have no write() submission to queues"
        remedy = "run Linux 6.9.1 or newer, or a stable kernel of May 2024 or later"
        yield Finding("kernel", AcceleratorKind.DSA, Weight.COSTS, ("kernel",), what, remedy)


def _check_submission(inventory: Inventory, cost: SubmissionCost) -> Iterator[Finding]:
    if cost.device_scan_ns > cost.cpu_scan_ns and usable_queues(inventory, AcceleratorKind.DSA, None):
        what = (
            f"a zero scan of {_PACKET_PAGES} pages costs the caller {cost.device_scan_ns / 1000:.0f} us by write(2), "
            f"without BATCH, and {cost.cpu_scan_ns / 1000:.0f} us by numpy"
        )
        remedy = "leave the zero scan to the CPU, or let DSA do it where cores are scarcer than that"
        yield Finding("submission-path", AcceleratorKind.DSA, Weight.COSTS, ("dsa",), what, remedy)


def _check_device(device: IdxdDevice, inventory: Inventory, weight: Weight) -> Iterator[Finding]:
    where = (device.name,)
    for problem in device.problems:
        yield bad_value(problem, device.kind)
    if device.command_status:
        what = command_problem(device.command_status)
        yield Finding("command", device.kind, Weight.COSTS, where, what, f"put it right and enable it again; {_PLAN}")
    if device.pasid_enabled is False:
        set_up = inventory.host.iommu_on and inventory.host.scalable_mode
        remedy = "enable VT-d in the firmware" if set_up else "boot with intel_iommu=on,sm_on"
        yield Finding("no-svm", device.kind, weight, where, "the IOMMU gives it no shared virtual memory", remedy)
    if device.state in ("disabled", "halted"):
        remedy = f"accel-config enable-device, after a setup; {_PLAN}"
        yield Finding("device-disabled", device.kind, weight, where, f"the device is {device.state}", remedy)
    elif not any(queue.size for queue in device.queues):
        yield Finding("no-queue", device.kind, weight, where, "no queue is set up", _PLAN)
    opened = [queue for queue in device.queues if queue.access is Access.OPEN]
    if device.kind is AcceleratorKind.IAA and len(opened) > 1:
        what = f"libqpl spreads jobs over all of its {len(opened)} queues, whatever they are meant for"
        yield Finding("several-queues", device.kind, Weight.COSTS, where, what, f"set up one; {_PLAN}")


#: What keeps a queue out: code, what, remedy. A disabled device, or one without SVM, has been said by then.
_OUT = {
    Access.QUEUE_DISABLED: ("queue-disabled", "the queue is disabled", "accel-config enable-wq"),
    Access.NOT_USER: ("not-user", "the queue is not of type user", f"give it to users: {_PLAN}"),
    Access.DEDICATED: ("dedicated", "the queue is dedicated to one process", f"make it shared: {_PLAN}"),
    Access.NO_NODE: (
        "no-node",
        "the queue has no device node here",
        "check that udev runs; a container must be given the node",
    ),
    Access.NOT_A_DEVICE: ("no-node", "what stands for its node is no device", "remove it and restart udev"),
    Access.NO_PERMISSION: (
        "permission",
        "this process may not open its node",
        "install the udev rule of kuaka devices plan --udev-rule and join its group",
    ),
    Access.UNKNOWN: ("unknown-state", "whether it can be used cannot be read", "look at its files in sysfs"),
}


def _check_queue(
    kind: AcceleratorKind, queue: Queue, own_clients: Mapping[str, int], weight: Weight
) -> Iterator[Finding]:
    where = (queue.name,)
    if queue.access is Access.REFUSED:
        what = f"its node cannot be opened: {queue.access_detail}"
        yield Finding("refused", kind, weight, where, what, "dmesg may say why")
    elif queue.access in _OUT:
        # A queue of no size was never set up: its device says so where there is no other.
        if queue.size or queue.access is Access.UNKNOWN:
            code, what, remedy = _OUT[queue.access]
            yield Finding(code, kind, weight, where, what, remedy)
    elif queue.access is Access.OPEN:
        yield from _check_open_queue(kind, queue, own_clients.get(queue.name, 0), weight)


def _check_open_queue(kind: AcceleratorKind, queue: Queue, ours: int, weight: Weight) -> Iterator[Finding]:
    where = (queue.name,)
    if not queue.slots:
        yield Finding(
            "no-entries", kind, weight, where, "none of its entries can be filled", f"set size and threshold; {_PLAN}"
        )
    elif queue.threshold is not None and queue.threshold != queue.size:
        what = f"{queue.slots} entries can be filled, its threshold being {queue.threshold} and its size {queue.size}"
        yield Finding("threshold", kind, Weight.COSTS, where, what, f"set both alike; {_PLAN}")
    if queue.clients is not None and queue.clients > ours:
        what = f"{queue.clients - ours} other processes have it open, and no share or order between us is kept"
        yield Finding("shared", kind, Weight.COSTS, where, what, "stop them, or give kuaka a queue of its own")
    if not queue.waits_for_faults:
        what = "a page that is not there ends its descriptor"
        yield Finding("faults", kind, Weight.COSTS, where, what, f"set block_on_fault; {_PLAN}")
