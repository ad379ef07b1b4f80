"""The zero scan by a device (DSA: compare with a pattern), with numpy for whatever the device does not do.

A device only tells zero pages from others, so what it leaves is looked at for same-filled pages by `memory.scan`,
whose probe of four words clears most pages. No batch is submitted without credit, and none is kept when this returns.
On an emulated device, and on a real one by write(2), a submission costs the caller more CPU than numpy's whole scan
does (15 us for 128 pages): the split measures both and then sends nothing here.
"""

import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from pipeline.codecs.credit import CREDIT_WAIT_NS, Credit
from pipeline.codecs.device_access import DeviceAccess
from pipeline.memory.pages import MAX_BATCH_PAGES, PAGE_BYTES, PageKind, PageKinds, PageWords
from pipeline.memory.scan import scan
from scheduler.devices.device import DESCRIPTOR, Device, Operation, Status

#: Data memory of a device that this uses.
DEVICE_MEMORY_BYTES = MAX_BATCH_PAGES * PAGE_BYTES


class DeviceScan:
    """Callable like `memory.scan.scan`; belongs to one thread."""

    def __init__(
        self, access: DeviceAccess, credit: Credit, cpu_clock: Callable[[], int] = time.thread_time_ns
    ) -> None:
        self._access = access
        self._credit = credit
        self._cpu_clock = cpu_clock
        self._jobs = np.zeros(MAX_BATCH_PAGES, dtype=DESCRIPTOR)
        self._jobs["source"] = np.arange(MAX_BATCH_PAGES) * PAGE_BYTES
        self._jobs["source_bytes"] = PAGE_BYTES

    def __call__(self, pages: PageWords) -> tuple[PageKinds, PageWords]:
        """Kinds of `pages`, (n, 512) words, and the fill words of those that are SAME."""
        device = self._access.device()
        if device is None or not device.cost.supports(Operation.ZERO_SCAN):
            return self._alone(pages)
        cost_ns = device.cost.cost_ns(Operation.ZERO_SCAN, PAGE_BYTES)
        if not self._credit.prefers_device():
            self._credit.count(asked_ns=len(pages) * cost_ns)
            return self._alone(pages)
        began_ns = self._cpu_clock()
        done = self._run(device, pages, cost_ns)
        self._credit.count(accelerator_pages=done, accelerator_cpu_ns=self._cpu_clock() - began_ns)
        if not done:
            return self._alone(pages)
        zero = self._zero(device, done)
        left = np.concatenate((np.flatnonzero(~zero), np.arange(done, len(pages))))
        kinds = np.full(len(pages), PageKind.ZERO, dtype=np.uint8)
        # Rows are few where this pays: a page that is not zero travels.
        kinds[left], fill_words = self._alone(pages[left])
        return kinds, fill_words

    def _run(self, device: Device, pages: PageWords, cost_ns: int) -> int:
        """How many pages from the front the device has looked at."""
        wanted = min(len(pages), device.slots)
        hold = self._credit.acquire(wanted, wanted * cost_ns, CREDIT_WAIT_NS)
        if hold is None:
            return 0
        accepted = 0
        alive = False
        try:
            if hold.current():
                count = min(wanted, hold.slots)
                source = pages[:count].reshape(-1).view(np.uint8)
                device.memory[: len(source)] = source
                accepted = self._access.submit(Operation.ZERO_SCAN, self._jobs[:count], 0)
                self._credit.count(busy_retries=count - accepted)
                alive = self._access.settle()
        finally:
            hold.release(accepted * cost_ns)
        return accepted if alive else 0

    @staticmethod
    def _zero(device: Device, count: int) -> NDArray[np.bool_]:
        """Which of the first pages the device found to be zero; one that met a fault is looked at again."""
        zero: NDArray[np.bool_] = (device.status[:count] == Status.OK) & (device.output_bytes[:count] == 0)
        return zero

    def _alone(self, pages: PageWords) -> tuple[PageKinds, PageWords]:
        began_ns = self._cpu_clock()
        found = scan(pages)
        self._credit.count(cpu_pages=len(pages), cpu_ns=self._cpu_clock() - began_ns)
        return found
