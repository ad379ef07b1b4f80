"""A worker's credit: the window, the budget and the deadline hold, threads share, and a hold is given back once."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from scheduler.core.units import ServiceClass
from scheduler.credit import Credit, Credits, Hold
from scheduler.credit_table import Counters, CreditError, CreditTable, Grant

FAR = 1 << 60
GRANT = Grant(1, 1, 1, 16, FAR, FAR, ServiceClass.BULK, 500)
#: So long that only a hold that is given back ends the wait.
PATIENCE_NS = 10_000_000_000


class Clock:
    def __init__(self) -> None:
        self.now_ns = 1_000

    def __call__(self) -> int:
        return self.now_ns


class Row:
    """Row 0 of a table from both sides."""

    def __init__(self, path: Path) -> None:
        self.clock = Clock()
        self.table = CreditTable.create(path, 4)
        self.table.clear(0, GRANT)
        self.worker_table = CreditTable.open(path)
        self.credit = Credit(self.worker_table, 0, self.clock)

    def publish(self, **changes: int) -> None:
        self.table.publish(0, GRANT._replace(**changes))  # type: ignore[arg-type]

    def counter(self, name: str) -> int:
        counters = self.table.counters(0)
        assert counters is not None
        return int(getattr(counters, name))


@pytest.fixture
def row(tmp_path: Path) -> Iterator[Row]:
    row = Row(tmp_path / "credit")
    yield row
    row.worker_table.close()
    row.table.close()


def held(hold: Hold | None) -> Hold:
    assert hold is not None
    return hold


def test_a_hold_has_what_was_asked_and_its_counters_return_to_nothing(row: Row) -> None:
    hold = held(row.credit.acquire(10, 700))
    assert (hold.slots, row.counter("in_flight"), row.counter("pending_ns")) == (10, 10, 700)
    hold.release(650)
    assert [row.counter(name) for name in ("in_flight", "pending_ns", "used_ns", "asked_ns")] == [0, 0, 650, 700]


def test_a_thread_alone_has_the_whole_window_and_not_more(row: Row) -> None:
    hold = held(row.credit.acquire(128, 1))
    assert hold.slots == GRANT.window
    assert row.credit.acquire(1, 1, timeout_ns=0) is None
    assert row.table.in_flight(0) == GRANT.window


def test_nothing_is_begun_once_the_budget_is_used_up(row: Row) -> None:
    row.publish(budget_until_ns=1_000)
    first = held(row.credit.acquire(1, 999))
    second = held(row.credit.acquire(1, 50))
    assert row.credit.acquire(1, 1) is None
    first.release(400)
    second.release(50)
    held(row.credit.acquire(1, 1)).release(551)
    assert row.credit.acquire(1, 1) is None


def test_nothing_is_begun_at_the_deadline(row: Row) -> None:
    row.publish(deadline_ns=2_000)
    row.clock.now_ns = 1_999
    held(row.credit.acquire(1, 1)).release(1)
    row.clock.now_ns = 2_000
    assert row.credit.acquire(1, 1) is None
    assert row.counter("denied") == 1


def test_a_hold_is_void_after_its_deadline_and_current_again_never(row: Row) -> None:
    row.publish(deadline_ns=2_000)
    hold = held(row.credit.acquire(4, 1))
    assert hold.current()
    row.clock.now_ns = 2_000
    assert not hold.current()
    hold.release(0)
    assert not hold.current()


def test_a_hold_of_another_epoch_is_void(row: Row) -> None:
    hold = held(row.credit.acquire(4, 1))
    row.publish(epoch=2)
    assert not hold.current()
    assert held(row.credit.acquire(4, 1)).current()


def test_a_hold_cannot_be_released_twice(row: Row) -> None:
    hold = held(row.credit.acquire(4, 1))
    hold.release(1)
    with pytest.raises(CreditError, match="twice"):
        hold.release(1)
    assert row.counter("in_flight") == 0


def test_a_window_that_shrank_below_what_is_in_flight_gives_nothing_until_enough_has_come_back(row: Row) -> None:
    holds = [held(row.credit.acquire(4, 1)) for _ in range(4)]
    row.publish(window=6)
    for index, hold in enumerate(holds[:3]):
        assert row.credit.acquire(1, 1, timeout_ns=0) is None, index
        hold.release(1)
    assert held(row.credit.acquire(16, 1, timeout_ns=0)).slots == 2


class Interposed:
    """Words of a table where something happens just before `index` is stored for the first time."""

    def __init__(self, words: memoryview, index: int, happens: Callable[[], None]) -> None:
        self._words = words
        self._index = index
        self._happens: Callable[[], None] | None = happens

    def __getitem__(self, index: Any) -> Any:
        return self._words[index]

    def __setitem__(self, index: int, value: int) -> None:
        if index == self._index and self._happens is not None:
            happens, self._happens = self._happens, None
            happens()
        self._words[index] = value


def test_a_step_decided_by_a_window_that_has_shrunk_meanwhile_is_taken_back(row: Row) -> None:
    seen: list[int] = []

    def shrink() -> None:
        row.publish(window=0)
        seen.append(row.table.in_flight(0))

    at_in_flight = row.table.counters_at(0) + 1 + Counters.__slots__.index("in_flight")
    interposed = Interposed(row.worker_table.words, at_in_flight, shrink)
    row.credit._words = interposed  # type: ignore[assignment]
    assert row.credit.acquire(4, 1) is None
    assert seen == [0]
    assert row.table.in_flight(0) == 0


def test_a_row_without_a_lease_denies_at_once(row: Row) -> None:
    row.publish(window=0)
    assert row.credit.acquire(1, 1, timeout_ns=PATIENCE_NS) is None


def test_a_row_given_to_somebody_else_is_lost(row: Row) -> None:
    row.table.clear(0, GRANT._replace(generation=2))
    assert row.credit.lost
    assert row.credit.device_permille == 0
    assert row.credit.acquire(1, 1) is None


def test_a_client_that_died_while_it_wrote_has_granted_nothing(row: Row) -> None:
    at = row.table.grant_at(0)
    row.table.words[at] |= 1
    assert row.credit.acquire(1, 1, timeout_ns=0) is None


def test_as_many_batches_prefer_the_device_as_the_split_says(row: Row) -> None:
    row.publish(device_permille=250)
    assert [row.credit.prefers_device() for _ in range(8)] == [False, False, False, True] * 2


@pytest.mark.parametrize(("slots", "cost_ns"), [(0, 1), (-1, 1), (1, -1)])
def test_what_makes_no_sense_is_refused(row: Row, slots: int, cost_ns: int) -> None:
    with pytest.raises(ValueError, match="credit for"):
        row.credit.acquire(slots, cost_ns)


def test_a_hold_that_comes_back_goes_to_who_waits_longest(tmp_path: Path) -> None:
    table = CreditTable.create(tmp_path / "credit", 1)
    table.clear(0, GRANT._replace(window=1))
    credit = Credit(CreditTable.open(tmp_path / "credit"), 0)
    first = held(credit.acquire(1, 1))
    order: list[str] = []

    def wait(name: str) -> None:
        hold = held(credit.acquire(1, 1, timeout_ns=PATIENCE_NS))
        order.append(name)
        hold.release(1)

    threads = [threading.Thread(target=wait, args=(name,)) for name in "abc"]
    for count, thread in enumerate(threads, start=1):
        thread.start()
        while credit.waiting < count:
            time.sleep(0.001)
    first.release(1)
    for thread in threads:
        thread.join()
    assert order == ["a", "b", "c"]


def second_thread_asks(row: Row) -> None:
    held(row.credit.acquire(16, 1)).release(1)
    mine = threading.Thread(target=lambda: held(row.credit.acquire(1, 1)).release(1))
    mine.start()
    mine.join()


def test_two_threads_have_half_the_window_each(row: Row) -> None:
    row.publish(window=256)
    second_thread_asks(row)
    first = held(row.credit.acquire(256, 1))
    assert first.slots == 128
    assert held(row.credit.acquire(256, 1)).slots == 128


def test_share_that_would_not_pay_is_taken_whole_by_the_one_who_comes_first(row: Row) -> None:
    second_thread_asks(row)
    first = held(row.credit.acquire(64, 1))
    assert first.slots == 16
    assert row.credit.acquire(64, 1, timeout_ns=0) is None
    first.release(1)


def test_a_waiter_sees_what_the_client_grants_meanwhile(tmp_path: Path) -> None:
    table = CreditTable.create(tmp_path / "credit", 1)
    table.clear(0, GRANT._replace(window=1))
    credit = Credit(CreditTable.open(tmp_path / "credit"), 0)
    held(credit.acquire(1, 1))
    got: list[Hold | None] = []
    waiter = threading.Thread(target=lambda: got.append(credit.acquire(1, 1, timeout_ns=PATIENCE_NS)))
    waiter.start()
    table.publish(0, GRANT._replace(window=2))
    waiter.join()
    assert held(got[0]).slots == 1


def test_a_process_opens_each_row_once(tmp_path: Path) -> None:
    path = tmp_path / "credit"
    table = CreditTable.create(path, 2)
    table.clear(1, GRANT)
    opened = Credits()
    assert opened.row(path, 1) is opened.row(path, 1)
    with pytest.raises(CreditError, match="opened row 1 before"):
        Credit(CreditTable.open(path), 1)
    table.clear(1, GRANT._replace(generation=2))
    assert not opened.row(path, 1).lost
    with pytest.raises(CreditError, match="row 0 is free"):
        opened.row(path, 0)
    with pytest.raises(CreditError, match="none is number 2"):
        opened.row(path, 2)
