"""A journal of version 1 is brought up to date where it lies: nothing that was in it is lost."""

import sqlite3
from pathlib import Path

import pytest

from pipeline.errors import KuakaError
from pipeline.fleet import journal_schema
from pipeline.fleet.journal import JOURNAL_NAME, Journal
from pipeline.fleet.owner import Owner

DEAD = Owner(100, 1000, "boot")
ME = Owner(200, 2000, "boot")


def make_version_1(directory: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """A journal as kuaka wrote it before there were fleets, with a hand-over of a dead process in it."""
    with monkeypatch.context() as patch:
        patch.setattr(journal_schema, "_STEPS", journal_schema._STEPS[:1])
        with Journal.open(directory, DEAD) as journal:
            migration = journal.add_migration(
                journal.begin_run(), vm="db-1", session="s", kind="qemu", source={}, destination={}, state="begun"
            )
            journal.record_hand_over(migration)
    return migration


def version(directory: Path) -> int:
    raw = sqlite3.connect(directory / JOURNAL_NAME)
    (found,) = raw.execute("PRAGMA user_version").fetchone()
    raw.close()
    return int(found)


def test_what_was_recorded_before_is_there_afterwards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    migration = make_version_1(tmp_path, monkeypatch)
    assert version(tmp_path) == 1
    with Journal.open(tmp_path, ME) as journal:
        assert journal.migration(migration).handed_over
        (run,) = journal.unfinished(lambda owner: owner == ME)
        assert journal.take_over(run)
        journal.finish_migration(migration, "completed")
        journal.finish_run(run.id)
        assert journal.file.rows("SELECT count(*) FROM fleet", ()) == [(0,)]
    assert version(tmp_path) == journal_schema.VERSION == 2


def test_a_process_that_has_the_older_journal_open_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    migration = make_version_1(tmp_path, monkeypatch)
    raw = sqlite3.connect(tmp_path / JOURNAL_NAME, isolation_level=None)
    with Journal(raw, tmp_path / JOURNAL_NAME, DEAD) as older:
        Journal.open(tmp_path, ME).close()
        older.finish_migration(migration, "completed")
        assert older.migration(migration).finished


def test_an_upgrade_that_stops_half_way_has_changed_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    migration = make_version_1(tmp_path, monkeypatch)
    runs, fleets = journal_schema._STEPS
    with monkeypatch.context() as patch:
        patch.setattr(journal_schema, "_STEPS", (runs, fleets.replace("COMMIT;", "SELECT no_such_column;")))
        with pytest.raises(KuakaError, match="no such column"):
            Journal.open(tmp_path, ME)
    assert version(tmp_path) == 1
    with Journal.open(tmp_path, ME) as journal:
        assert journal.migration(migration).handed_over
    assert version(tmp_path) == 2


def test_a_transaction_that_raises_leaves_nothing(tmp_path: Path) -> None:
    with Journal.open(tmp_path, ME) as journal:
        with pytest.raises(ZeroDivisionError):
            journal.file.transaction(
                lambda execute: (execute("INSERT INTO controller VALUES (1, 2, 3, 'boot')"), 1 // 0)
            )
        assert journal.file.rows("SELECT * FROM controller", ()) == []
