"""The credit table: what is none is refused, reads are never torn, and a window that shrank is free at once."""

import os
from pathlib import Path

import pytest

from scheduler.core.units import ServiceClass
from scheduler.credit_table import Counters, CreditError, CreditTable, Grant
from tests.scheduler.credit_workers import real_words, worker

GRANT = Grant(1, 2, 3, 4, 5, 6, ServiceClass.URGENT, 700)
_ROUNDS = 3_000


def test_a_grant_arrives_as_it_was_published(tmp_path: Path) -> None:
    table = CreditTable.create(tmp_path / "credit", 3)
    table.clear(2, GRANT)
    there = CreditTable.open(tmp_path / "credit")
    assert there.grant(2) == GRANT
    assert [there.grant(row) for row in (0, 1)] == [Grant(service_class=ServiceClass.CRITICAL)] * 2
    assert there.counters(2) == Counters()
    assert (tmp_path / "credit").stat().st_mode & 0o777 == 0o600


def test_clearing_a_row_forgets_what_was_counted(tmp_path: Path) -> None:
    table = CreditTable.create(tmp_path / "credit", 1)
    table.words[table.counters_at(0) + 5] = 77
    table.clear(0, GRANT)
    assert table.counters(0) == Counters()


def test_a_half_that_is_being_written_cannot_be_read_but_its_words_can(tmp_path: Path) -> None:
    table = CreditTable.create(tmp_path / "credit", 1)
    at = table.counters_at(0)
    table.words[at], table.words[at + 4] = 1, 9
    assert table.counters(0) is None
    assert Counters(*table.counted_by_dead(0)).in_flight == table.in_flight(0) == 9


def changed(path: Path, offset: int, value: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(value.to_bytes(8, "little"))


def test_what_is_no_table_is_refused_in_one_line(tmp_path: Path) -> None:
    def refused(name: str, why: str) -> None:
        with pytest.raises(CreditError, match=why) as told:
            CreditTable.open(tmp_path / name)
        assert "\n" not in str(told.value)
        assert name in str(told.value)

    for name in ("magic", "version", "rows", "row-bytes", "short", "long", "open"):
        CreditTable.create(tmp_path / name, 4).close()
    changed(tmp_path / "magic", 0, 1)
    changed(tmp_path / "version", 8, 2)
    changed(tmp_path / "rows", 16, 1 << 62)
    changed(tmp_path / "row-bytes", 24, 8)
    os.truncate(tmp_path / "short", 1_000)
    os.truncate(tmp_path / "long", 1 << 16)
    (tmp_path / "open").chmod(0o644)
    (tmp_path / "link").symlink_to(tmp_path / "magic")
    (tmp_path / "empty").touch(0o600)
    refused("missing", "No such file")
    refused("link", "symbolic links")
    refused("empty", "0 bytes")
    refused("open", "others may use it")
    refused("magic", "does not begin like one")
    refused("version", "version 2")
    refused("row-bytes", "rows of 8 bytes")
    refused("rows", "are not")
    refused("short", "1000 bytes are not 4 rows")
    refused("long", "65536 bytes are not 4 rows")


def test_a_table_is_never_made_over_another(tmp_path: Path) -> None:
    CreditTable.create(tmp_path / "credit", 1)
    with pytest.raises(CreditError, match="exists"):
        CreditTable.create(tmp_path / "credit", 1)
    with pytest.raises(CreditError, match="0 rows"):
        CreditTable.create(tmp_path / "other", 0)


def test_a_row_that_is_not_there_is_refused(tmp_path: Path) -> None:
    table = CreditTable.create(tmp_path / "credit", 2)
    for row in (-1, 2):
        with pytest.raises(CreditError, match=f"none is number {row}"):
            table.publish(row, GRANT)


def test_grants_are_never_read_torn(tmp_path: Path) -> None:
    table = CreditTable.create(tmp_path / "credit", 1)
    table.clear(0, GRANT._replace(epoch=1, lease=1, window=1, budget_until_ns=1, deadline_ns=1))
    with real_words(table.path) as real, worker("read_grants", table.path, 0):
        number = 1
        while real[1] < _ROUNDS:
            number += 1
            table.publish(0, Grant(1, number, number, number, number, number))
        assert real[0] == 0


def test_counters_are_never_read_torn(tmp_path: Path) -> None:
    table = CreditTable.create(tmp_path / "credit", 1)
    table.clear(0, GRANT)
    with real_words(table.path), worker("count", table.path, 0):
        seen = 0
        while seen < _ROUNDS:
            counters = table.counters(0)
            if counters is not None:
                pages = counters.accelerator_pages
                assert (counters.cpu_pages, counters.accelerator_cpu_ns, counters.cpu_ns) == (pages, pages, pages)
                seen = max(seen, pages)


def test_a_smaller_window_holds_from_when_it_is_published(tmp_path: Path) -> None:
    """What the client saw in flight after it published is the most there is, however busy the worker is."""
    table = CreditTable.create(tmp_path / "credit", 1)
    wide = GRANT._replace(window=8, budget_until_ns=1 << 60, deadline_ns=1 << 60)
    closed = wide._replace(window=0)
    table.clear(0, wide)
    with real_words(table.path) as real, worker("hammer", table.path, 0):
        used = doubts = 0
        for number in range(_ROUNDS):
            # The worker has just begun; where it is in its next step when the window closes changes every round.
            for _ in range(number % 400):
                pass
            table.publish(0, closed)
            at_most = table.in_flight(0)
            for _ in range(300):
                seen = real[0]
                assert seen <= at_most
                used += seen
            doubts += at_most > 0
            table.publish(0, wide)
            while not table.in_flight(0):
                pass
        assert used
        assert doubts
