"""A device as its user sees it: descriptors into a shared work queue, completion records out of memory.

The same protocol serves the emulated devices and the real ones (IAA and DSA by idxd, QAT by QATzip), so it promises
only what all of them can do:

* A queue is first come, first served among all its clients, and says *busy* when it is full: `submit` takes
  descriptors from the front of what it is given and returns how many went in. It never waits for room.
* Descriptors name bytes of the device's `memory` by offset: pages are put there, streams are taken from there. An IAA
  job is one 4 KiB page, a DSA scan one page, a QAT job a buffer of 64 KiB or more: the ranges say which.
* Each descriptor has a completion record of the same index in `status` and `output_bytes`. Its status is written last:
  whatever is not PENDING is final, and its output is there.
* Every wait has a bound. A device that has gone raises `DeviceDown` from then on; what was complete before stays valid.
  A descriptor cannot be taken back: after a wait that ran out, close the device and open it again, with other memory.

A device object belongs to one thread at a time; open one per thread.
"""

from enum import IntEnum
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from scheduler.devices.cost import CostModel

#: Most descriptors of one submission, and records of one device object.
MAX_DESCRIPTORS = 1024

#: One descriptor: where to read, where to write and how much there is room for; offsets and sizes in bytes.
DESCRIPTOR = np.dtype(
    [("source", "<u4"), ("source_bytes", "<u4"), ("destination", "<u4"), ("capacity_bytes", "<u4")], align=False
)
# numpy has no type for rows of a structured array.
Descriptors = NDArray[Any]


class Operation(IntEnum):
    """What a device can be told to do."""

    #: Raw deflate, 4 KiB window.
    COMPRESS = 0
    DECOMPRESS = 1
    #: `output_bytes` becomes 0 where all of the source is zero, 1 where not; nothing is written.
    ZERO_SCAN = 2


class Status(IntEnum):
    """How a descriptor ended."""

    PENDING = 0
    OK = 1
    #: The output does not fit its capacity: a page that does not compress.
    OVERFLOW = 2
    #: The device met memory that is not there; the caller, who can touch it, does this one.
    PAGE_FAULT = 3
    #: The source is no stream, or one that holds more than announced.
    FAILED = 4


class DeviceDown(Exception):
    """The device has been disabled, has died, or does not answer. Nothing more can be had from this object."""


class DeviceUnavailable(DeviceDown):
    """This host cannot have the device: library, queue or permission is missing. One line says what to do."""


class Device(Protocol):
    """One client's access to one shared work queue."""

    @property
    def slots(self) -> int:
        """Entries of the queue, all clients' together."""

    @property
    def cost(self) -> "CostModel":
        """What descriptors cost, and which operations there are."""

    @property
    def memory(self) -> NDArray[np.uint8]:
        """The bytes that descriptors name."""

    @property
    def status(self) -> NDArray[np.uint8]:
        """(MAX_DESCRIPTORS,) statuses of the records; see `Status`."""

    @property
    def output_bytes(self) -> NDArray[np.uint32]:
        """(MAX_DESCRIPTORS,) lengths of what was written; valid where the status is OK."""

    def submit(self, operation: Operation, descriptors: Descriptors, first: int = 0) -> int:
        """Queue descriptors from the front, their records being `first` and on; returns how many the queue took.

        None of these records may be in flight. Raises `DeviceDown`, ValueError for what is not a batch.
        """

    def wait(self, timeout_ns: int) -> bool:
        """Wait at most `timeout_ns` (0: look once) until nothing is in flight; whether so. Raises `DeviceDown`."""

    def close(self) -> None:
        """Give up whatever is in flight; the memory's contents stay readable."""
