"""Ticks of 50 hosts with 20 migrations each, ten times a second, on one scheduler actor: how long, and at what cost.

The hosts' clients run in a few processes, as agents do, with real credit tables whose workers take and give back
credit. A tick is measured as its host sees it: from building the message to publishing what the answer allows.
"""

import asyncio
import gc
import json
import logging
import os
import secrets
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from benchmarks.report import Figure, Report
from scheduler.client import PERIOD_NS, SchedulerClient
from scheduler.core.events import PoolSettings
from scheduler.core.units import AcceleratorKind
from scheduler.credit import Credit
from scheduler.credit_table import CreditTable
from scheduler.ticks import OpenFlow

_HOSTS, _PROCESSES, _MIGRATIONS = 50, 4, 20
#: The first of these seconds, while everybody begins, are not measured.
_WARM_UP_S, _MEASURED_S = 5, 20
_P99_BOUND_MS = 50
#: Of a migration's CPU, where it has one core.
_COST_BOUND_PERCENT = 1
_BATCHES = 3
_BATCH_NS = 1_000_000
_START_TIMEOUT_S = 60


def run(report: Report, folder: Path, runs: int) -> None:
    """One run: it has thousands of ticks in it, so `runs` does not matter here."""
    with _cluster() as (address, actor, process):
        cpu = psutil.Process(process)
        hosts = [_start(folder, address, number) for number in range(_PROCESSES)]
        try:
            time.sleep(_WARM_UP_S)
            before_s = _cpu_s(cpu)
            seen = [json.loads(host.communicate(timeout=_START_TIMEOUT_S + _MEASURED_S)[0]) for host in hosts]
            actor_cpu_s = _cpu_s(cpu) - before_s
        finally:
            for host in hosts:
                host.kill()
                host.wait()
        service = _ask(actor)
    times_ms = sorted(time_ms for process_seen in seen for time_ms in process_seen["times_ms"])
    client_cpu_s = sum(process_seen["cpu_s"] for process_seen in seen)
    cost = 100 * (actor_cpu_s + client_cpu_s) / (_MEASURED_S * _HOSTS * _MIGRATIONS)
    case = "ticks"
    report.add(
        f"{_HOSTS} hosts x {_MIGRATIONS} migrations, ten ticks a second, {_PROCESSES} processes, one actor",
        (),
        (
            Figure(case, "ticks per second", len(times_ms) / _MEASURED_S, at_least=0.9 * _HOSTS * 10**9 // PERIOD_NS),
            Figure(case, "tick p50", statistics.median(times_ms), " ms"),
            Figure(case, "tick p99", times_ms[len(times_ms) * 99 // 100], " ms", at_most=_P99_BOUND_MS),
            Figure(case, "longest tick", times_ms[-1], " ms"),
            Figure(case, "actor", 100 * actor_cpu_s / _MEASURED_S, " % of a core"),
            Figure(case, "clients", 100 * client_cpu_s / _MEASURED_S, " % of a core"),
            Figure(case, "CPU per migration, of a core", cost, " %", at_most=_COST_BOUND_PERCENT),
            Figure(case, "leases that were told at the end", sum(process_seen["leases"] for process_seen in seen)),
            Figure(case, "ticks that came late or twice", service["stale"] + service["repeated"], at_most=0),
        ),
    )


@contextmanager
def _cluster() -> Iterator[tuple[str, Any, int]]:
    """A Ray cluster of one node with the actor: its address, the actor, and the actor's process."""
    os.environ.update({"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_memory_monitor_refresh_ms": "0"})
    os.environ.update({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(16), "RAY_worker_niceness": "0"})
    import ray

    from scheduler.actor import NAMESPACE, find_or_start

    ray.init(
        namespace=NAMESPACE, num_cpus=1, object_store_memory=80_000_000, include_dashboard=False, log_to_driver=False
    )
    try:
        actor = find_or_start()
        yield ray.get_runtime_context().gcs_address, actor, ray.get(actor.process.remote())
    finally:
        ray.shutdown()


def _ask(actor: Any) -> dict[str, int]:
    import ray

    now = ray.get(actor.statistics.remote())
    return {"stale": now.stale, "repeated": now.repeated}


def _start(folder: Path, address: str, number: int) -> subprocess.Popen[str]:
    share = range(number, _HOSTS, _PROCESSES)
    return subprocess.Popen(
        [sys.executable, "-m", "benchmarks.case_ticks", str(folder), address, *map(str, share)],
        stdout=subprocess.PIPE,
        text=True,
    )


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


class _Host:
    """One host's client, and a worker per migration."""

    def __init__(self, folder: Path, name: str, actor: Any) -> None:
        from scheduler.actor import transport

        self.table = CreditTable.create(folder / name, _MIGRATIONS)
        pool = PoolSettings(f"{name}/iaa/0", name, AcceleratorKind.IAA, 256, 16, 8)
        self.client = SchedulerClient(name, secrets.randbits(63), self.table, transport(actor))
        self.client.open_pool(pool)
        self.credits = [
            Credit(self.table, self.client.open_flow(OpenFlow(f"{name}-{flow}", pool.pool, "fleet", 1), 1)[0])
            for flow in range(_MIGRATIONS)
        ]

    def work(self) -> None:
        """Some batches of each migration."""
        for credit in self.credits:
            for _ in range(_BATCHES):
                hold = credit.acquire(8, _BATCH_NS, timeout_ns=0)
                if hold is not None:
                    hold.release(_BATCH_NS)

    def leases(self) -> int:
        """Migrations that may submit."""
        grants = [self.table.grant(row) for row in range(_MIGRATIONS)]
        return sum(grant is not None and grant.window > 0 for grant in grants)


async def _tick_for_ever(host: _Host, offset_s: float, times_ms: list[float], until_s: float, from_s: float) -> None:
    due_s = time.monotonic() + offset_s
    while due_s < until_s:
        await asyncio.sleep(max(0.0, due_s - time.monotonic()))
        began_s = time.perf_counter()
        await host.client.tick()
        if due_s >= from_s:
            times_ms.append((time.perf_counter() - began_s) * 1000)
        host.work()
        due_s += PERIOD_NS / 1e9


async def _run_hosts(folder: Path, actor: Any, numbers: list[int]) -> dict[str, Any]:
    hosts = [_Host(folder, f"h{number}", actor) for number in numbers]
    times_ms: list[float] = []
    from_s = time.monotonic() + _WARM_UP_S
    process = psutil.Process()

    async def cpu_s() -> float:
        await asyncio.sleep(_WARM_UP_S)
        return _cpu_s(process)

    # Hosts are not in step: each begins somewhere in the period.
    spread_s = PERIOD_NS / 1e9 / len(hosts)
    ticking = [
        _tick_for_ever(host, place * spread_s, times_ms, from_s + _MEASURED_S, from_s)
        for place, host in enumerate(hosts)
    ]
    measuring = asyncio.create_task(cpu_s())
    await asyncio.gather(*ticking)
    before_s = await measuring
    leases = sum(host.leases() for host in hosts)
    return {"times_ms": times_ms, "cpu_s": _cpu_s(process) - before_s, "leases": leases}


def main() -> None:
    """The hosts of one process: `FOLDER ADDRESS NUMBER...`; prints what they saw as JSON."""
    import ray

    from scheduler.actor import NAMESPACE, find_or_start

    folder, address, *numbers = sys.argv[1:]
    ray.init(address=address, namespace=NAMESPACE, log_to_driver=False, logging_level=logging.ERROR)
    # As agents do.
    gc.freeze()
    seen = asyncio.run(_run_hosts(Path(folder), find_or_start(), [int(number) for number in numbers]))
    sys.stdout.write(json.dumps(seen))
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
