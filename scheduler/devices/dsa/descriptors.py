"""What a DSA reads and writes, as linux/idxd.h lays it out: 64-byte descriptors, 32-byte completion records.

A page is zero when COMPVAL finds every 8 bytes of it equal to a pattern of zeros. A batch of such comparisons differs
only in addresses and sizes: everything else stands in a table that is made once, one descriptor and one completion
record per index, so that building 128 of them is two copies by numpy.

A completion record is written in one piece, its status with it: status 0 is pending, everything else is final.
"""

from enum import IntEnum, IntFlag
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scheduler.devices.device import Status

DESCRIPTOR_BYTES = 64
#: Size of a completion record, and what its address must be a multiple of: the kernel answers EINVAL where it is not.
COMPLETION_BYTES = 32

DSA_DESCRIPTOR = np.dtype(
    {
        "names": ["flags_opcode", "completion_address", "source", "pattern", "transfer_bytes"],
        "formats": ["<u4", "<u8", "<u8", "<u8", "<u4"],
        "offsets": [4, 8, 16, 24, 32],
        "itemsize": DESCRIPTOR_BYTES,
    }
)
DSA_COMPLETION = np.dtype(
    {
        "names": ["status", "result", "completed_bytes", "fault_address"],
        "formats": ["u1", "u1", "<u4", "<u8"],
        "offsets": [0, 1, 4, 8],
        "itemsize": COMPLETION_BYTES,
    }
)
# numpy has no type for rows of a structured array.
DsaDescriptors = NDArray[Any]
DsaCompletions = NDArray[Any]

OPCODE_SHIFT = 24
FLAGS_MASK = (1 << OPCODE_SHIFT) - 1


class Opcode(IntEnum):
    """Of the operations, those that matter here. First-generation devices take no BATCH by write(2)."""

    NOOP = 0
    BATCH = 1
    COMPVAL = 6


class Flag(IntFlag):
    """Of a descriptor."""

    #: A page fault is waited for. Not used: the CPU does the page sooner than a fault is served (9 us, 556 at most).
    BLOCK_ON_FAULT = 0x2
    COMPLETION_ADDRESS_VALID = 0x4
    COMPLETION_REQUESTED = 0x8


class Completion(IntEnum):
    """Status of a completion record; the top bit says of a fault that a write met it."""

    NONE = 0
    SUCCESS = 1
    FALSE_PREDICATE = 2
    PAGE_FAULT = 3
    #: Met while a translation was invalidated.
    PAGE_FAULT_INVALIDATED = 4
    BATCH_FAILED = 5
    BAD_OPCODE = 0x10
    BAD_FLAGS = 0x11
    BAD_TRANSFER_SIZE = 0x13
    HARDWARE_ERROR = 0x20
    WRITE_FAULT = 0x80


#: Of every comparison.
COMPARE_FLAGS = Flag.COMPLETION_ADDRESS_VALID | Flag.COMPLETION_REQUESTED
_PAGE_FAULTS = (Completion.PAGE_FAULT, Completion.PAGE_FAULT_INVALIDATED)


def comparisons_with_zero(records_address: int, count: int) -> DsaDescriptors:
    """(count,) descriptors without source and size, their completion records in a row from `records_address`.

    ValueError where these would not be aligned.
    """
    if records_address % COMPLETION_BYTES:
        raise ValueError(f"completion records at {records_address:#x}, which is no multiple of {COMPLETION_BYTES}")
    table = np.zeros(count, dtype=DSA_DESCRIPTOR)
    table["flags_opcode"] = Opcode.COMPVAL << OPCODE_SHIFT | COMPARE_FLAGS
    table["completion_address"] = records_address + np.arange(count, dtype=np.uint64) * np.uint64(COMPLETION_BYTES)
    return table


def _status_of(completion: int) -> Status:
    if completion == Completion.NONE:
        return Status.PENDING
    if completion in (Completion.SUCCESS, Completion.FALSE_PREDICATE):
        return Status.OK
    return Status.PAGE_FAULT if completion & ~Completion.WRITE_FAULT in _PAGE_FAULTS else Status.FAILED


#: (256,): what a completion record's status is in the vocabulary of `device.Status`.
STATUS_OF: NDArray[np.uint8] = np.array([_status_of(completion) for completion in range(256)], dtype=np.uint8)
