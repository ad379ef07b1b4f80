"""How descriptors get into a queue: `Port`, and the one behind it that every kernel since 6.9.1 has, write(2).

Mapping a queue's portal needs CAP_SYS_RAWIO since then; write takes any number of descriptors, submits one after the
other and returns how many bytes of them the queue took. A port that maps the portal and submits one BATCH per packet
is another `Port`: nothing else would change. First-generation devices refuse BATCH by write(2) with EINVAL.

What write answers, and what it comes to here:

    fewer bytes than given       the queue was full, or the next descriptor is refused: asked once more
    EAGAIN                       full: as many as were taken before, which may be none
    EINTR                        asked again
    EPERM                        the queue was opened by another process, or before a fork
    EINVAL                       a descriptor that the kernel refuses, or a kernel that takes none by write
    ENODEV, ENXIO, EPIPE, other  the queue has been disabled or has gone

All but the first three are `DeviceDown`. A submission is a bounded number of writes, however busy the queue is.
"""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from scheduler.devices.device import DeviceDown, DeviceUnavailable
from scheduler.devices.dsa.descriptors import DESCRIPTOR_BYTES
from scheduler.devices.dsa.forks import close_in_children

#: (n, DESCRIPTOR_BYTES), C order.
DescriptorRows = NDArray[np.uint8]
#: Writes of one submission: a queue that drains meanwhile takes more, one that takes a little each time ends here.
MAX_WRITES = 4

_OPEN_REMEDIES = {
    errno.ENOENT: "there is no such queue: enable it (`kuaka devices plan`)",
    errno.EACCES: "this user may not open it: give its group access (`kuaka devices plan` writes the udev rule)",
    errno.EBUSY: "it is a dedicated queue that somebody else has open: make it a shared one",
}
_WRITE_REMEDIES = {
    errno.EPERM: "it was opened by another process or before a fork: open it in this one",
    errno.EINVAL: "the kernel refuses the descriptor, or has no submission by write: that needs Linux 6.9.1",
}
_GONE = "the queue is disabled or its device has gone: enable it again"


class Port(Protocol):
    """A way into one queue; it belongs to one thread."""

    def submit(self, descriptors: DescriptorRows) -> int:
        """How many the queue took from the front; never waits for room. Raises `DeviceDown`."""

    def close(self) -> None:
        """Returns when the device will write nothing more for what was submitted here, however long that takes.

        Called once, perhaps by another thread.
        """


class WritePort:
    """A queue's device file. Its last close makes the kernel drain what this process has in flight there.

    A forked child could not submit by its copy of the file and would keep the parent's close from being the last:
    the copy is closed in the child at once.
    """

    def __init__(self, path: Path, write: Callable[[int, memoryview], int] = os.write) -> None:
        """Opens `path`; raises `DeviceDown`, and `DeviceUnavailable` where another try would not help."""
        self._path = path
        self._write = write
        try:
            self._fd = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise _unopened(path, error) from None
        close_in_children(self)

    def submit(self, descriptors: DescriptorRows) -> int:
        accepted = 0
        for _ in range(MAX_WRITES):
            try:
                written = self._write(self._fd, descriptors[accepted:].data)
            except BlockingIOError:
                return accepted
            except InterruptedError:
                continue
            except OSError as error:
                raise DeviceDown(_line(self._path, error, _WRITE_REMEDIES)) from None
            count, part = divmod(written, DESCRIPTOR_BYTES)
            if part:
                raise DeviceDown(
                    f"{self._path}: took {written} bytes, which is no number of descriptors: no idxd queue"
                )
            accepted += count
            if accepted == len(descriptors):
                break
        return accepted

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


def _unopened(path: Path, error: OSError) -> DeviceDown:
    line = _line(path, error, _OPEN_REMEDIES)
    return DeviceUnavailable(line) if error.errno in _OPEN_REMEDIES else DeviceDown(line)


def _line(path: Path, error: OSError, remedies: dict[int, str]) -> str:
    return f"{path}: {error.strerror or error}: {remedies.get(error.errno or 0, _GONE)}"
