"""`python -m tests.scheduler.actor_run FOLDER`: two hosts and a real actor that is killed; prints what was seen."""

import asyncio
import contextlib
import io
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import ray

from scheduler.actor import NAMESPACE, ClusterEpochStore, find_or_start, transport
from scheduler.client import SchedulerClient
from scheduler.core.events import PoolSettings
from scheduler.core.units import AcceleratorKind
from scheduler.credit import Credit
from scheduler.credit_table import CreditTable
from scheduler.ticks import OpenFlow

SLOTS, CRITICAL_SLOTS, FLOWS = 64, 8, 4
MS = 1_000_000
PERIOD_S = 0.1


class Host:
    """A client, and workers that submit to nothing; short lives of leases, to learn within a test."""

    def __init__(self, folder: Path, name: str, actor: Any) -> None:
        self.table = CreditTable.create(folder / name, FLOWS)
        self.pool = PoolSettings(
            f"{name}/iaa/0", name, AcceleratorKind.IAA, SLOTS, CRITICAL_SLOTS, 8, ttl_ns=3_000 * MS
        )
        self.client = SchedulerClient(name, 1, self.table, transport(actor))
        self.client.open_pool(self.pool)
        self.credits = [
            Credit(self.table, self.client.open_flow(OpenFlow(f"{name}-{flow}", self.pool.pool, "fleet", 1), 1)[0])
            for flow in range(FLOWS)
        ]
        self.batches = 0

    def work(self) -> None:
        """Some batches each."""
        for credit in self.credits:
            hold = credit.acquire(8, MS, timeout_ns=0)
            if hold is not None:
                self.batches += hold.current()
                hold.release(MS)

    def most_slots(self) -> int:
        """What may be in the device now."""
        grants = [self.table.grant(row) for row in range(FLOWS)]
        now_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        return sum(grant.window for grant in grants if grant is not None and now_ns < grant.deadline_ns)


class Run:
    """Ticks, and what is true at each."""

    def __init__(self, hosts: list[Host]) -> None:
        self.hosts = hosts
        self.most_slots = 0
        self.epochs: list[int] = []
        self.adopted = 0

    async def tick(self) -> None:
        """One period of all hosts."""
        await asyncio.gather(*(host.client.tick() for host in self.hosts))
        for host in self.hosts:
            host.work()
            self.most_slots = max(self.most_slots, host.most_slots())
            if host.client.epoch and host.client.epoch not in self.epochs:
                self.epochs.append(host.client.epoch)
                if host.client.epoch > 1:
                    self.adopted += host.most_slots()
        await asyncio.sleep(PERIOD_S)

    async def until(self, epoch: int) -> None:
        """Until all hosts have heard of an epoch."""
        while any(host.client.epoch < epoch for host in self.hosts):
            await self.tick()


async def run(folder: Path) -> dict[str, Any]:
    """See the module."""
    actor = find_or_start()
    await actor.set_tenant.remote("fleet", 3)
    here = Run([Host(folder, name, actor) for name in "ab"])
    for _ in range(10):
        await here.tick()
    leases_before = sum(host.most_slots() for host in here.hosts)
    process = await actor.process.remote()
    os.kill(process, signal.SIGKILL)
    await here.until(2)
    again = find_or_start()
    same_actor = again._actor_id == actor._actor_id
    learnt_s = time.monotonic() + 3.5
    while time.monotonic() < learnt_s:
        await here.tick()
    before = sum(host.batches for host in here.hosts)
    for _ in range(10):
        await here.tick()
    seen = {
        "epochs": here.epochs,
        "same_actor": same_actor,
        "slots": SLOTS - CRITICAL_SLOTS,
        "most_slots": here.most_slots,
        "leases_before": leases_before,
        "adopted": here.adopted,
        "bulk_batches_after_learning": sum(host.batches for host in here.hosts) - before,
        "tenant_weights": ClusterEpochStore().load_tenants(),
    }
    ray.kill(actor)
    return seen


def main() -> None:
    """See the module."""
    with contextlib.redirect_stdout(io.StringIO()):
        ray.init(
            namespace=NAMESPACE,
            num_cpus=1,
            object_store_memory=80_000_000,
            include_dashboard=False,
            log_to_driver=False,
        )
        try:
            seen = asyncio.run(run(Path(sys.argv[1])))
        finally:
            ray.shutdown()
    sys.stdout.write(json.dumps(seen) + "\n")


if __name__ == "__main__":
    main()
