"""Memory that a device may read and write: page by page, there beforehand, and the same after a fork.

A device that meets a page that is not there reports a fault or waits for it, some hundred microseconds at worst: every
page is written to once before any descriptor names it. The mapping is shared, because a fork makes private pages
read-only until somebody writes to them, and the device's next completion record would be that write.
"""

import mmap

import numpy as np
from numpy.typing import NDArray


def prefaulted(size_bytes: int) -> NDArray[np.uint8]:
    """(size_bytes,) zeros from a page's border on. It goes when the last view of it does; ValueError below one byte."""
    if size_bytes < 1:
        raise ValueError(f"a device with {size_bytes} bytes of memory")
    memory = np.frombuffer(mmap.mmap(-1, size_bytes, flags=mmap.MAP_SHARED | mmap.MAP_ANONYMOUS), dtype=np.uint8)
    memory[:: mmap.PAGESIZE] = 0
    return memory
