"""IAA as a `Device`: one asynchronous libqpl job per descriptor, on the hardware path, each with fixed Huffman codes.

What a job's end is called here stands in `libqpl.statuses`. A queue that is busy ends a submission at that
descriptor. The wait polls, with sleeps that grow from 20 us to 0.5 ms, because `qpl_wait_job` spins without end; a job
that outlives the wait keeps its memory (`jobs.py`), and whoever waited closes the device.

Compression runs without verification (`verify`): it is a second descriptor per page, twice the device's time, and every
page is checked end to end anyway. An output that does not fit is libqpl's code 2, never a stored block made by this
thread's CPU, as long as the room is smaller than the page.

IAA has 4 KiB of history, and says 217 for streams that reach further back: those are FAILED, and the CPU's. A stream is
decoded up to its final block; what follows it is not read.
"""

import time
import zlib
from collections.abc import Callable
from itertools import takewhile
from operator import length_hint

import numpy as np
from numpy.typing import NDArray

from scheduler.devices.cost import CostModel, OperationCost
from scheduler.devices.device import (
    DESCRIPTOR,
    MAX_DESCRIPTORS,
    Descriptors,
    DeviceDown,
    DeviceUnavailable,
    Operation,
    Status,
)
from scheduler.devices.iaa.jobs import MOST_JOBS, JobPool
from scheduler.devices.iaa.libqpl import (
    BEING_PROCESSED,
    FLAG_FIRST,
    FLAG_LAST,
    FLAG_OMIT_VERIFY,
    INITIALISATION_ERRORS,
    JOB_REQUEST,
    OP_OF,
    QUEUES_ARE_BUSY,
    Library,
    Path,
    statuses,
    system_library,
)

#: One device, as examples/devices/iaa.yaml has it.
IAA_COST = CostModel(
    {Operation.COMPRESS: OperationCost(500, 495), Operation.DECOMPRESS: OperationCost(100, 67)},
)
IAA_SLOTS = 128
#: The socket of the calling thread; a node's number where a pool is one node's.
ANY_OF_SOCKET = -1
_FIRST_SLEEP_NS = 20_000
_LAST_SLEEP_NS = 500_000
#: The page of the self-test; far longer than it needs on a busy queue.
_TEST_BYTES = 4096
_TEST_WAIT_NS = 100_000_000


class IaaDevice:
    """See `scheduler.devices.device.Device`. `closed` is called once, after the last look at the jobs."""

    def __init__(
        self,
        library: Library,
        jobs: JobPool,
        cost: CostModel,
        *,
        clock: Callable[[], int] = time.monotonic_ns,
        sleep: Callable[[float], None] = time.sleep,
        closed: Callable[[], None] | None = None,
    ) -> None:
        self._library = library
        self._jobs = jobs
        self._cost = cost
        self._clock = clock
        self._sleep = sleep
        self._closed = closed
        self._open = True
        self._status = np.zeros(MAX_DESCRIPTORS, dtype=np.uint8)
        self._output_bytes = np.zeros(MAX_DESCRIPTORS, dtype=np.uint32)
        count = len(jobs.addresses)
        #: Jobs used since nothing was in flight, and of these, those whose end has not been seen.
        self._used = 0
        self._pending: list[int] = []
        #: Of each job: its record, and its `Operation`.
        self._records = np.zeros(count, dtype=np.intp)
        self._operations = np.zeros(count, dtype=np.uint8)
        self._prepared = np.zeros(count, dtype=JOB_REQUEST)

    @property
    def slots(self) -> int:
        return len(self._jobs.addresses)

    @property
    def cost(self) -> CostModel:
        return self._cost

    @property
    def memory(self) -> NDArray[np.uint8]:
        return self._jobs.memory

    @property
    def status(self) -> NDArray[np.uint8]:
        return self._status

    @property
    def output_bytes(self) -> NDArray[np.uint32]:
        return self._output_bytes

    def submit(self, operation: Operation, descriptors: Descriptors, first: int = 0) -> int:
        count = len(descriptors)
        if descriptors.dtype != DESCRIPTOR or not 0 < count <= MAX_DESCRIPTORS - first or first < 0:
            raise ValueError(f"{count} descriptors of {descriptors.dtype} from record {first}")
        if operation not in OP_OF or not self._cost.supports(operation):
            raise ValueError(f"this device does not {operation.name.lower()}")
        self._check_ranges(descriptors)
        if not self._open:
            raise DeviceDown("the device was closed")
        self._status[first : first + count] = Status.PENDING
        start = self._used
        stop = min(start + count, self.slots)
        if stop == start:
            return 0
        self._prepare(operation, descriptors[: stop - start], start)
        self._records[start:stop] = np.arange(first, first + stop - start)
        self._operations[start:stop] = operation
        return self._submit(start, stop)

    def wait(self, timeout_ns: int) -> bool:
        deadline_ns = self._clock() + timeout_ns
        sleep_ns = _FIRST_SLEEP_NS
        while True:
            if not self._open:
                raise DeviceDown("the device was closed")
            self._look(takewhile(BEING_PROCESSED.__ne__, self._codes()))
            if not self._pending:
                return True
            left_ns = deadline_ns - self._clock()
            if left_ns <= 0:
                # Behind the one that everything waited for, others may have ended.
                self._look(self._codes())
                return not self._pending
            self._sleep(min(sleep_ns, left_ns) / 1e9)
            sleep_ns = min(2 * sleep_ns, _LAST_SLEEP_NS)

    def close(self) -> None:
        if not self._open:
            return
        self._open = False
        if self._closed is not None:
            self._closed()
        self._jobs.close([self._jobs.addresses[job] for job in self._pending])

    def _check_ranges(self, descriptors: Descriptors) -> None:
        # The device would write wherever it is told to. Two 32-bit numbers: their sum needs the wider type.
        size = len(self.memory)
        if int((descriptors["source"].astype(np.int64) + descriptors["source_bytes"]).max()) > size:
            raise ValueError(f"a source beyond the {size} bytes of memory")
        if int((descriptors["destination"].astype(np.int64) + descriptors["capacity_bytes"]).max()) > size:
            raise ValueError(f"a destination beyond the {size} bytes of memory")

    def _prepare(self, operation: Operation, descriptors: Descriptors, start: int) -> None:
        stop = start + len(descriptors)
        rows, base = self._prepared[start:stop], self._jobs.memory_address
        np.add(descriptors["source"], base, out=rows["next_in_ptr"], dtype=np.uint64)
        rows["available_in"] = descriptors["source_bytes"]
        np.add(descriptors["destination"], base, out=rows["next_out_ptr"], dtype=np.uint64)
        rows["available_out"] = descriptors["capacity_bytes"]
        rows["op"] = OP_OF[operation]
        # The heads lie far apart: each is touched once.
        self._jobs.requests[start:stop] = rows

    def _submit(self, start: int, stop: int) -> int:
        self._jobs.hold()
        addresses = iter(self._jobs.addresses[start:stop])
        accepted, refused = stop - start, list[tuple[int, int]]()
        # Submits without a line of Python for each: only codes other than OK come out.
        for code in filter(None, map(self._library.submit, addresses)):
            at = stop - length_hint(addresses) - 1
            if code == QUEUES_ARE_BUSY:
                accepted = at - start
                break
            if code >= INITIALISATION_ERRORS:
                self._take(start, at, refused)
                raise DeviceUnavailable(f"IAA: libqpl has no work queue any more (code {code})")
            refused.append((at, code))
        self._take(start, start + accepted, refused)
        return accepted

    def _take(self, start: int, stop: int, refused: list[tuple[int, int]]) -> None:
        """Jobs from `start` on are in flight, but for those that ended with their submission."""
        self._used = stop
        self._pending += range(start, stop)
        if refused:
            jobs, codes = zip(*refused, strict=True)
            self._end(np.array(jobs), np.array(codes))
            self._pending = [job for job in self._pending if job not in jobs]
        self._settle()

    def _codes(self) -> "map[int]":
        addresses = self._jobs.addresses
        return map(self._library.check, [addresses[job] for job in self._pending])

    def _look(self, answers: "takewhile[int] | map[int]") -> None:
        """Take the ends that libqpl tells of the first pending jobs."""
        codes = np.fromiter(answers, dtype=np.int64)
        if not len(codes):
            return
        jobs = np.array(self._pending[: len(codes)])
        ended = codes != BEING_PROCESSED
        self._end(jobs[ended], codes[ended])
        self._pending = jobs[~ended].tolist() + self._pending[len(codes) :]
        self._settle()

    def _end(self, jobs: NDArray[np.intp], codes: NDArray[np.int64]) -> None:
        records = self._records[jobs]
        self._output_bytes[records] = self._jobs.heads["total_out"][jobs]
        self._status[records] = statuses(self._operations[jobs], codes)

    def _settle(self) -> None:
        if not self._pending:
            self._used = 0
            self._jobs.let_go()


def open_iaa(
    memory_bytes: int,
    *,
    cost: CostModel = IAA_COST,
    slots: int = IAA_SLOTS,
    numa_node: int = ANY_OF_SOCKET,
    verify: bool = False,
    path: Path = Path.HARDWARE,
    library: Library | None = None,
    closed: Callable[[], None] | None = None,
) -> IaaDevice:
    """A device with `memory_bytes` for one thread, on queues of `slots` entries in all. Raises `DeviceUnavailable`.

    The first one of a process submits a page of its own to see that libqpl's jobs are what they are taken for; where
    that page does not come back in time, `DeviceDown`.
    """
    library = library or system_library()
    flags = FLAG_FIRST | FLAG_LAST | (0 if verify else FLAG_OMIT_VERIFY)
    jobs = JobPool(library, path, min(slots, MOST_JOBS), max(memory_bytes, 2 * _TEST_BYTES), flags, numa_node)
    device = IaaDevice(library, jobs, cost, closed=closed)
    if not library.layout_verified and cost.supports(Operation.COMPRESS):
        try:
            library.layout_verified = _layout_holds(library, device, jobs)
        except DeviceDown:
            device.close()
            raise
    return device


def _layout_holds(library: Library, device: IaaDevice, jobs: JobPool) -> bool:
    """Compress a known page, and look where libqpl wrote what; False where queue or page fault left that unknown."""
    page = bytes(range(64)) * (_TEST_BYTES // 64)
    device.memory[:_TEST_BYTES] = np.frombuffer(page, dtype=np.uint8)
    descriptor = np.array([(0, _TEST_BYTES, _TEST_BYTES, _TEST_BYTES - 1)], dtype=DESCRIPTOR)
    if not device.submit(Operation.COMPRESS, descriptor):
        return False
    if not device.wait(_TEST_WAIT_NS):
        raise DeviceDown("IAA: the first job has not ended within 100 ms: look at the work queue")
    head, written = jobs.heads[0], int(device.output_bytes[0])
    if device.status[0] != Status.OK:
        return False
    stream = device.memory[_TEST_BYTES : _TEST_BYTES + written].tobytes()
    moved = int(head["next_out_ptr"]) - jobs.memory_address - _TEST_BYTES
    if (head["total_in"], moved, head["available_in"]) != (_TEST_BYTES, written, 0) or not _holds(stream, page):
        raise DeviceUnavailable(f"{library.name}: its jobs are not laid out as those of libqpl 1.6 on x86-64")
    return True


def _holds(stream: bytes, page: bytes) -> bool:
    try:
        return zlib.decompress(stream, -zlib.MAX_WBITS) == page
    except zlib.error:
        return False
