"""The memory that an emulated device shares with one client: completion records, then data.

    off                       size
      0   MAX_DESCRIPTORS        1 each   statuses; each written after everything it stands for (x86 keeps that order)
      +   MAX_DESCRIPTORS        4 each   output lengths
      +   4                               entries of the queue that are taken, all clients' together
      +   to a page's border
    8192  data_bytes                      what descriptors name by offset

The device makes it (memfd, sealed so that nobody can shrink it under the other's feet) and hands it over on connect.
The taken entries are what the device last counted: a hint for those who would not ask a full queue, never a promise of
room. A real device reads and writes its client's own memory; here this stands for it.
"""

import fcntl
import mmap
import os

import numpy as np

from scheduler.devices.device import MAX_DESCRIPTORS

DATA_AT = 8192
#: What one client may ask for: far more than a batch, far less than a host's memory.
MAX_DATA_BYTES = 64 << 20
_OUTPUT_AT = MAX_DESCRIPTORS
_OCCUPANCY_AT = 5 * MAX_DESCRIPTORS


def make_region(data_bytes: int) -> int:
    """A descriptor of a new region; the caller owns it."""
    fd = os.memfd_create("kuaka-device", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(fd, DATA_AT + data_bytes)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    except OSError:
        os.close(fd)
        raise
    return fd


class Region:
    """A mapped region. The mapping goes when the last of its views does."""

    def __init__(self, fd: int) -> None:
        mapping = mmap.mmap(fd, os.fstat(fd).st_size)
        self.status = np.frombuffer(mapping, dtype=np.uint8, count=MAX_DESCRIPTORS)
        self.output_bytes = np.frombuffer(mapping, dtype=np.uint32, count=MAX_DESCRIPTORS, offset=_OUTPUT_AT)
        self.occupancy = np.frombuffer(mapping, dtype=np.uint32, count=1, offset=_OCCUPANCY_AT)
        self.data = np.frombuffer(mapping, dtype=np.uint8, offset=DATA_AT)
