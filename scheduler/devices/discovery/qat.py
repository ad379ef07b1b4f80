"""QAT devices from sysfs, and the daemon that hands their instances out.

Physical functions are the PCI devices that a QAT driver of the kernel holds; their `qat` directory (kernel 6.0 and
newer) has state and services. qatlib's daemon (qatmgr) serves processes through a socket, and its file says how many
virtual functions each process gets (POLICY). Neither has queues that a process could choose.
"""

import os
import re
from pathlib import Path

from scheduler.devices.discovery.attributes import Attributes, entries, printable, read_bounded
from scheduler.devices.discovery.inventory import UNKNOWN_NODE, QatDevice, Qatmgr
from scheduler.devices.discovery.roots import Roots

MAX_DEVICES = 64
MAX_SERVICES = 8
_MAX_FUNCTIONS = 65_536
_MAX_NODE = 1023
_MAX_POLICY = 4096
_DRIVERS = frozenset({"dh895xcc", "c3xxx", "c6xx", "4xxx", "420xx", "6xxx"})
_POLICY = re.compile(r"^\s*POLICY\s*=\s*\"?([^\"#\s]*)\"?", re.MULTILINE)
#: Where distributions put the daemon's settings.
_SETTINGS = ("sysconfig/qat", "default/qat")


def find_qat(roots: Roots) -> tuple[QatDevice, ...]:
    """Every physical function that a QAT driver holds, by address."""
    devices = roots.sysfs / "bus/pci/devices"
    found = [(name, driver) for name in entries(devices) if (driver := driver_of(devices / name)) in _DRIVERS]
    return tuple(_device(devices / name, name, driver) for name, driver in found[:MAX_DEVICES] if driver)


def driver_of(device: Path) -> str | None:
    """The driver that holds a PCI device, None without one."""
    try:
        return (device / "driver").readlink().name
    except OSError:
        return None


def _device(directory: Path, address: str, driver: str) -> QatDevice:
    problems: list[str] = []
    address = printable(address)
    read = Attributes(directory, address, problems)
    settings = Attributes(directory / "qat", address, problems)
    numa_node = read.whole("numa_node", UNKNOWN_NODE, _MAX_NODE)
    services = settings.text("cfg_services")
    return QatDevice(
        address=address,
        driver=driver,
        state=settings.word("state", ("up", "down")),
        services=None if services is None else _services(services),
        numa_node=UNKNOWN_NODE if numa_node is None else numa_node,
        functions=read.whole("sriov_numvfs", 0, _MAX_FUNCTIONS),
        rate_limits=(directory / "qat_rl").is_dir(),
        problems=tuple(problems),
    )


def _services(text: str) -> tuple[str, ...]:
    return tuple(printable(service) for service in re.split(r"[;,\s]+", text)[:MAX_SERVICES] if service)


def find_qatmgr(roots: Roots) -> Qatmgr:
    """The daemon's socket and policy."""
    socket = roots.run / "qat/qatmgr.sock"
    problems: list[str] = []
    return Qatmgr(
        socket=socket,
        present=os.access(socket, os.F_OK),
        permitted=os.access(socket, os.R_OK | os.W_OK, effective_ids=True),
        policy=_policy(roots.etc, problems),
        problems=tuple(problems),
    )


def _policy(etc: Path, problems: list[str]) -> int | None:
    for name in _SETTINGS:
        try:
            text = read_bounded(etc / name).decode("utf-8", "replace")
        except OSError:
            continue
        found = _POLICY.search(text)
        if found is None:
            continue
        if found[1].isascii() and found[1].isdigit() and int(found[1][:9]) <= _MAX_POLICY:
            return int(found[1][:9])
        problems.append(f"qatmgr: POLICY of {name} is {printable(found[1])!r}, not 0 to {_MAX_POLICY}")
    return None
