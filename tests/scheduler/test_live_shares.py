"""Four flows that always want more, on a real emulated device, by the real service, client and credit: by weight."""

import asyncio
import threading
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from pipeline.fleet.host_devices import start_devices
from scheduler.client import PERIOD_NS, SchedulerClient
from scheduler.core.machine import Scheduler
from scheduler.credit import Credit, Credits, boottime_ns
from scheduler.credit_table import CreditTable
from scheduler.devices.device import DESCRIPTOR, Operation
from scheduler.devices.emulated.client import EmulatedDevice
from scheduler.service import SchedulerService
from scheduler.ticks import OpenFlow, Tick, TickAnswer
from tests.scheduler.epoch_memory import EpochMemory

DEVICES = Path(__file__).parents[2] / "examples" / "devices" / "iaa-small.yaml"
WEIGHTS = {"a": 1, "b": 1, "c": 2, "d": 4}
PAGE_BYTES = 4096
BATCH = 64
#: Enough to fill half of the queue with batches.
THREADS = 4
SETTLE_S, MEASURE_S = 1.5, 6.0


class Hungry(threading.Thread):
    """A thread of one flow's worker, which has the device compress as much as it may."""

    def __init__(self, socket: Path, credit: Credit, stop: threading.Event) -> None:
        super().__init__(daemon=True)
        self._device = EmulatedDevice.open(socket, 2 * BATCH * PAGE_BYTES)
        self._credit = credit
        self._stop_asked = stop
        self._jobs = np.zeros(BATCH, dtype=DESCRIPTOR)
        self._jobs["source"] = np.arange(BATCH) * PAGE_BYTES
        self._jobs["destination"] = self._jobs["source"] + BATCH * PAGE_BYTES
        self._jobs["source_bytes"] = self._jobs["capacity_bytes"] = PAGE_BYTES

    def run(self) -> None:
        cost_ns = self._device.cost.cost_ns(Operation.COMPRESS, PAGE_BYTES)
        with closing(self._device):
            while not self._stop_asked.is_set():
                hold = self._credit.acquire(BATCH, BATCH * cost_ns)
                if hold is None:
                    time.sleep(0.001)
                    continue
                accepted = self._device.submit(Operation.COMPRESS, self._jobs[: hold.slots])
                self._device.wait(10**10)
                hold.release(accepted * cost_ns)
                self._credit.count(accelerator_pages=accepted, busy_retries=hold.slots - accepted)


@pytest.mark.timeout(60)
def test_shares_of_a_device_that_all_want_follow_the_weights(tmp_path: Path) -> None:
    async def story() -> dict[str, int]:
        (device,) = await start_devices(DEVICES, "h", tmp_path)
        service = SchedulerService(EpochMemory(), Scheduler, boottime_ns)
        service.set_tenant("fleet", 1)

        async def transport(tick: Tick) -> TickAnswer:
            return service.tick(tick)

        table = CreditTable.create(tmp_path / "credit", 8)
        client = SchedulerClient("h", 1, table, transport)
        client.open_pool(device.settings)
        stop = threading.Event()
        try:
            workers = []
            for name, weight in WEIGHTS.items():
                (row,) = client.open_flow(OpenFlow(name, device.settings.pool, "fleet", weight), 1)
                credit = Credits().row(table.path, row)
                workers += [Hungry(Path(device.address.paths[0]), credit, stop) for _ in range(THREADS)]
            for worker in workers:
                worker.start()

            async def ticks(seconds: float) -> dict[str, int]:
                end = time.monotonic() + seconds
                while time.monotonic() < end:
                    sample = await device.sample()
                    await client.tick(() if sample is None else (sample,))
                    await asyncio.sleep(PERIOD_NS / 1e9)
                return {flow: counters.accelerator_pages for (flow, _), counters in client.counters().items()}

            before = await ticks(SETTLE_S)
            after = await ticks(MEASURE_S)
            assert sum(counters.busy_retries for counters in client.counters().values()) == 0
            return {flow: after[flow] - before[flow] for flow in WEIGHTS}
        finally:
            stop.set()
            for worker in workers:
                worker.join(10)
            device.end()

    pages = asyncio.run(story())
    done, weights = sum(pages.values()), sum(WEIGHTS.values())
    assert done > 0
    for flow, weight in WEIGHTS.items():
        share = pages[flow] / done * weights / weight
        assert 0.9 <= share <= 1.1, pages
