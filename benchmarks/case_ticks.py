"""Ticks of 50 hosts with 20 migrations each, ten times a second, on one scheduler actor: how long, and at what cost.

The hosts' clients run in a few processes, as agents do, with real credit tables whose workers take and give back
credit. A tick is measured as its host sees it: from building the message to publishing what the answer allows.

Most of a tick is the call, which is Ray's and the machine's, and what else the machine does makes it longer. So every
two seconds all hosts change between ticks and calls of the same actor, at the same times, that carry and do nothing:
what those take is what no scheduler on this machine could be faster than.
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
from itertools import pairwise
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
#: The first of these seconds, while everybody begins, are not measured; then ticks and empty calls take turns, each so
#: long that leases (3 s) last until the next ticks.
_WARM_UP_S, _TURN_S, _TURNS = 5, 2, 20
_MEASURED_S = _TURN_S * _TURNS // 2
_TICKS, _CALLS = "ticks", "empty calls"
_P99_BOUND_MS = 50
#: Of a migration's CPU, where it has one core.
_COST_BOUND_PERCENT = 1
_BATCH_NS = 3_000_000
#: From when the processes are told when to begin until they do, and how long they may take to say what they saw.
_NOTICE_S, _END_TIMEOUT_S = 1.0, 60
_READY = "ready\n"


def run(report: Report, folder: Path, runs: int) -> None:
    """One run: it has thousands of ticks in it, so `runs` does not matter here."""
    with _cluster() as (address, actor, process):
        hosts = [_start(folder, address, number) for number in range(_PROCESSES)]
        try:
            begin_s = _begin_together(hosts)
            actor_cpu_s = _cpu_by_turn(psutil.Process(process), begin_s)
            seen = [json.loads(host.communicate(timeout=_END_TIMEOUT_S)[0]) for host in hosts]
        finally:
            for host in hosts:
                host.kill()
                host.wait()
        service = _ask(actor)
    times_ms = {what: sorted(time for of in seen for time in of["times_ms"][what]) for what in (_TICKS, _CALLS)}
    client_cpu_s = {what: sum(of["cpu_s"][what] for of in seen) for what in (_TICKS, _CALLS)}
    cost = 100 * (actor_cpu_s[_TICKS] + client_cpu_s[_TICKS]) / (_MEASURED_S * _HOSTS * _MIGRATIONS)
    per_second = len(times_ms[_TICKS]) / _MEASURED_S
    case = "ticks"
    report.add(
        f"{_HOSTS} hosts x {_MIGRATIONS} migrations, ten ticks a second, {_PROCESSES} processes, one actor",
        (),
        (
            Figure(case, "ticks per second", per_second, at_least=0.9 * _HOSTS * 10**9 // PERIOD_NS),
            Figure(case, "tick p50", statistics.median(times_ms[_TICKS]), " ms"),
            Figure(case, "tick p99", _p99(times_ms[_TICKS]), " ms", at_most=_P99_BOUND_MS),
            Figure(case, "longest tick", times_ms[_TICKS][-1], " ms"),
            Figure(case, "empty call in its place p50", statistics.median(times_ms[_CALLS]), " ms"),
            Figure(case, "empty call in its place p99", _p99(times_ms[_CALLS]), " ms"),
            Figure(case, "longest empty call", times_ms[_CALLS][-1], " ms"),
            Figure(case, "actor", 100 * actor_cpu_s[_TICKS] / _MEASURED_S, " % of a core"),
            Figure(case, "actor, empty calls", 100 * actor_cpu_s[_CALLS] / _MEASURED_S, " % of a core"),
            Figure(case, "clients", 100 * client_cpu_s[_TICKS] / _MEASURED_S, " % of a core"),
            Figure(case, "clients, empty calls", 100 * client_cpu_s[_CALLS] / _MEASURED_S, " % of a core"),
            Figure(case, "CPU per migration, of a core", cost, " %", at_most=_COST_BOUND_PERCENT),
            Figure(case, "leases that were told at the end", sum(of["leases"] for of in seen)),
            Figure(case, "ticks that came late or twice", service["stale"] + service["repeated"], at_most=0),
        ),
    )


def _p99(sorted_ms: list[float]) -> float:
    return sorted_ms[len(sorted_ms) * 99 // 100]


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
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        # As agents are: the kernel shares processors among sessions first.
        start_new_session=True,
    )


def _begin_together(hosts: list[subprocess.Popen[str]]) -> float:
    """When all processes begin, by the monotonic clock: as soon as each has said that it can."""
    for host in hosts:
        assert host.stdout is not None
        if host.stdout.readline() != _READY:
            raise RuntimeError("a process of host clients ended before it began")
    begin_s = time.monotonic() + _NOTICE_S
    for host in hosts:
        assert host.stdin is not None
        host.stdin.write(f"{begin_s}\n")
        host.stdin.flush()
    return begin_s


def _turn(since_s: float) -> str | None:
    """What is done at a time since the beginning; None: it is not measured."""
    turn = int((since_s - _WARM_UP_S) // _TURN_S)
    return None if not 0 <= turn < _TURNS else (_TICKS, _CALLS)[turn % 2]


def _turns_s(begin_s: float) -> list[float]:
    """When turns begin, and when the last one ends."""
    return [begin_s + _WARM_UP_S + turn * _TURN_S for turn in range(_TURNS + 1)]


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _by_turn(totals_s: list[float]) -> dict[str, float]:
    """Of what a process had used when each turn began, what it used in either kind of turn."""
    used_s = [after - before for before, after in pairwise(totals_s)]
    return {_TICKS: sum(used_s[::2]), _CALLS: sum(used_s[1::2])}


def _cpu_by_turn(process: psutil.Process, begin_s: float) -> dict[str, float]:
    """Returns when the last turn has ended."""
    totals_s = []
    for at_s in _turns_s(begin_s):
        time.sleep(max(0.0, at_s - time.monotonic()))
        totals_s.append(_cpu_s(process))
    return _by_turn(totals_s)


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
        """A batch of each migration, as a sign of life: what workers do costs their own processes, not the client."""
        for credit in self.credits:
            hold = credit.acquire(8, _BATCH_NS, timeout_ns=0)
            if hold is not None:
                hold.release(_BATCH_NS)

    def leases(self) -> int:
        """Migrations that may submit."""
        grants = [self.table.grant(row) for row in range(_MIGRATIONS)]
        return sum(grant is not None and grant.window > 0 for grant in grants)


async def _tick_for_ever(
    host: _Host, actor: Any, begin_s: float, offset_s: float, times_ms: dict[str, list[float]]
) -> None:
    due_s = begin_s + offset_s
    while due_s < begin_s + _WARM_UP_S + _TURNS * _TURN_S:
        await asyncio.sleep(max(0.0, due_s - time.monotonic()))
        turn = _turn(due_s - begin_s)
        began_s = time.perf_counter()
        if turn == _CALLS:
            await actor.process.remote()
        else:
            await host.client.tick()
        if turn is not None:
            times_ms[turn].append((time.perf_counter() - began_s) * 1000)
        if turn != _CALLS:
            host.work()
        due_s += PERIOD_NS / 1e9


async def _cpu_of_turns(begin_s: float) -> dict[str, float]:
    process, totals_s = psutil.Process(), []
    for at_s in _turns_s(begin_s):
        await asyncio.sleep(max(0.0, at_s - time.monotonic()))
        totals_s.append(_cpu_s(process))
    return _by_turn(totals_s)


async def _run_hosts(folder: Path, actor: Any, numbers: list[int]) -> dict[str, Any]:
    hosts = [_Host(folder, f"h{number}", actor) for number in numbers]
    sys.stdout.write(_READY)
    sys.stdout.flush()
    begin_s = float(sys.stdin.readline())
    times_ms: dict[str, list[float]] = {_TICKS: [], _CALLS: []}
    # Hosts are not in step: each begins somewhere in the period.
    offsets_s = [number * PERIOD_NS / 1e9 / _HOSTS for number in numbers]
    measuring = asyncio.create_task(_cpu_of_turns(begin_s))
    await asyncio.gather(
        *(
            _tick_for_ever(host, actor, begin_s, offset_s, times_ms)
            for host, offset_s in zip(hosts, offsets_s, strict=True)
        )
    )
    leases = sum(host.leases() for host in hosts)
    return {"times_ms": times_ms, "cpu_s": await measuring, "leases": leases}


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
