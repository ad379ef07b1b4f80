"""IAA for machines without it: the binding as it is, over a libqpl of ours that asks an emulated device."""

import ctypes
import os
from contextlib import closing
from functools import partial
from pathlib import Path

from scheduler.devices.device import DeviceDown, DeviceUnavailable
from scheduler.devices.emulated.client import DeviceObserver
from scheduler.devices.iaa.device import IaaDevice, open_iaa
from scheduler.devices.iaa.libqpl import Library
from scheduler.devices.stand_ins.build import StandInError, build


def load_stand_in(directory: Path) -> Library:
    """The stand-in, compiled into `directory` unless it is there; raises `DeviceUnavailable`.

    Its calls give up the interpreter's lock: they may wait for the device.
    """
    try:
        path = build("libqpl", directory)
    except StandInError as error:
        raise DeviceUnavailable(str(error)) from None
    return Library(str(path), partial(ctypes.CDLL, use_errno=True))


def open_iaa_on_emulated(library: Library, socket: Path, memory_bytes: int, *, verify: bool = False) -> IaaDevice:
    """A device for the calling thread, by the stand-in `library`, the emulated device at `socket` its hardware.

    What a descriptor costs and how long the queue is, the emulated device says. Raises `DeviceDown`.
    """
    with closing(DeviceObserver(socket)) as observer:
        welcome = observer.welcome
    connect = library.handle.kuaka_stand_in_connect
    connect.argtypes = (ctypes.c_char_p,)
    if connect(os.fsencode(socket)):
        raise DeviceDown(f"device at {socket} does not answer: {os.strerror(ctypes.get_errno())}")
    return open_iaa(
        memory_bytes,
        cost=welcome.cost,
        slots=welcome.slots,
        verify=verify,
        library=library,
        closed=partial(connect, None),
    )
