"""Trees as sysfs shows them on Sapphire Rapids, built below a directory: sys, dev, proc, etc and run.

Values are the documented ones. A pipe stands for a device node: it is opened for reading and writing at once, too.
"""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from scheduler.devices.discovery import Roots

#: Attributes of a device; what is not for both kinds is below.
DEVICE = {
    "version": "0x100",
    "max_groups": "4",
    "max_work_queues": "8",
    "max_work_queues_size": "128",
    "numa_node": "0",
    "max_transfer_size": "2147483648",
    "op_cap": "00000000,00000000,00000000,00000000",
    "gen_cap": "0x40915f0107",
    "configurable": "1",
    "clients": "0",
    "pasid_enabled": "1",
    "state": "enabled",
    "errors": "0x0 0x0 0x0 0x0",
    "max_tokens": "96",
    "token_limit": "0",
    "max_read_buffers": "96",
    "read_buffer_limit": "0",
    "cdev_major": "240",
    "cmd_status": "0x0",
}
OF_KIND = {"dsa": {"max_engines": "4", "max_batch_size": "1024"}, "iax": {"max_engines": "8"}}
#: A queue of which nothing was set.
FRESH_QUEUE = {
    "state": "disabled",
    "type": "none",
    "mode": "dedicated",
    "size": "0",
    "threshold": "0",
    "priority": "0",
    "group_id": "-1",
    "max_transfer_size": "2097152",
    "block_on_fault": "0",
    "name": "",
    "clients": "0",
    "cdev_minor": "0",
    "ats_disable": "0",
    "driver_name": "",
}
USER_QUEUE = FRESH_QUEUE | {
    "state": "enabled",
    "type": "user",
    "mode": "shared",
    "size": "128",
    "threshold": "128",
    "priority": "10",
    "group_id": "0",
    "block_on_fault": "1",
    "name": "all",
    "driver_name": "user",
}
#: What a kernel before 5.17 does not show.
NEWER_THAN_5_16 = ("driver_name", "prs_disable", "ats_disable", "occupancy", "max_read_buffers", "read_buffer_limit")
#: What each device really has of them, and what most tests make do with: a device has a hundred files even so.
QUEUES_OF_A_DEVICE, GROUPS_OF_A_DEVICE = 8, 4
FEW_QUEUES, FEW_GROUPS = 3, 1


@dataclass
class Tree:
    """A host below `directory`; files may be changed before it is looked at."""

    directory: Path
    queues: int = FEW_QUEUES
    groups: int = FEW_GROUPS
    roots: Roots = field(init=False)

    def __post_init__(self) -> None:
        self.roots = Roots.below(self.directory)
        self.kernel("6.12.48+deb13-amd64")
        self.command_line("BOOT_IMAGE=/vmlinuz root=/dev/sda1 intel_iommu=on,sm_on quiet")
        self.capabilities(0)

    def kernel(self, release: str) -> None:
        write(self.roots.proc / "sys/kernel/osrelease", f"{release}\n")

    def command_line(self, text: str) -> None:
        write(self.roots.proc / "cmdline", f"{text}\n")

    def capabilities(self, effective: int) -> None:
        write(self.roots.proc / "self/status", f"Name:\tpython\nCapEff:\t{effective:016x}\nSeccomp:\t0\n")

    def device(self, name: str) -> Path:
        return self.roots.sysfs / "bus/dsa/devices" / name

    def node(self, queue: str, kind: str) -> Path:
        return self.roots.dev / kind / queue

    def add_device(self, name: str, **values: str) -> Path:
        """A device with fresh queues; values replace or add attributes."""
        kind, number = name[:3], name[3:]
        write(self.roots.sysfs / "module/idxd/refcnt", "0\n")
        # As in sysfs, what stands on the bus is a link to the device below its PCI function.
        device = self.roots.sysfs / f"devices/pci0000:{int(number):02x}/0000:{int(number):02x}:01.0/{name}"
        attributes(device, DEVICE | OF_KIND[kind] | values)
        for group in range(self.groups):
            attributes(device / f"group{number}.{group}", {"engines": "", "work_queues": ""} | group_values(kind))
        for engine in range(int(OF_KIND[kind]["max_engines"])):
            attributes(device / f"engine{number}.{engine}", {"group_id": "-1"})
        for queue in range(self.queues):
            attributes(device / f"wq{number}.{queue}", FRESH_QUEUE | queue_values(kind))
        link = self.device(name)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(device, link.parent))
        return link

    def set_queue(self, device: str, index: int, *, node: bool = True, **values: str) -> Path:
        """A shared user queue with its node; values replace attributes."""
        kind, number = device[:3], device[3:]
        directory = self.device(device) / f"wq{number}.{index}"
        attributes(directory, USER_QUEUE | queue_values(kind) | values)
        if node:
            path = self.node(directory.name, kind)
            path.parent.mkdir(parents=True, exist_ok=True)
            os.mkfifo(path, 0o660)
        return directory

    def add_ready_device(self, name: str, **values: str) -> Path:
        """A device as the plan sets it up: two shared queues for DSA, one for IAA."""
        link = self.add_device(name, **values)
        if name.startswith("dsa"):
            self.set_queue(name, 0, size="16", threshold="16", priority="15", name="crit")
            self.set_queue(name, 1, size="112", threshold="112", priority="5", name="bulk")
        else:
            self.set_queue(name, 0)
        return link

    def make_writable(self) -> None:
        """Blanks where accel-config writes: unlike sysfs, a file would keep the end of a longer value."""
        for path in self.directory.rglob("wq*/*"):
            if path.name in ("mode", "group_id", "type"):
                write(path, "\n")
        for path in self.directory.rglob("engine*/group_id"):
            write(path, "\n")

    def add_pci(self, address: str, number: str, driver: str | None = None, **values: str) -> Path:
        """A PCI function of Intel's."""
        device = self.roots.sysfs / "bus/pci/devices" / address
        attributes(device, {"vendor": "0x8086", "device": number, "numa_node": "0"} | values)
        if driver is not None:
            (self.roots.sysfs / "bus/pci/drivers" / driver).mkdir(parents=True, exist_ok=True)
            (device / "driver").symlink_to(f"../../drivers/{driver}")
        return device

    def add_qat(self, address: str, *, state: str = "up", services: str = "dc", **values: str) -> Path:
        """A QAT physical function of the fourth generation."""
        device = self.add_pci(address, "0x4940", "4xxx", **{"sriov_numvfs": "16"} | values)
        attributes(device / "qat", {"state": state, "cfg_services": services})
        return device

    def add_qatmgr(self, policy: str = "1") -> None:
        """A daemon's socket, for which a file stands, and its settings."""
        write(self.roots.run / "qat/qatmgr.sock", "")
        write(self.roots.etc / "sysconfig/qat", f"# settings\nPOLICY={policy}\nServicesEnabled=dc\n")


def sapphire_rapids(directory: Path) -> Tree:
    """Two sockets with four DSA and four IAA devices each, set up as planned."""
    tree = Tree(directory, QUEUES_OF_A_DEVICE, GROUPS_OF_A_DEVICE)
    for index in range(8):
        node = str(index // 4)
        tree.add_ready_device(f"dsa{2 * index}", numa_node=node)
        tree.add_ready_device(f"iax{2 * index + 1}", numa_node=node)
    return tree


@contextlib.contextmanager
def changed(contents: dict[Path, bytes]) -> Iterator[None]:
    """Files with other contents for a while; one that is not there is made, and goes again."""
    before = {path: path.read_bytes() if path.exists() else None for path in contents}
    try:
        for path, data in contents.items():
            path.write_bytes(data)
        yield
    finally:
        for path, old in before.items():
            if old is None:
                path.unlink()
            else:
                path.write_bytes(old)


def group_values(kind: str) -> dict[str, str]:
    tokens = {"tokens_reserved": "0", "tokens_allowed": "96", "use_token_limit": "0"} if kind == "dsa" else {}
    return tokens | {"traffic_class_a": "-1", "traffic_class_b": "-1"}


def queue_values(kind: str) -> dict[str, str]:
    """IAA hides what has no meaning there."""
    return {"max_batch_size": "32"} if kind == "dsa" else {}


def attributes(directory: Path, values: dict[str, str]) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    for name, value in values.items():
        (directory / name).write_text(f"{value}\n")


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
