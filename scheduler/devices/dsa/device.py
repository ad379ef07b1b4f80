"""A DSA's work queue as a `Device`: zero scans, submitted through a `Port`, complete when their records say so.

Pages are compared where they lie in `memory`; a descriptor and its completion record belong to one index for good, so
a submission copies two columns and hands the rows to the port. Nobody is told of completions: `wait` looks at the
status bytes of all records in flight at once, without pause for the time that a batch takes, then with sleeps that
double. It ends with its bound, whatever the device does.

A page is zero only where the record says so: success, and no difference. A false predicate is a difference; a page
fault or an error is the caller's work, and is counted. What the device has not done in time stays PENDING: close the
object, which keeps its memory until the device has drained (`draining`), and open another.

The kernel takes descriptors from the process that opened the queue only: after a fork the object is down in the child.
"""

import os
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from scheduler.devices.cost import CostModel
from scheduler.devices.device import DESCRIPTOR, MAX_DESCRIPTORS, Descriptors, DeviceDown, Operation, Status
from scheduler.devices.dsa.descriptors import (
    COMPLETION_BYTES,
    DESCRIPTOR_BYTES,
    DSA_COMPLETION,
    STATUS_OF,
    Completion,
    DsaCompletions,
    comparisons_with_zero,
)
from scheduler.devices.dsa.draining import check_room, drain
from scheduler.devices.dsa.memory import prefaulted
from scheduler.devices.dsa.submission import Port, WritePort

#: How long the records are looked at without a pause: 128 pages take a device 20 us.
SPIN_NS = 25_000
#: A sleep costs 10 to 30 us of CPU, so few of them are better than exact ones.
_FIRST_SLEEP_NS = 50_000
_LAST_SLEEP_NS = 500_000
_NS_PER_S = 1_000_000_000
# Plain numbers: an enumeration's member in an expression of numpy's costs microseconds.
_NONE, _FALSE_PREDICATE, _PENDING = int(Completion.NONE), int(Completion.FALSE_PREDICATE), int(Status.PENDING)


@dataclass(frozen=True, slots=True)
class DsaStatistics:
    """What went wrong with descriptors so far."""

    page_faults: int
    errors: int
    #: Completion status of the last error, 0 while there is none; linux/idxd.h names it.
    last_error: int


class DsaDevice:
    """See the module and `scheduler.devices.device.Device`; the one operation is ZERO_SCAN."""

    def __init__(
        self,
        port: Port,
        memory: NDArray[np.uint8],
        slots: int,
        cost: CostModel,
        *,
        clock: Callable[[], int] = time.monotonic_ns,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """`memory` is prefaulted and stays where it is. The port belongs to this object from here on."""
        self._port = port
        self._memory = memory
        self._slots = slots
        self._cost = CostModel({Operation.ZERO_SCAN: cost.operations[Operation.ZERO_SCAN]})
        self._clock = clock
        self._sleep = sleep
        self._process = os.getpid()
        self._status = np.zeros(MAX_DESCRIPTORS, dtype=np.uint8)
        self._output_bytes = np.zeros(MAX_DESCRIPTORS, dtype=np.uint32)
        self._records: DsaCompletions = prefaulted(MAX_DESCRIPTORS * COMPLETION_BYTES).view(DSA_COMPLETION)
        table = comparisons_with_zero(self._records.ctypes.data, MAX_DESCRIPTORS)
        # Views, because a column of a structured array costs a look-up each time.
        self._rows = table.view(np.uint8).reshape(MAX_DESCRIPTORS, DESCRIPTOR_BYTES)
        self._sources, self._transfers = table["source"], table["transfer_bytes"]
        self._completions, self._results = self._records["status"], self._records["result"]
        self._address = np.uint64(memory.ctypes.data)
        #: Records that were submitted and have not been seen complete, (first, stop) each.
        self._in_flight: list[tuple[int, int]] = []
        self._statistics = DsaStatistics(0, 0, 0)
        # Also where nobody calls `close`; at the end of the process the kernel drains by itself.
        self._end = weakref.finalize(self, drain, port, memory, self._records)
        self._end.atexit = False

    @classmethod
    def open(cls, path: Path, memory_bytes: int, slots: int, cost: CostModel) -> Self:
        """A queue's device file, such as /dev/dsa/wq0.0; `slots` is its threshold. Raises `DeviceDown`."""
        check_room()
        memory = prefaulted(memory_bytes)
        return cls(WritePort(path), memory, slots, cost)

    @property
    def slots(self) -> int:
        return self._slots

    @property
    def cost(self) -> CostModel:
        return self._cost

    @property
    def memory(self) -> NDArray[np.uint8]:
        return self._memory

    @property
    def records(self) -> DsaCompletions:
        """(MAX_DESCRIPTORS,) completion records, all that the device writes to."""
        return self._records

    @property
    def status(self) -> NDArray[np.uint8]:
        return self._status

    @property
    def output_bytes(self) -> NDArray[np.uint32]:
        return self._output_bytes

    @property
    def statistics(self) -> DsaStatistics:
        """Page faults and errors that records have told of."""
        return self._statistics

    def submit(self, operation: Operation, descriptors: Descriptors, first: int = 0) -> int:
        count = len(descriptors)
        stop = first + count
        if descriptors.dtype != DESCRIPTOR or not 0 < count <= MAX_DESCRIPTORS - first or first < 0:
            raise ValueError(f"{count} descriptors of {descriptors.dtype} from record {first}")
        if operation is not Operation.ZERO_SCAN:
            raise ValueError(f"this device does not {operation.name.lower()}")
        if any(begin < stop and first < end for begin, end in self._in_flight):
            raise ValueError(f"records {first} to {stop} are in flight")
        self._check_usable()
        self._build(descriptors, first, stop)
        stop = min(stop, first + self._room(count))
        if stop == first:
            return 0
        # All of it until the port has said how many: a submission that is cut short may have put in any number.
        self._in_flight.append((first, stop))
        try:
            accepted = self._port.submit(self._rows[first:stop])
        except DeviceDown:
            self.close()
            raise
        self._in_flight.pop()
        if accepted:
            self._in_flight.append((first, first + accepted))
        return accepted

    def wait(self, timeout_ns: int) -> bool:
        self._check_usable()
        began_ns = self._clock()
        deadline_ns = began_ns + timeout_ns
        sleep_ns = _FIRST_SLEEP_NS
        while not self._take_complete():
            now_ns = self._clock()
            if now_ns >= deadline_ns:
                self._take_single()
                return False
            if now_ns - began_ns >= SPIN_NS:
                self._sleep(min(sleep_ns, deadline_ns - now_ns) / _NS_PER_S)
                sleep_ns = min(2 * sleep_ns, _LAST_SLEEP_NS)
        return True

    def close(self) -> None:
        self._end()

    def _check_usable(self) -> None:
        if not self._end.alive:
            raise DeviceDown("the device was closed")
        if os.getpid() != self._process:
            raise DeviceDown("the device was opened before a fork: open it in this process")

    def _room(self, wanted: int) -> int:
        """Entries that this object may still fill: a dedicated queue loses what is beyond, and tells nobody."""
        room = self._free()
        if room < wanted:
            self._take_complete()
            room = self._free()
        return room

    def _free(self) -> int:
        return self._slots - sum(stop - first for first, stop in self._in_flight)

    def _build(self, descriptors: Descriptors, first: int, stop: int) -> None:
        sources, sizes = descriptors["source"], descriptors["source_bytes"]
        # Two 32-bit numbers: their sum needs the wider type.
        if not sizes.all() or int(np.add(sources, sizes, dtype=np.int64).max()) > len(self._memory):
            raise ValueError(f"a source of no bytes, or beyond the {len(self._memory)} bytes of memory")
        np.add(sources, self._address, out=self._sources[first:stop])
        self._transfers[first:stop] = sizes
        self._completions[first:stop] = _NONE
        self._status[first:stop] = _PENDING

    def _take_complete(self) -> bool:
        """Take what is complete as a whole; whether that was all."""
        for span in tuple(self._in_flight):
            if self._completions[slice(*span)].all():
                self._take(*span)
                self._in_flight.remove(span)
        return not self._in_flight

    def _take_single(self) -> None:
        """Take what is complete of the rest: the others stay PENDING."""
        for span in self._in_flight:
            self._take(*span)

    def _take(self, first: int, stop: int) -> None:
        # The status first: what it stands for was written with it or before it.
        completions = self._completions[first:stop].copy()
        differs = (self._results[first:stop] != 0) | (completions == _FALSE_PREDICATE)
        self._output_bytes[first:stop] = differs
        if completions.max() > _FALSE_PREDICATE:
            # What an earlier look has taken is counted.
            self._count(completions[self._status[first:stop] == _PENDING])
        self._status[first:stop] = STATUS_OF[completions]

    def _count(self, completions: NDArray[np.uint8]) -> None:
        statuses = STATUS_OF[completions]
        failed = completions[statuses == Status.FAILED]
        self._statistics = DsaStatistics(
            self._statistics.page_faults + int((statuses == Status.PAGE_FAULT).sum()),
            self._statistics.errors + len(failed),
            int(failed[-1]) if len(failed) else self._statistics.last_error,
        )
