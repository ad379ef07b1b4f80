"""A pool of libqpl jobs: memory taken once, the heads of all jobs as one array, and memory that outlives its user.

A job is 190 KB on the hardware path, and libqpl clears most of it when it is made; so they are made once per device.
Their heads are rows of one strided array: a submission of 128 jobs writes seven fields of 128 rows at once.

A descriptor cannot be taken back: the device writes into a job's memory, and into the data its pointers name, until
that job ends. So a pool with jobs in flight is held by this module, whoever else forgets it, and one that was closed so
is looked at when the next one is made. What never ends keeps its memory, and after a few of these no more are made.
"""

import ctypes
import mmap
import threading

import numpy as np
from numpy.typing import NDArray

from scheduler.devices.device import DeviceUnavailable
from scheduler.devices.iaa.libqpl import BEING_PROCESSED, JOB, JOB_REQUEST, LEVEL, Library, Path

#: Jobs of one pool at most: 48 MB on the hardware path.
MOST_JOBS = 256
#: Pools that were closed with jobs in flight, of one process.
MOST_ABANDONED = 4
_LINE_BYTES = 64

#: Pools with jobs in flight.
_in_flight: set["JobPool"] = set()
#: Those of them that nobody uses any more, with the addresses of the jobs that had not ended.
_abandoned: dict["JobPool", list[int]] = {}
#: For the second: a job is one thread's at a time.
_lock = threading.Lock()


class JobPool:
    """`count` jobs of one path with `memory_bytes` of data for them. Raises `DeviceUnavailable`."""

    def __init__(self, library: Library, path: Path, count: int, memory_bytes: int, flags: int, numa_node: int) -> None:
        if not 1 <= count <= MOST_JOBS or memory_bytes < 1:
            raise ValueError(f"a pool of {count} jobs with {memory_bytes} bytes of memory")
        _reclaim()
        self._library = library
        stride = _stride(library.job_bytes(path))
        # libqpl clears a job when it is made, which brings its memory in. Data is brought in here: a device that meets
        # memory which is not there is slower than the CPU.
        self._job_memory = mmap.mmap(-1, stride * count)
        #: What descriptors name, (memory_bytes,).
        self.memory = np.frombuffer(
            mmap.mmap(
                -1, memory_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE
            ),
            dtype=np.uint8,
        )  # fmt: skip
        #: (count,) heads of the jobs.
        self.heads: NDArray[np.void] = np.ndarray((count,), JOB, self._job_memory, strides=(stride,))
        #: The same, as far as a submission writes them.
        self.requests: NDArray[np.void] = np.ndarray((count,), JOB_REQUEST, self._job_memory, strides=(stride,))
        start = ctypes.addressof(ctypes.c_char.from_buffer(self._job_memory))
        self.addresses = list(range(start, start + stride * count, stride))
        #: Where `memory` starts.
        self.memory_address = int(self.memory.ctypes.data)
        for address, head in zip(self.addresses, self.heads, strict=True):
            library.init(path, address, head)
        self.heads["level"] = LEVEL
        self.heads["flags"] = flags
        self.heads["numa_id"] = numa_node

    def hold(self) -> None:
        """Jobs are about to be in flight: this memory stays."""
        _in_flight.add(self)

    def let_go(self) -> None:
        """Nothing is in flight any more."""
        _in_flight.discard(self)

    def close(self, unfinished: list[int]) -> None:
        """End the pool, now or, where jobs at the addresses `unfinished` are in flight, when they have ended."""
        if unfinished:
            with _lock:
                _abandoned[self] = unfinished
        else:
            self._finish()

    def reclaim(self) -> None:
        """End an abandoned pool if its last job has ended; for `_reclaim`."""
        check = self._library.check
        unfinished = [address for address in _abandoned[self] if check(address) == BEING_PROCESSED]
        if unfinished:
            _abandoned[self] = unfinished
        else:
            del _abandoned[self]
            self.let_go()
            self._finish()

    def _finish(self) -> None:
        for address in self.addresses:
            self._library.fini(address)


def abandoned() -> int:
    """Pools that were closed and still have jobs in flight."""
    return len(_abandoned)


def _reclaim() -> None:
    with _lock:
        for pool in list(_abandoned):
            pool.reclaim()
    if len(_abandoned) >= MOST_ABANDONED:
        raise DeviceUnavailable(
            f"IAA: {len(_abandoned)} times jobs were submitted that have not ended: look at the work queue"
            " (`kuaka devices check`), and start this worker again"
        )


def _stride(job_bytes: int) -> int:
    """Whole cache lines, and an odd number of them: else the heads of all jobs would compete for one set of a cache."""
    lines = -(-job_bytes // _LINE_BYTES)
    return (lines | 1) * _LINE_BYTES
