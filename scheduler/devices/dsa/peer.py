"""An idxd queue without hardware: a FIFO in the place of its device file, and a thread that does what it reads there.

The device object opens the FIFO by its path and writes descriptors to it, as to /dev/dsa/wq0.0; the kernel's side of
such a write is `kernel_write`. The thread reads them and has an `Execution` do them on this process's own memory:
the real one shares the address space too. The queue is full when its slots are taken by what is in the FIFO, in the
thread's hands and, where an emulated device is behind it, in that one's queue by anybody.

The peer lives as long as the device object: the end of the FIFO ends the thread, and closing the object waits for that
as it waits for a real queue's drain. When the emulated device goes, the FIFO loses its reader and the next submission
is refused; what was in flight stays PENDING, as it does with hardware.
"""

import fcntl
import os
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from scheduler.devices.cost import CostModel, OperationCost
from scheduler.devices.device import MAX_DESCRIPTORS, DeviceDown, DeviceUnavailable, Operation
from scheduler.devices.dsa.descriptors import DESCRIPTOR_BYTES, DSA_DESCRIPTOR
from scheduler.devices.dsa.device import DsaDevice
from scheduler.devices.dsa.draining import check_room
from scheduler.devices.dsa.execution import DirectExecution, Disturbances, EmulatedExecution, Execution, PeerMemory
from scheduler.devices.dsa.forks import close_in_children
from scheduler.devices.dsa.kernel_write import KernelWrite
from scheduler.devices.dsa.memory import prefaulted
from scheduler.devices.dsa.submission import DescriptorRows, WritePort
from scheduler.devices.emulated.client import EmulatedDevice
from scheduler.devices.emulated.schedule import PER_MILLION

#: Of a peer without an emulated device; it takes no time at all, and something must be said of it.
_INSTANT_SLOTS = 128
_INSTANT = CostModel({Operation.ZERO_SCAN: OperationCost(1, 1)})


class PeerPort:
    """A `Port` whose other end is a peer; `start` it when the memory is known."""

    def __init__(self, slots: int, execution: Execution, disturbances: Disturbances) -> None:
        self._execution = execution
        self._ended = threading.Event()
        with tempfile.TemporaryDirectory(prefix="kuaka-dsa-") as folder:
            path = Path(folder) / "wq0.0"
            os.mkfifo(path, 0o600)
            # Without a reader the other end could not be opened; without one that waits, this one could not.
            self._fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            self._port = WritePort(path, KernelWrite(_room(slots, execution, disturbances)))
        os.set_blocking(self._fd, True)
        fcntl.fcntl(self._fd, fcntl.F_SETPIPE_SZ, min(slots, MAX_DESCRIPTORS) * DESCRIPTOR_BYTES)
        self._in_children = _InChildren(self._fd, execution)

    def start(self, memory: PeerMemory) -> None:
        """Begin to read; nothing may have been submitted."""
        self._thread = threading.Thread(target=self._serve, args=(memory,), name="dsa-peer", daemon=True)
        self._thread.start()

    def submit(self, descriptors: DescriptorRows) -> int:
        return self._port.submit(descriptors)

    def close(self) -> None:
        self._ended.set()
        self._port.close()
        self._thread.join()

    def _serve(self, memory: PeerMemory) -> None:
        try:
            while batch := os.read(self._fd, MAX_DESCRIPTORS * DESCRIPTOR_BYTES):
                self._execution.execute(np.frombuffer(batch, dtype=DSA_DESCRIPTOR), memory, self._ended)
        except (DeviceDown, ValueError):
            # The emulated device has gone, or somebody else wrote to the FIFO: it ends either way.
            pass
        finally:
            self._in_children.close()


class _InChildren:
    """The files of a peer, closed by its thread or, in a forked child, which has no such thread, by the fork."""

    def __init__(self, fd: int, execution: Execution) -> None:
        self._fd = fd
        self._execution = execution
        close_in_children(self)

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
            self._execution.close()


def open_dsa_on_emulated(path: Path, memory_bytes: int) -> DsaDevice:
    """The real binding on a peer at the pace of the emulated device at this socket. Raises `DeviceDown`."""
    device = EmulatedDevice.open(path, memory_bytes)
    if not device.cost.supports(Operation.ZERO_SCAN):
        device.close()
        raise DeviceUnavailable(f"{path}: the device does no zero scan: name one that is a dsa")
    memory = device.memory
    # The device's process made it: every page of it is touched here too before a descriptor names it.
    memory[:: os.sysconf("SC_PAGESIZE")] = 0
    return open_dsa_on(EmulatedExecution(device), memory, device.slots, device.cost)


def open_dsa_on_peer(
    memory_bytes: int, disturbances: Disturbances | None = None, slots: int = _INSTANT_SLOTS
) -> DsaDevice:
    """The real binding on a peer that takes no time, with seeded trouble. Raises `DeviceDown`."""
    execution = DirectExecution(disturbances or Disturbances())
    return open_dsa_on(execution, prefaulted(memory_bytes), slots, _INSTANT, disturbances)


def open_dsa_on(
    execution: Execution,
    memory: NDArray[np.uint8],
    slots: int,
    cost: CostModel,
    disturbances: Disturbances | None = None,
) -> DsaDevice:
    """The real binding on a peer with this execution, which ends with it. Raises `DeviceDown`."""
    try:
        check_room()
    except DeviceDown:
        execution.close()
        raise
    port = PeerPort(slots, execution, disturbances or Disturbances())
    device = DsaDevice(port, memory, slots, cost)
    port.start(PeerMemory(memory, device.records))
    return device


def _room(slots: int, execution: Execution, disturbances: Disturbances) -> Callable[[int, int], int]:
    """How many of `wanted` descriptors the queue takes after `written` ones: what is free, up to a busy answer."""
    generator = np.random.default_rng((disturbances.seed, 0))

    def room(wanted: int, written: int) -> int:
        free = min(wanted, max(0, slots - execution.occupancy - (written - execution.taken)))
        busy = np.flatnonzero(generator.integers(0, PER_MILLION, free) < disturbances.busy_per_million)
        return int(busy[0]) if len(busy) else free

    return room
