"""A queue's device node: whose it is, and whether this process may open it.

It is opened, for only that gives the right answer: in a container the node's mode may allow what the device cgroup
forbids. Opening a shared queue takes nothing from its other users.
"""

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path

from scheduler.devices.discovery.inventory import Access, Owner

#: Opens a node for reading and writing and closes it; raises OSError.
OpenNode = Callable[[Path], None]


def open_and_close(node: Path) -> None:
    """As a submitter would open it. Raises OSError."""
    os.close(os.open(node, os.O_RDWR | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC))


def node_owner(node: Path) -> Owner | None:
    """None where there is no node."""
    try:
        found = node.stat()
    except OSError:
        return None
    return Owner(found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode))


def probe_node(node: Path, open_node: OpenNode) -> tuple[Access, str | None]:
    """Whether the node can be opened, and the kernel's words where it cannot."""
    try:
        mode = node.stat().st_mode
        # A character device; the stand-ins of tests and demos are pipes.
        if not (stat.S_ISCHR(mode) or stat.S_ISFIFO(mode)):
            return Access.NOT_A_DEVICE, None
        open_node(node)
    except OSError as error:
        return _REASONS.get(error.errno or 0, Access.REFUSED), error.strerror
    return Access.OPEN, None


_REASONS = {
    errno.ENOENT: Access.NO_NODE,
    errno.ENOTDIR: Access.NO_NODE,
    errno.EACCES: Access.NO_PERMISSION,
    errno.EPERM: Access.NO_PERMISSION,
}
