"""What Linux' idxd driver does with a write to a queue's file, done to a FIFO that stands for the file.

Descriptors go in one after the other. The first that the driver would refuse, or that finds the queue full, ends the
write: the number of bytes before it is the answer, or an error where there are none before it.

    EPERM    another process than the one that opened it (since 6.16)
    EINVAL   BATCH, as on first-generation devices; a completion record that is not aligned; half a descriptor
    EAGAIN   the queue is full
"""

import errno
import os
from collections.abc import Callable

import numpy as np

from scheduler.devices.dsa.descriptors import (
    COMPLETION_BYTES,
    DESCRIPTOR_BYTES,
    DSA_DESCRIPTOR,
    OPCODE_SHIFT,
    Opcode,
)


class KernelWrite:
    """Callable like `os.write`.

    `room` gets how many descriptors are at the front that the driver would submit and how many it has submitted ever
    since, and says how many of the former the queue takes.
    """

    def __init__(self, room: Callable[[int, int], int]) -> None:
        self._room = room
        self._process = os.getpid()
        self._written = 0

    def __call__(self, fd: int, data: memoryview) -> int:
        if os.getpid() != self._process:
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
        valid = _valid(data)
        if not valid:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        room = self._room(valid, self._written)
        if not room:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        count = os.write(fd, data.cast("B")[: room * DESCRIPTOR_BYTES])
        self._written += count // DESCRIPTOR_BYTES
        return count


def _valid(data: memoryview) -> int:
    """How many descriptors from the front the driver would submit."""
    descriptors = np.frombuffer(data, dtype=DSA_DESCRIPTOR, count=data.nbytes // DESCRIPTOR_BYTES)
    refused = descriptors["flags_opcode"] >> OPCODE_SHIFT == Opcode.BATCH
    refused |= descriptors["completion_address"] % COMPLETION_BYTES != 0
    return int(refused.argmax()) if refused.any() else len(descriptors)
