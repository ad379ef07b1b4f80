"""The end of a device object whose descriptors may still be under way: its memory outlives it.

A descriptor cannot be taken back, and its completion record is written whenever the device gets to it. The kernel knows
when that is over: the last close of a queue's file drains what its process has there, and returns after it. So a
thread closes, holding the memory, and nobody waits for it longer than `CLOSE_NS`; when close returns, it lets go of
the memory. A device that hangs keeps the thread and the memory; `MAX_DRAINING` of those, and no queue is opened.
"""

import threading

from scheduler.devices.device import DeviceDown
from scheduler.devices.dsa.submission import Port

#: Longest that giving a device up waits for its drain; one with nothing in flight takes a hundredth of it.
CLOSE_NS = 20_000_000
#: Of one process, all its devices together.
MAX_DRAINING = 8

_draining: set[threading.Thread] = set()


def check_room() -> None:
    """Raises `DeviceDown` where too many devices that were given up still have not drained."""
    # A copy: threads end at any time. After a fork those of the parent count as ended.
    waiting = sum(thread.is_alive() for thread in list(_draining))
    if waiting >= MAX_DRAINING:
        raise DeviceDown(f"{waiting} queues that were given up have not drained: reset the device")


def drain(port: Port, *kept: object) -> None:
    """Close `port`, and keep what the device may write to until that is done."""
    thread = threading.Thread(target=_close, args=(port, kept), name="dsa-drain", daemon=True)
    _draining.add(thread)
    thread.start()
    thread.join(CLOSE_NS / 1e9)


def _close(port: Port, kept: tuple[object, ...]) -> None:
    try:
        port.close()
    finally:
        _draining.discard(threading.current_thread())
