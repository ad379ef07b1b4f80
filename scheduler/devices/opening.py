"""From what an agent tells its workers of a device to the device itself, in the process that will use it.

Descriptors name memory of whoever submits them, and files of devices are not for other processes than the one that
opened them: so an agent hands out addresses, and each thread of a worker opens for itself. An emulated device stands
where the hardware would: the binding to DSA, libqpl or QATzip is the real one, below it is a peer or a stand-in library
that asks the emulated device's process. Without a C compiler there are no stand-in libraries: an emulated IAA is used
as it is, a QAT not at all, because what goes around its streams is QATzip's work.
"""

import ctypes
import functools
import itertools
import os
from collections.abc import Mapping
from pathlib import Path

from scheduler.devices.address import DeviceAddress
from scheduler.devices.device import Device, DeviceUnavailable
from scheduler.devices.dsa.device import DsaDevice
from scheduler.devices.dsa.peer import open_dsa_on_emulated
from scheduler.devices.emulated.client import EmulatedDevice
from scheduler.devices.iaa.device import open_iaa
from scheduler.devices.iaa.emulated import open_iaa_on_emulated
from scheduler.devices.iaa.libqpl import Library
from scheduler.devices.presets import COSTS
from scheduler.devices.qat.device import open_qat, open_qat_on_emulated
from scheduler.devices.qat.libqatzip import GZIP_EXTENDED, Form, QatZip
from scheduler.devices.stand_ins.build import build

#: The stand-in library of a kind; DSA's peer is Python.
_STAND_INS = {"iaa": "libqpl", "qat": "libqatzip"}
#: Where stand-ins are compiled to, instead of the user's cache.
STAND_INS_VARIABLE = "KUAKA_STAND_INS"

_turns = itertools.count()


def open_device(address: DeviceAddress, memory_bytes: int, qat_form: Form = GZIP_EXTENDED) -> Device:
    """The device, for the calling thread. Raises `DeviceDown`, `DeviceUnavailable` for what will not come."""
    if address.emulated:
        return _open_emulated(address, Path(address.paths[0]), memory_bytes, qat_form)
    if (cost := COSTS.get(address.kind)) is None:
        raise DeviceUnavailable(f"device of kind {address.kind}: this kuaka knows {', '.join(COSTS)}")
    slots = address.slots
    match address.kind:
        case "dsa":
            # Threads spread over the queues; each queue takes what its own threshold allows.
            path = Path(address.paths[next(_turns) % len(address.paths)])
            return DsaDevice.open(path, memory_bytes, max(1, slots // len(address.paths)), cost)
        case "iaa":
            return open_iaa(memory_bytes, cost=cost, slots=slots, numa_node=address.numa_node)
        case _:
            numa_node = max(0, address.numa_node)
            return open_qat(memory_bytes, cost=cost, slots=slots, numa_node=numa_node, form=qat_form)


def stand_in_for(kind: str, environment: Mapping[str, str] = os.environ) -> str | None:
    """The stand-in library for an emulated device of this kind, compiled unless it is there; None: there is none.

    Raises `StandInError` in one line where there is one that cannot be compiled.
    """
    name = _STAND_INS.get(kind)
    return None if name is None else str(build(name, stand_ins_directory(environment)))


def stand_ins_directory(environment: Mapping[str, str] = os.environ) -> Path:
    """Where stand-in libraries are kept."""
    if chosen := environment.get(STAND_INS_VARIABLE):
        return Path(chosen)
    cache = environment.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(cache) / "kuaka" / "stand-ins"


def _open_emulated(address: DeviceAddress, socket: Path, memory_bytes: int, qat_form: Form) -> Device:
    if address.kind == "dsa":
        return open_dsa_on_emulated(socket, memory_bytes)
    if address.stand_in is None:
        if address.kind == "qat":
            raise DeviceUnavailable(
                "an emulated QAT is used by its stand-in library: install a C compiler (gcc and libc6-dev)"
            )
        return EmulatedDevice.open(socket, memory_bytes)
    if address.kind == "iaa":
        return open_iaa_on_emulated(_libqpl(address.stand_in), socket, memory_bytes)
    return open_qat_on_emulated(_libqatzip(address.stand_in), socket, memory_bytes, form=qat_form)


@functools.cache
def _libqpl(path: str) -> Library:
    # Its calls give up the interpreter's lock: they may wait for the device.
    return Library(path, functools.partial(ctypes.CDLL, use_errno=True))


@functools.cache
def _libqatzip(path: str) -> QatZip:
    return QatZip(path)
