"""One QATzip session, in a thread of its own.

A call of QATzip returns when the hardware is done, however long that takes; no wait here may be without a bound. So the
calls are made by a thread that exists for nothing else, and its user waits for it as long as it likes. When that is too
long the thread is abandoned: it keeps the memory that the hardware may still write to, and if its call ever returns it
gives everything back. A process has at most `MAX_ABANDONED` of them; beyond that no session is opened. A session is set
up, used and torn down in its one thread, as QATzip wants it.

Handing a packet of 512 KiB over and back costs 110 us of CPU time, the copy included; igzip takes 1000.
"""

import ctypes
import queue
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scheduler.devices.device import MAX_DESCRIPTORS, DeviceDown, DeviceUnavailable, Operation, Status
from scheduler.devices.qat.codes import Code, status_of, why_no_hardware
from scheduler.devices.qat.libqatzip import HW_BUFFER_BYTES, Form, QatZip, Session

#: Longest that opening may take: the library attaches the process to its devices by a daemon.
OPEN_S = 1.0
#: Longest that ending waits for a thread that has nothing in flight.
_END_S = 1.0
#: Threads of a process that may be stuck in a call: they hold memory, and hardware that does not answer is tried again.
MAX_ABANDONED = 4
#: Calls in a row without a result after which the device has gone.
_FAILURES = 4
#: Room behind the memory: hardware fills a member into its place before anybody compares it with the room there was.
_SLACK_BYTES = 2 * HW_BUFFER_BYTES

# Entered again where a device is collected while its own thread counts them.
_abandoned_lock = threading.RLock()
_abandoned: list[threading.Thread] = []


@dataclass(frozen=True, slots=True)
class Job:
    """One call; `record` is the index of its completion record, the rest are bytes of the memory."""

    operation: Operation
    record: int
    source: int
    source_bytes: int
    destination: int
    capacity_bytes: int


class SessionThread:
    """See the module. `status`, `output_bytes` and `memory` are the device's."""

    def __init__(
        self,
        library: QatZip,
        memory_bytes: int,
        prepare: Callable[[QatZip], None] | None,
        numa_node: int,
        form: Form,
    ) -> None:
        """`prepare` runs in the thread before the session is opened. Raises `DeviceDown`, `DeviceUnavailable`."""
        self.status = np.zeros(MAX_DESCRIPTORS, dtype=np.uint8)
        self.output_bytes = np.zeros(MAX_DESCRIPTORS, dtype=np.uint32)
        self.memory: NDArray[np.uint8] = np.zeros(0, dtype=np.uint8)
        self._library = library
        self._form = form
        self._session = Session()
        self._address = 0
        self._jobs: queue.SimpleQueue[list[Job] | None] = queue.SimpleQueue()
        self._changed = threading.Condition()
        self._opened = False
        self._ended = False
        self._in_flight = 0
        self._failures = 0
        self._down: DeviceDown | None = None
        if _still_abandoned() >= MAX_ABANDONED:
            raise DeviceDown(f"QATzip has {MAX_ABANDONED} calls that do not return")
        library.claim(form)
        self._thread = threading.Thread(
            target=self._live, args=(memory_bytes, prepare, numa_node), name="kuaka-qat", daemon=True
        )
        self._thread.start()
        self._await_opened()

    @property
    def in_flight(self) -> int:
        """Jobs that are not complete."""
        return self._in_flight

    def submit(self, jobs: list[Job]) -> None:
        """Hand jobs over; their records must be PENDING. Raises `DeviceDown`."""
        with self._changed:
            self._check()
            self._in_flight += len(jobs)
        self._jobs.put(jobs)

    def wait(self, timeout_s: float) -> bool:
        """Whether nothing is in flight, at the latest after so long. Raises `DeviceDown`."""
        with self._changed:
            settled = self._changed.wait_for(lambda: not self._in_flight or self._down is not None, timeout_s)
            self._check()
            return settled

    def end(self) -> None:
        """Give the session up; with something in flight the thread is left to itself."""
        self.leave()
        if not self._in_flight:
            self._thread.join(_END_S)

    def leave(self) -> None:
        """Give the session up without waiting for anything."""
        with self._changed:
            self._ended = True
        self._jobs.put(None)
        with _abandoned_lock:
            _abandoned.append(self._thread)

    def _check(self) -> None:
        self._check_up()
        if self._ended:
            raise DeviceDown("the device was closed")

    def _check_up(self) -> None:
        if self._down is not None:
            # A new one each time: an exception keeps the frames that it went through, and with them the memory.
            raise type(self._down)(*self._down.args)

    def _await_opened(self) -> None:
        with self._changed:
            in_time = self._changed.wait_for(lambda: self._opened or self._down is not None, OPEN_S)
            self._ended = not in_time or self._down is not None
        self._check_up()
        if not in_time:
            self.leave()
            raise DeviceDown(f"QATzip does not come up within {OPEN_S:g} s")

    # In the thread.

    def _live(self, memory_bytes: int, prepare: Callable[[QatZip], None] | None, numa_node: int) -> None:
        try:
            if prepare is not None:
                prepare(self._library)
            self._open(memory_bytes, numa_node)
        except DeviceDown as down:
            self._library.end(self._session)
            self._give_up(down)
            return
        with self._changed:
            self._opened = True
            self._changed.notify_all()
        while (jobs := self._jobs.get()) is not None:
            for job in jobs:
                if self._ended or self._down is not None:
                    break
                self._do(job)
        self._library.end(self._session)

    def _open(self, memory_bytes: int, numa_node: int) -> None:
        for call in (self._library.init, self._setup):
            result = call(self._session)
            why = why_no_hardware(result, self._session.hw_session_stat)
            if why is not None:
                raise DeviceUnavailable(why)
        self._address = self._library.allocate(memory_bytes + _SLACK_BYTES, numa_node)
        if not self._address:
            raise DeviceUnavailable(f"QATzip has no {memory_bytes} bytes of memory: raise the limit of locked memory")
        # Touched, so that no copy into it meets a page that is not there.
        ctypes.memset(self._address, 0, memory_bytes + _SLACK_BYTES)
        owner = (ctypes.c_uint8 * memory_bytes).from_address(self._address)
        # Freed with the last view of it. This object holds one, and the thread holds this object.
        freeing = weakref.finalize(owner, self._library.free, self._address)
        freeing.atexit = False
        self.memory = np.frombuffer(memoryview(owner), dtype=np.uint8)

    def _setup(self, session: Session) -> int:
        return self._library.setup(session, self._form)

    def _do(self, job: Job) -> None:
        call = self._library.compress if job.operation is Operation.COMPRESS else self._library.decompress
        result, read, written, by_software = call(
            self._session,
            self._address + job.source,
            job.source_bytes,
            self._address + job.destination,
            job.capacity_bytes,
        )
        status = status_of(job.operation, result, self._session.hw_session_stat)
        if by_software:
            status = None
        elif status is Status.OK and (read != job.source_bytes or written > job.capacity_bytes):
            status = Status.FAILED
        self._failures = 0 if status in (Status.OK, Status.OVERFLOW) else self._failures + 1
        if status is None or (self._failures >= _FAILURES and result != Code.DATA_ERROR):
            self._give_up(DeviceDown(f"QATzip's last result was {result}{', by software' if by_software else ''}"))
            return
        with self._changed:
            if not self._ended:
                self.output_bytes[job.record] = written if status is Status.OK else 0
                self.status[job.record] = status
            self._in_flight -= 1
            if not self._in_flight:
                self._changed.notify_all()

    def _give_up(self, down: DeviceDown) -> None:
        with self._changed:
            self._down = down
            self._changed.notify_all()


def _still_abandoned() -> int:
    """Threads that were left and have not ended."""
    with _abandoned_lock:
        _abandoned[:] = [thread for thread in _abandoned if thread.is_alive()]
        return len(_abandoned)
