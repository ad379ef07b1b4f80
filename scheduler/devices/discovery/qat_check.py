"""What keeps QAT from use: a device that is down, services without compression, no instances, the daemon's socket."""

from collections.abc import Iterator

from scheduler.core.units import AcceleratorKind
from scheduler.devices.discovery.findings import Finding, Weight, bad_value
from scheduler.devices.discovery.inventory import Inventory, QatDevice, Qatmgr

_QAT = AcceleratorKind.QAT


def check_qat(inventory: Inventory, weight: Weight) -> Iterator[Finding]:
    """Findings of a host that has QAT devices; `weight` is that of what keeps one of several from use."""
    yield from _check_daemon(inventory.qatmgr)
    for device in inventory.qat:
        yield from _check_device(device, weight)


def _check_daemon(qatmgr: Qatmgr) -> Iterator[Finding]:
    where = (str(qatmgr.socket),)
    if not qatmgr.present:
        what = "qatmgr, which hands out instances, does not run"
        yield Finding("qatmgr", _QAT, Weight.BLOCKS, where, what, "systemctl enable --now qat")
    elif not qatmgr.permitted:
        what = "this process may not talk to qatmgr"
        yield Finding(
            "qatmgr-permission", _QAT, Weight.BLOCKS, where, what, "join the group that owns the socket (qat)"
        )
    for problem in qatmgr.problems:
        yield bad_value(problem, _QAT)


def _check_device(device: QatDevice, weight: Weight) -> Iterator[Finding]:
    where = (device.address,)
    for problem in device.problems:
        yield bad_value(problem, _QAT)
    if device.state != "up":
        what = f"the device is {device.state or 'in a state that cannot be read'}"
        yield Finding(
            "device-disabled", _QAT, weight, where, what, "systemctl restart qat, or write up to its qat/state"
        )
    if not device.compresses:
        what = f"its services are {', '.join(device.services or ()) or 'none'}, without compression"
        remedy = "write ServicesEnabled=dc to /etc/sysconfig/qat and restart qat"
        yield Finding("no-compression", _QAT, weight, where, what, remedy)
    if device.functions == 0:
        what = "it has no virtual functions, where instances live"
        yield Finding("no-functions", _QAT, weight, where, what, "systemctl restart qat makes them")
