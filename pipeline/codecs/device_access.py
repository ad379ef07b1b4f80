"""One thread's way to a device that may go and come back: opened when needed, given up when it fails, tried again.

The rule: a device that fails costs its user one bounded wait, and then nothing until the next try, ever further away
up to a second. Whatever was submitted to it is either complete, and then its results count, or the work of the CPU.
"""

import time
from collections.abc import Callable

from scheduler.devices.device import Descriptors, Device, DeviceDown, Operation

#: Longest that a submission may take to come back: a full queue is some ms of work, a crowded machine adds its own.
DEVICE_WAIT_NS = 250_000_000
_FIRST_RETRY_NS = 50_000_000
_LAST_RETRY_NS = 1_000_000_000


class DeviceAccess:
    """Opens a device by `open_device` (which raises `DeviceDown`) and runs batches on it. For one thread."""

    def __init__(
        self,
        open_device: Callable[[], Device],
        *,
        wait_ns: int = DEVICE_WAIT_NS,
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._open_device = open_device
        self._wait_ns = wait_ns
        self._clock = clock
        self._device: Device | None = None
        self._retry_ns = _FIRST_RETRY_NS
        self._not_before_ns = 0

    def device(self) -> Device | None:
        """The device, opened if it is not; None while there is none to be had."""
        if self._device is None and self._clock() >= self._not_before_ns:
            try:
                self._device = self._open_device()
            except DeviceDown:
                self._put_off()
        return self._device

    def submit(self, operation: Operation, descriptors: Descriptors, first: int) -> int:
        """As the device's own, but 0 for one that is down."""
        if self._device is None:
            return 0
        try:
            return self._device.submit(operation, descriptors, first)
        except DeviceDown:
            self._give_up()
            return 0

    def settle(self) -> bool:
        """Wait, within the bound, for all that was submitted. False: the device was given up, what is PENDING stays."""
        if self._device is None:
            return False
        try:
            if self._device.wait(self._wait_ns):
                self._retry_ns = _FIRST_RETRY_NS
                return True
        except DeviceDown:
            pass
        self._give_up()
        return False

    def close(self) -> None:
        """Let the device go; the memory of what it has done stays with those who have it."""
        if self._device is not None:
            self._device.close()
            self._device = None

    def _give_up(self) -> None:
        self.close()
        self._put_off()

    def _put_off(self) -> None:
        self._not_before_ns = self._clock() + self._retry_ns
        self._retry_ns = min(2 * self._retry_ns, _LAST_RETRY_NS)
