"""Dividing a lease: nothing is lost or invented, and slots move only when they are free."""

from dataclasses import replace
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from scheduler.core.effects import Lease
from scheduler.core.units import ServiceClass
from scheduler.credit import Credit
from scheduler.credit_table import CreditTable
from scheduler.sub_leases import SubLeases, divide
from tests.scheduler.epoch_memory import Clock

LEASE = Lease(1, "f", "p", 1, ServiceClass.BULK, 16, 1_000, 100)
FAR_NS = 1 << 60


@given(st.integers(0, 200), st.lists(st.integers(0, 10**12), min_size=1, max_size=9))
def test_all_is_given_and_only_to_those_who_want_it(total: int, demands: list[int]) -> None:
    shares = divide(total, demands)
    assert sum(shares) == total
    assert min(shares) >= 0
    if any(demands) and len(demands) > 1:
        assert all(demand or not share for demand, share in zip(demands, shares, strict=True))
        wanting = sum(demand > 0 for demand in demands)
        assert total < wanting or all(share for demand, share in zip(demands, shares, strict=True) if demand)


def test_shares_are_as_the_demands_are() -> None:
    assert divide(100, [1, 3]) == [26, 74]
    assert divide(8, [0, 0]) == [4, 4]
    assert divide(1, [5, 6, 7]) == [0, 0, 1]


def test_slots_move_to_another_worker_only_once_they_have_come_back(tmp_path: Path) -> None:
    table = CreditTable.create(tmp_path / "credit", 2)
    leases = SubLeases(table, [(0, 1), (1, 2)], 0)
    first, second = (Credit(table, row, Clock()) for row in (0, 1))
    leases.publish(LEASE, FAR_NS, 1000, 0)
    assert [row.published.window for row in leases.rows] == [8, 8]
    hold = first.acquire(8, 10, timeout_ns=0)
    assert hold is not None
    for _ in range(8):
        # The second worker is all that asks from now on.
        second.count(asked_ns=1_000_000)
        leases.observe()
        leases.publish(LEASE, FAR_NS, 1000, 0)
        assert table.in_flight(0) + leases.rows[1].published.window <= LEASE.window
    hold.release(10)
    for _ in range(8):
        second.count(asked_ns=1_000_000)
        leases.observe()
        leases.publish(LEASE, FAR_NS, 1000, 0)
    assert leases.rows[1].published.window > 8


def test_the_budgets_of_all_workers_are_the_leases(tmp_path: Path) -> None:
    table = CreditTable.create(tmp_path / "credit", 2)
    leases = SubLeases(table, [(0, 1), (1, 2)], 0)
    workers = [Credit(table, row, Clock()) for row in (0, 1)]
    for done_ns in (100, 200, 300):
        leases.observe()
        leases.publish(LEASE, FAR_NS, 1000, 0)
        assert sum(row.published.budget_until_ns for row in leases.rows) == LEASE.budget_until_ns
        hold = workers[0].acquire(1, done_ns, timeout_ns=0)
        assert hold is not None
        hold.release(done_ns)


def test_a_smaller_lease_is_in_force_when_what_is_in_flight_fits(tmp_path: Path) -> None:
    table = CreditTable.create(tmp_path / "credit", 1)
    leases = SubLeases(table, [(0, 1)], 0)
    worker = Credit(table, 0, Clock())
    leases.publish(LEASE, FAR_NS, 1000, 0)
    hold = worker.acquire(12, 10, timeout_ns=0)
    assert hold is not None
    leases.publish(replace(LEASE, lease=2, window=4), FAR_NS, 1000, 0)
    assert leases.occupied(0) == 12
    hold.release(10)
    assert leases.occupied(0) == 4
