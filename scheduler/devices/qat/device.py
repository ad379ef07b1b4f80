"""QAT as a device: whole packets in one job each, both ways, in members that hardware, zlib and igzip can all read.

What differs from the other devices: a job is up to a packet (QATzip cuts it into members, of 64 KiB or of a page, and
has up to 32 of them in flight), its stream is gzip-extended with a 32 KiB window or a row of raw ones of a page each
(`libqatzip.Form`), and there is no busy answer: QATzip itself tries again. A thread that gets no instance of the
hardware at a call is told so by a PAGE_FAULT: the caller does that one.

Hardware or nothing: sessions have no software backup, and one whose state is not that of hardware is never used.
QATzip's software is a third as fast as the caller's own, and nothing tells reliably which of the two ran.
"""

import os
import threading
import weakref
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from scheduler.devices.cost import CostModel, OperationCost
from scheduler.devices.device import DESCRIPTOR, MAX_DESCRIPTORS, Descriptors, DeviceDown, Operation, Status
from scheduler.devices.qat.libqatzip import (
    GZIP_EXTENDED,
    LEAST_INPUT_BYTES,
    LIBRARY_VARIABLE,
    Form,
    QatZip,
    load_qatzip,
)
from scheduler.devices.qat.session import Job, SessionThread

#: One device of the fourth generation, as examples/devices/qat.yaml has it; per member of 64 KiB.
QAT_COST = CostModel(
    {operation: OperationCost(28_000, 711) for operation in (Operation.COMPRESS, Operation.DECOMPRESS)}
)
QAT_SLOTS = 64

_loading = threading.Lock()
_loaded: dict[str, QatZip] = {}


class QatDevice:
    """See the module and `scheduler.devices.device.Device`. For one thread; not for a process that was forked since."""

    def __init__(self, session: SessionThread, cost: CostModel, slots: int) -> None:
        self._session = session
        self._cost = cost
        self._slots = slots
        self._owner = os.getpid()
        # Who forgets to close it has no thread left behind.
        self._forgotten = weakref.finalize(self, session.leave)
        self._forgotten.atexit = False

    @property
    def slots(self) -> int:
        return self._slots

    @property
    def cost(self) -> CostModel:
        return self._cost

    @property
    def memory(self) -> NDArray[np.uint8]:
        return self._session.memory

    @property
    def status(self) -> NDArray[np.uint8]:
        return self._session.status

    @property
    def output_bytes(self) -> NDArray[np.uint32]:
        return self._session.output_bytes

    def submit(self, operation: Operation, descriptors: Descriptors, first: int = 0) -> int:
        count = len(descriptors)
        if descriptors.dtype != DESCRIPTOR or not 0 < count <= MAX_DESCRIPTORS - first or first < 0:
            raise ValueError(f"{count} descriptors of {descriptors.dtype} from record {first}")
        if not self._cost.supports(operation):
            raise ValueError(f"this device does not {operation.name.lower()}")
        self._check_ranges(descriptors)
        if operation is Operation.COMPRESS and int(descriptors["source_bytes"].min()) < LEAST_INPUT_BYTES:
            raise ValueError(f"a source of less than {LEAST_INPUT_BYTES} bytes, which QATzip keeps from the hardware")
        if os.getpid() != self._owner:
            raise DeviceDown("the QAT session was opened before this process was forked")
        taken = min(count, self._slots - self._session.in_flight)
        if taken <= 0:
            return 0
        self.status[first : first + taken] = Status.PENDING
        rows = descriptors[:taken].tolist()
        self._session.submit([Job(operation, first + index, *row) for index, row in enumerate(rows)])
        return taken

    def wait(self, timeout_ns: int) -> bool:
        return self._session.wait(timeout_ns / 1e9)

    def close(self) -> None:
        self._forgotten.detach()
        self._session.end()

    def _check_ranges(self, descriptors: Descriptors) -> None:
        for place, size in (("source", "source_bytes"), ("destination", "capacity_bytes")):
            # Two 32-bit numbers: their sum needs the wider type.
            if int((descriptors[place].astype(np.int64) + descriptors[size]).max()) > len(self.memory):
                raise ValueError(f"a {place} beyond the {len(self.memory)} bytes of memory")
            # QATzip calls a stream of nothing a success, and room for nothing a bad parameter.
            if not descriptors[size].all():
                raise ValueError(f"a {place} of no bytes")


def open_qat(
    memory_bytes: int,
    *,
    cost: CostModel = QAT_COST,
    slots: int = QAT_SLOTS,
    numa_node: int = 0,
    form: Form = GZIP_EXTENDED,
    library: QatZip | None = None,
    prepare: Callable[[QatZip], None] | None = None,
) -> QatDevice:
    """A session with the host's QAT. Raises `DeviceUnavailable` where it has none to give, `DeviceDown`."""
    if memory_bytes < 1:
        raise ValueError(f"a device with {memory_bytes} bytes of memory")
    session = SessionThread(library or _system_library(), memory_bytes, prepare, numa_node, form)
    return QatDevice(session, cost, slots)


def open_qat_on_emulated(
    library: QatZip,
    socket: Path,
    memory_bytes: int,
    *,
    cost: CostModel = QAT_COST,
    slots: int = QAT_SLOTS,
    form: Form = GZIP_EXTENDED,
) -> QatDevice:
    """A session of a stand-in library (`scheduler.devices.stand_ins`), the emulated device at `socket` its hardware."""

    def connect(stand_in: QatZip) -> None:
        result = stand_in.library.kuaka_stand_in_connect(os.fsencode(socket))
        if result:
            raise DeviceDown(f"device at {socket} does not answer: {os.strerror(-result)}")

    return open_qat(memory_bytes, cost=cost, slots=slots, form=form, library=library, prepare=connect)


def _system_library() -> QatZip:
    name = os.environ.get(LIBRARY_VARIABLE, "")
    with _loading:
        if name not in _loaded:
            _loaded[name] = load_qatzip()
        return _loaded[name]
