"""Rows 13, 14, 21, 22 of the reference: a device that goes and comes, clocks, ten years, and the same again."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from scheduler.core.effects import Effect, Fenced, Granted, Outlook, Reason
from scheduler.core.events import FlowReport, HostReported, PoolClosed, PoolOpened
from scheduler.core.leases import life_ns
from scheduler.core.machine import Scheduler
from scheduler.core.units import Phase
from tests.scheduler.core.toy_device import MS, POOL, S, ToyPool, Vm

_ROOT = Path(__file__).parents[3]
YEAR_NS = 365 * 24 * 3600 * S


def test_row_13_a_device_that_goes_takes_all_leases_with_it_and_grants_nothing() -> None:
    world = ToyPool()
    vms = [Vm(f"f{i}") for i in range(10)]
    world.add(*vms)
    world.run(1 * S)
    held = {vm.name for vm in vms if vm.lease is not None}
    effects = world.scheduler.handle(PoolClosed("p"), world.now_ns)
    world._hear(effects)
    assert held
    assert {effect.flow for effect in effects if isinstance(effect, Fenced)} >= held
    done_ns = [vm.done_ns for vm in vms]
    told: dict[str, Reason | None] = {}
    for _ in range(20):
        world.tick()
        assert not [effect for effect in world.effects if isinstance(effect, Granted)]
        told |= {effect.flow: effect.withheld for effect in world.effects if isinstance(effect, Outlook)}
        assert told == {vm.name: Reason.DEVICE_DOWN for vm in vms}
    assert [vm.done_ns for vm in vms] == done_ns
    world.scheduler.handle(PoolOpened(POOL), world.now_ns)
    # What holders of before may have in the device is counted until it must have ended.
    world.run(4 * S)
    assert min(vm.done_ns - was for vm, was in zip(vms, done_ns, strict=True)) > 0


def test_row_13_a_flapping_device_never_has_more_than_its_slots_and_comes_back() -> None:
    world = ToyPool()
    vms = [Vm(f"f{i}") for i in range(20)]
    world.add(*vms)
    for _ in range(40):
        world.tick()
        fenced = world.scheduler.handle(PoolClosed("p"), world.now_ns)
        world._hear(fenced)
        assert len([effect for effect in fenced if isinstance(effect, Fenced)]) <= len(vms)
        world.tick()
        world.scheduler.handle(PoolOpened(POOL), world.now_ns)
        world.scheduler.validate()
    done_ns = sum(vm.done_ns for vm in vms)
    world.run(10 * S)
    assert sum(vm.done_ns for vm in vms) - done_ns >= 0.95 * 2 * 6 * S


def _trace(start_ns: int, seconds: int = 20) -> list[list[Effect]]:
    """What a pool with a bit of everything is answered, from a clock that starts anywhere."""
    world = ToyPool(now_ns=start_ns, scheduler=Scheduler(1, start_ns, learning=False), sampled=True)
    world.tenant("a", 2)
    world.add(
        *(Vm(f"f{i}", 1 + i % 3, tenant="ab"[i % 2]) for i in range(20)),
        Vm("reserved", reservation_ns_s=S // 4),
        Vm("capped", cap_ns_s=S // 10),
        Vm("stopped", phase=Phase.STOPPED, backlog_ns=50 * MS),
        Vm("image", phase=Phase.BACKGROUND),
        Vm("soon", deadline_ns=start_ns + 10 * S, remaining_ns=S),
    )
    trace: list[list[Effect]] = []
    world.run(seconds * S, lambda: trace.append(world.effects))
    return trace


@pytest.mark.parametrize("start_ns", [3600 * S, 10 * YEAR_NS])
def test_row_14_where_the_clock_stands_decides_nothing(start_ns: int) -> None:
    assert _trace(start_ns) == _trace(0)


@pytest.mark.parametrize("skew_permille", [-50, 50])
def test_row_14_a_holder_whose_clock_is_5_percent_off_stops_before_its_slots_are_free(skew_permille: int) -> None:
    settings = replace(POOL, clock_ppm=50_000)
    # Both clocks are off, in opposite directions, by as much as is allowed.
    holder_stops_ns = settings.ttl_ns * 1000 // (1000 + skew_permille)
    ours_ns = life_ns(settings.ttl_ns, settings.clock_ppm, settings.drain_ns)
    scheduler_frees_ns = ours_ns * 1000 // (1000 - skew_permille)
    assert scheduler_frees_ns - holder_stops_ns >= settings.drain_ns * 9 // 10
    world = ToyPool(settings)
    world.add(Vm("f"))
    world.tick()
    flow = world.pool.flows["f"]
    assert flow.expires_ns == world.now_ns + ours_ns
    world.scheduler.handle(HostReported("other", 1, 1, (FlowReport("none", "p", 0, 0),)), flow.expires_ns - 1)
    assert flow.counted > 0
    world.scheduler.handle(HostReported("other", 1, 2, (FlowReport("none", "p", 0, 0),)), flow.expires_ns)
    assert flow.counted == 0


def test_row_21_ten_years_change_no_decision() -> None:
    world = ToyPool()
    young = ToyPool()
    for each in (world, young):
        each.add(*(Vm(f"f{i}", 1 + i % 4) for i in range(14)))
        each.run(10 * S)
    # Ten years of work at once: tags and counters far beyond 64 bits.
    ahead_ns = 10 * YEAR_NS
    world.now_ns += ahead_ns
    pool = world.pool
    for flow in pool.flows.values():
        pool.shares.bulk.charge(flow, ahead_ns * flow.weight)
    for each in (world, young):
        # Leases of before have ended in one of them; both start again from nothing.
        each.now_ns += 4 * S
        for vm in each.vms.values():
            vm.lease = None
        each.run(10 * S)
    old_done = [flow.granted_ns for flow in pool.flows.values()]
    each_done = [flow.granted_ns for flow in young.pool.flows.values()]
    assert max(flow.finish for flow in pool.flows.values()) > 1 << 64
    assert max(abs(a - b) for a, b in zip(old_done, each_done, strict=True)) <= 2 * pool.capacity.lease_cost_ns


def test_row_22_the_same_events_give_the_same_effects() -> None:
    assert _trace(0) == _trace(0)


def test_row_22_and_in_processes_that_hash_differently() -> None:
    script = (
        "import hashlib; from tests.scheduler.core.test_rows_time import _trace; import json;"
        "print(json.dumps(hashlib.sha256(repr(_trace(0, 5)).encode()).hexdigest()))"
    )
    digests = {
        json.loads(
            subprocess.run(
                [sys.executable, "-c", script], cwd=_ROOT, env={**os.environ, "PYTHONHASHSEED": seed},
                check=True, capture_output=True, text=True,
            ).stdout
        )
        for seed in ("0", "1", "4711")
    }  # fmt: skip
    assert len(digests) == 1
