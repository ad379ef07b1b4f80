"""A host's client with the real service and core, in virtual time."""

from pathlib import Path

import pytest

from scheduler.core.effects import Reason
from scheduler.core.units import Phase
from scheduler.credit_table import CreditError
from scheduler.flow_state import WHY_NONE
from scheduler.ticks import OpenFlow
from tests.scheduler.fleet_world import MS, TICK_NS, Host, Worker, world_of

S = 1_000 * MS


def test_a_flow_gets_its_window_and_its_workers_divide_it(tmp_path: Path) -> None:
    with world_of(tmp_path, 1) as world:
        (host,) = world.hosts
        workers = host.open("f", workers=2)
        world.pass_time(S)
        windows = [world.hosts[0].table.grant(worker.row) for worker in workers]
        assert all(window is not None and window.window > 0 for window in windows)
        assert all(worker.device_batches > 10 for worker in workers)


def test_a_lease_ends_by_the_time_its_tick_was_sent(tmp_path: Path) -> None:
    with world_of(tmp_path, 1) as world:
        (host,) = world.hosts
        (worker,) = host.open("f")
        world.pass_time(S)
        world.unreachable.add("h0")
        grant = host.table.grant(worker.row)
        assert grant is not None
        assert world.clock.now_ns < grant.deadline_ns <= world.clock.now_ns + host.pool.ttl_ns
        before = worker.device_batches
        world.clock.now_ns = grant.deadline_ns
        world.pass_time(S)
        assert worker.device_batches == before
        assert worker.cpu_batches > 0


def test_a_scheduler_that_comes_back_is_found_again(tmp_path: Path) -> None:
    with world_of(tmp_path, 1) as world:
        (worker,) = world.hosts[0].open("f")
        world.pass_time(S)
        world.service = None
        world.pass_time(5 * S)
        before = worker.device_batches
        world.pass_time(S)
        assert worker.device_batches == before
        world.restart()
        world.pass_time(8 * S)
        assert worker.device_batches > before
        assert world.hosts[0].client.epoch == 2


def test_a_flow_that_is_closed_gives_its_slots_to_the_next(tmp_path: Path) -> None:
    with world_of(tmp_path, 1) as world:
        (host,) = world.hosts
        host.open("f")
        world.pass_time(S)
        host.client.close_flow("f", host.pool.pool)
        world.pass_time(S)
        assert host.client.counters() == {}
        assert all(worker.credit.lost for worker in host.workers["f"])
        (worker,) = host.open("g")
        world.pass_time(S)
        assert worker.device_batches > 10


def test_what_a_flow_did_is_not_forgotten_with_it(tmp_path: Path) -> None:
    with world_of(tmp_path, 1) as world:
        (host,) = world.hosts
        pool = host.pool.pool
        host.open("f")
        assert host.client.counted("g", pool) is None
        world.pass_time(S)
        before = host.client.work()[pool]
        counted = host.client.counted("f", pool)
        assert counted is not None
        assert (before.used_ns, before.wait_ns) == (counted.used_ns, counted.wait_ns)
        assert sum(before.fallbacks.values()) == counted.denied
        host.client.close_flow("f", pool)
        world.pass_time(S)
        after = host.client.work()[pool]
        assert host.client.counted("f", pool) is None
        assert after.used_ns >= before.used_ns > 0
        host.open("g")
        world.pass_time(S)
        assert host.client.work()[pool].used_ns > after.used_ns


def test_a_fallback_has_the_reason_that_the_scheduler_gave_or_none(tmp_path: Path) -> None:
    with world_of(tmp_path, 1) as world:
        (host,) = world.hosts
        world.unreachable.add("h0")
        host.open("f")
        world.pass_time(S)
        reasons = host.client.work()[host.pool.pool].fallbacks
        assert set(reasons) == {"unknown"}
        world.unreachable.clear()
        world.pass_time(3 * S)
        seen = host.client.work()[host.pool.pool].fallbacks
        assert set(seen) <= set(WHY_NONE)


def test_a_client_that_was_replaced_falls_silent(tmp_path: Path) -> None:
    with world_of(tmp_path, 1) as world:
        (host,) = world.hosts
        (worker,) = host.open("f")
        world.pass_time(S)
        again = type(host)(world, "h0", 77)
        world.hosts.append(again)
        world.pass_time(S)
        assert host.client.replaced
        assert not again.client.replaced
        world.pass_time(4 * S)
        before = worker.device_batches
        world.pass_time(S)
        assert worker.device_batches == before


def test_work_is_shared_by_weight(tmp_path: Path) -> None:
    with world_of(tmp_path, 1) as world:
        (host,) = world.hosts
        for name, weight in (("a", 1), ("b", 2)):
            host.open(name, weight=weight)
        world.pass_time(2 * S)
        before = host.client.counters()
        world.pass_time(10 * S)
        did = {flow: now.used_ns - before[flow, pool].used_ns for (flow, pool), now in host.client.counters().items()}
        assert 1.9 < did["b"] / did["a"] < 2.1


def test_what_makes_no_sense_is_refused_before_it_is_sent(tmp_path: Path) -> None:
    with world_of(tmp_path, 1, rows=2) as world:
        client, pool = world.hosts[0].client, world.hosts[0].pool.pool
        with pytest.raises(ValueError, match="weight 0"):
            client.open_flow(OpenFlow("f", pool, "fleet", 0), 1)
        with pytest.raises(CreditError, match="has no pool x/iaa/0 open"):
            client.open_flow(OpenFlow("f", "x/iaa/0", "fleet", 1), 1)
        rows = client.open_flow(OpenFlow("f", pool, "fleet", 1), 2)
        assert client.open_flow(OpenFlow("f", pool, "fleet", 2), 2) == rows
        with pytest.raises(CreditError, match="1 rows are wanted, 0 are free"):
            client.open_flow(OpenFlow("g", pool, "fleet", 1), 1)


def test_a_device_that_goes_takes_its_leases_along_and_gives_them_back(tmp_path: Path) -> None:
    with world_of(tmp_path, 1) as world:
        (host,) = world.hosts
        (worker,) = host.open("f")
        world.pass_time(S)
        host.client.close_pool(host.pool.pool)
        world.pass_time(2 * TICK_NS)
        before = worker.device_batches
        world.pass_time(S)
        assert worker.device_batches == before
        host.client.open_pool(host.pool)
        world.pass_time(5 * S)
        assert worker.device_batches > before


def test_a_ticket_is_answered_and_its_slots_are_used_from_the_stop_on(tmp_path: Path) -> None:
    with world_of(tmp_path, 1) as world:
        (host,) = world.hosts
        (worker,) = host.open("f")
        host.open("g")
        world.pass_time(S)
        answer = world.ticket(host, "f", cost_ns=8 * MS, within_ns=50 * MS)
        assert answer.granted
        before = window_of(host, worker)
        world.pass_time(TICK_NS)
        assert window_of(host, worker) <= before
        stopped = OpenFlow("f", host.pool.pool, "fleet", 1, phase=Phase.STOPPED)
        assert host.client.open_flow(stopped, 1) == (worker.row,)
        world.critical = True
        world.pass_time(2 * TICK_NS)
        assert window_of(host, worker) > before
        host.client.open_flow(OpenFlow("f", host.pool.pool, "fleet", 1), 1)
        host.client.close_ticket("f", host.pool.pool)
        world.pass_time(3 * TICK_NS)
        assert world.service is not None
        assert world.service.statistics().core.pools[0].tickets == 0


def test_a_ticket_that_cannot_be_kept_is_denied_and_one_that_nobody_answers_is_not_waited_for(tmp_path: Path) -> None:
    with world_of(tmp_path, 1) as world:
        (host,) = world.hosts
        host.open("f")
        world.pass_time(S)
        denied = world.ticket(host, "f", cost_ns=100 * S, within_ns=1 * MS)
        assert (denied.granted, denied.reason) == (False, Reason.NO_CAPACITY)
        world.service = None
        unanswered = world.ticket(host, "f", cost_ns=MS, within_ns=50 * MS)
        assert (unanswered.granted, unanswered.reason) == (False, None)


def test_silence_counts_from_the_last_answer(tmp_path: Path) -> None:
    with world_of(tmp_path, 1) as world:
        client = world.hosts[0].client
        assert client.silent_ns is None
        world.pass_time(S)
        assert client.silent_ns is not None
        assert client.silent_ns <= TICK_NS
        world.unreachable.add("h0")
        world.pass_time(S)
        assert S - TICK_NS <= client.silent_ns <= S + TICK_NS
        world.unreachable.clear()
        world.pass_time(2 * S)
        assert client.silent_ns <= TICK_NS


def window_of(host: Host, worker: Worker) -> int:
    """What a worker may have in flight now."""
    grant = host.table.grant(worker.row)
    assert grant is not None
    return grant.window
