"""What the kernel says: version, IOMMU, this process's capabilities, and accelerators that no driver holds."""

import re
from pathlib import Path

from scheduler.core.units import AcceleratorKind
from scheduler.devices.discovery.attributes import Attributes, entries, printable, read_bounded
from scheduler.devices.discovery.inventory import Host
from scheduler.devices.discovery.qat import driver_of
from scheduler.devices.discovery.roots import Roots

_INTEL = 0x8086
_DSA, _IAA, _QAT = AcceleratorKind.DSA, AcceleratorKind.IAA, AcceleratorKind.QAT
#: PCI device numbers of Intel's accelerators, as the kernel's drivers list them.
_NUMBERS = {
    **dict.fromkeys((0x0B25, 0x11FB, 0x1212), _DSA),
    **dict.fromkeys((0x0CFE, 0x1216, 0xB02D), _IAA),
    **dict.fromkeys((0x0435, 0x19E2, 0x37C8, 0x4940, 0x4942, 0x4944, 0x4946, 0x4948), _QAT),
}
_VERSION = re.compile(r"([0-9]{1,4})\.([0-9]{1,4})(?:\.([0-9]{1,6}))?")
_CAPABILITIES = re.compile(r"^CapEff:\s*([0-9a-fA-F]{1,16})\s*$", re.MULTILINE)
_SYS_RAWIO = 17


def look_at_host(roots: Roots) -> Host:
    """What can be known; what cannot be read is None or false."""
    kernel = _text(roots.proc / "sys/kernel/osrelease").strip()
    version = _VERSION.match(kernel)
    iommu = _iommu_settings(_text(roots.proc / "cmdline"))
    return Host(
        kernel=printable(kernel, 80) or None,
        kernel_version=None if version is None else (int(version[1]), int(version[2]), int(version[3] or 0)),
        iommu_on="on" in iommu,
        scalable_mode="sm_on" in iommu,
        may_map_portals=_may_map_portals(_text(roots.proc / "self/status")),
        unbound=_unbound(roots.sysfs / "bus/pci/devices"),
    )


def _text(path: Path) -> str:
    try:
        return read_bounded(path).decode("utf-8", "replace")
    except OSError:
        return ""


def _iommu_settings(command_line: str) -> set[str]:
    words = (word.partition("=") for word in command_line.split())
    return {setting for name, _, value in words if name == "intel_iommu" for setting in value.split(",")}


def _may_map_portals(status: str) -> bool:
    found = _CAPABILITIES.search(status)
    return found is not None and bool(int(found[1], 16) >> _SYS_RAWIO & 1)


def _unbound(devices: Path) -> tuple[tuple[AcceleratorKind, str], ...]:
    found = []
    for address in entries(devices):
        read = Attributes(devices / address, address, [])
        if read.whole("vendor", 0, 0xFFFF) != _INTEL:
            continue
        kind = _NUMBERS.get(read.whole("device", 0, 0xFFFF) or 0)
        if kind is not None and driver_of(devices / address) is None:
            found.append((kind, printable(address)))
    return tuple(found)
