"""Rows of reference/scheduling.md section 3 that are about holders, messages and restarts, in virtual time.

Row 10's steps of the protocol and row 20's partitions are drawn from a seed; every step checks that what may be in a
device fits into its slots.
"""

import random
from pathlib import Path

import pytest

from scheduler.core.leases import life_ns
from tests.scheduler.fleet_world import MS, STEP_NS, TICK_NS, World, world_of

S = 1_000 * MS


def learning_ns(world: World) -> int:
    """The learning period of a pool here."""
    settings = world.hosts[0].pool
    return life_ns(settings.ttl_ns, settings.clock_ppm, settings.drain_ns)


@pytest.mark.parametrize("steps", range(12))
def test_row_10_slots_of_a_killed_holder_come_back_when_its_lease_ends(tmp_path: Path, steps: int) -> None:
    """Killed at another moment of the protocol each time; the flow's other worker has everything again in time."""
    with world_of(tmp_path, 1) as world:
        (host,) = world.hosts
        victim, other = host.open("f", workers=2)
        world.pass_time(S + steps * STEP_NS)
        host.kill(victim)
        settings = host.pool
        world.pass_time(life_ns(settings.ttl_ns, settings.clock_ppm, settings.drain_ns) + 2 * TICK_NS)
        grant = host.table.grant(other.row)
        assert grant is not None
        assert grant.window == world.slots - world.critical_slots


def test_row_10_slots_in_flight_stay_counted_until_the_lease_ends(tmp_path: Path) -> None:
    with world_of(tmp_path, 1) as world:
        (host,) = world.hosts
        victim, other = host.open("f", workers=2)
        world.pass_time(S)
        held = host.table.in_flight(victim.row)
        assert held > 0
        grant = host.table.grant(victim.row)
        assert grant is not None
        host.kill(victim)
        while world.clock.now_ns < grant.deadline_ns:
            world.pass_time(STEP_NS)
            now = host.table.grant(other.row)
            assert now is not None
            assert now.window + held <= world.slots - world.critical_slots


def test_row_10_workers_that_die_at_any_time_lose_and_invent_no_slots(tmp_path: Path) -> None:
    """The million steps are the core's state machine's; this is the whole way from the worker to the pool."""
    chance = random.Random(10)
    with world_of(tmp_path, 1, rows=4096) as world:
        (host,) = world.hosts
        for number in range(40):
            workers = host.open(f"f{number}", workers=2)
            world.pass_time(chance.randrange(1, 40) * STEP_NS)
            for worker in workers:
                if chance.random() < 0.7:
                    host.kill(worker)
            if chance.random() < 0.7:
                host.client.close_flow(f"f{number}", host.pool.pool)
        for number in range(40):
            host.client.close_flow(f"f{number}", host.pool.pool)
        world.pass_time(5 * S)
        assert host.client.counters() == {}
        assert world.service is not None
        (pool,) = world.service.statistics().core.pools
        assert (pool.leased_slots, pool.flows) == (0, ())


def test_row_11_a_zombie_submits_nothing_and_changes_nothing(tmp_path: Path) -> None:
    """The whole host stands still for ten lives of its lease, then goes on in the middle of what it did."""
    with world_of(tmp_path, 2) as world:
        host, other = world.hosts
        (worker,) = host.open("f")
        other.open("g")
        world.pass_time(S)
        hold = worker.credit.acquire(1, MS, timeout_ns=0) or worker.in_device[0][1]
        host.stopped, worker.running = True, False
        world.pass_time(10 * host.pool.ttl_ns)
        submitted = worker.device_batches
        worker.running = True
        assert not hold.current()
        worker.step()
        assert worker.device_batches == submitted
        assert world.service is not None
        before = world.service.statistics().core.pools
        world.tick(host)
        after = world.service.statistics()
        assert after.core.pools == before
        host.stopped = False
        world.pass_time(2 * S)
        assert worker.device_batches > submitted


def test_row_12_a_restart_with_1000_outstanding_leases(tmp_path: Path) -> None:
    with world_of(tmp_path, 50, slots=256) as world:
        for host in world.hosts:
            for number in range(20):
                host.open(f"{host.name}-f{number}")
        world.pass_time(S)
        assert sum(host.leases for host in world.hosts) == 1000
        steady = world.batches_per_second()
        world.restart()
        world.pass_time(3 * TICK_NS)
        assert {host.client.epoch for host in world.hosts} == {2}
        assert sum(host.leases for host in world.hosts) == 1000
        world.pass_time(learning_ns(world))
        assert world.batches_per_second() >= 0.9 * steady


@pytest.mark.parametrize("seed", range(20))
def test_row_12_windows_fit_whenever_the_restart_comes(tmp_path: Path, seed: int) -> None:
    """Some hosts are away while the scheduler learns, and back with leases that nobody knows."""
    chance = random.Random(seed)
    with world_of(tmp_path, 2, batch_ns=20 * MS) as world:
        for host in world.hosts:
            for number in range(16):
                host.open(f"{host.name}-f{number}")
        world.pass_time(chance.randrange(1, 60) * STEP_NS)
        world.unreachable = {host.name for host in world.hosts if chance.random() < 0.5}
        world.restart()
        world.pass_time(chance.randrange(1, 200) * STEP_NS)
        world.unreachable = set()
        world.pass_time(chance.choice((STEP_NS, learning_ns(world), S)))
        world.restart()
        world.pass_time(learning_ns(world) + S)
        # Eight engines do 400 batches of 20 ms in a second.
        assert world.batches_per_second() >= 0.9 * 400 * len(world.hosts)


def test_row_15_a_herd_of_1000_migrations_is_served_within_two_ticks_and_alike(tmp_path: Path) -> None:
    with world_of(tmp_path, 50, slots=256) as world:
        world.pass_time(TICK_NS)
        for host in world.hosts:
            for number in range(20):
                host.open(f"{host.name}-f{number}")
        world.pass_time(2 * TICK_NS)
        assert sum(host.leases for host in world.hosts) == 1000
        world.pass_time(S)
        for host in world.hosts:
            did = [counters.used_ns for counters in host.client.counters().values()]
            assert sum(did) ** 2 / (len(did) * sum(part * part for part in did)) >= 0.95


@pytest.mark.parametrize("seed", range(4))
def test_row_20_a_tenth_of_all_messages_lost_twice_or_late(tmp_path: Path, seed: int) -> None:
    """Goodput of at least 90 % of what the same world does undisturbed."""
    did = []
    for trouble in (0.0, 0.1):
        folder = tmp_path / str(trouble)
        folder.mkdir()
        with world_of(folder, 2) as world:
            world.trouble, world.random = trouble, random.Random(seed)
            for host in world.hosts:
                for number in range(6):
                    host.open(f"{host.name}-f{number}")
            world.pass_time(20 * S)
            did.append(world.device_batches())
    assert did[1] >= 0.9 * did[0]


@pytest.mark.parametrize("seed", range(4))
def test_row_20_partitions(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    with world_of(tmp_path, 3) as world:
        world.trouble = 0.1
        for host in world.hosts:
            for number in range(8):
                host.open(f"{host.name}-f{number}")
        for _ in range(12):
            world.unreachable = {host.name for host in world.hosts if chance.random() < 0.3}
            world.pass_time(chance.randrange(1, 200) * STEP_NS)
        world.unreachable = set()
        world.pass_time(6 * S)
        assert all(worker.device_batches for host in world.hosts for worker in host.all_workers)
        assert world.batches_per_second() > 0
