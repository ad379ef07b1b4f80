"""The journal: what must be known to clean up after a killed command, and to never let two guests run.

An SQLite file (WAL, synchronous=FULL) in the state directory, shared by every kuaka process of one user on one
machine. The rules:

1. What returned is on disk. The hand-over of a guest is recorded before the destination is told to run, so after it the
   source must never be continued, and without it the destination must never be. It is taken back only where the
   destination is gone for certain.
2. A run has one owner. Only the owner's process records anything about it; after the owner's death another takes the
   run over, atomically, and an owner that was only thought dead is refused from then on: it cannot hand a guest over.
3. Every change is one statement in a transaction of its own: a process killed in the middle of one has changed nothing.

It says nothing about how to clean up: `source` and `destination` are whatever the kind of migration needs for that.
"""

import json
import sqlite3
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from pipeline.errors import KuakaError
from pipeline.fleet.journal_file import JournalFile, connect
from pipeline.fleet.owner import Owner

JOURNAL_NAME = "journal.sqlite"
#: Finished runs that are kept; older ones are forgotten when a run begins.
KEPT_RUNS = 1000
#: How long one process waits for another's transaction. Transactions last milliseconds.
BUSY_TIMEOUT_S = 10.0

_OWN_RUNS = "(SELECT id FROM run WHERE finished = 0 AND pid = ? AND started_ticks = ? AND boot_id = ?)"
_MIGRATION = "id, run, vm, session, kind, source, destination, state, handed_over, finished, error"


@dataclass(frozen=True, slots=True)
class Migration:
    """One migration as recorded."""

    id: int
    run: int
    vm: str
    #: The session's 32 hexadecimal digits; no two migrations share one.
    session: str
    kind: str
    #: What a clean-up at either end needs, as JSON values.
    source: dict[str, Any]
    destination: dict[str, Any]
    state: str
    #: The guest belongs to the destination: its source must never run again.
    handed_over: bool
    finished: bool
    error: str | None


@dataclass(frozen=True, slots=True)
class Run:
    """A command that began and did not say that it ended, with those of its migrations that did not, either."""

    id: int
    owner: Owner
    migrations: tuple[Migration, ...]


class Journal:
    """One process's access to the journal, for any of its threads. Every method raises `KuakaError` in one line."""

    def __init__(
        self, connection: sqlite3.Connection, path: Path, owner: Owner, clock: Callable[[], int] = time.time_ns
    ) -> None:
        self.path = path
        self.owner = owner
        self.clock = clock
        #: The same file for `fleets`, whose tables are in it, too.
        self.file = JournalFile(connection, path)

    @classmethod
    def open(
        cls,
        directory: Path,
        owner: Owner,
        *,
        clock: Callable[[], int] = time.time_ns,
        busy_timeout_s: float = BUSY_TIMEOUT_S,
    ) -> "Journal":
        """The journal in `directory`, made if missing; `clock` gives nanoseconds since 1970."""
        path = directory / JOURNAL_NAME
        return cls(connect(path, busy_timeout_s), path, owner, clock)

    def begin_run(self) -> int:
        """Record that this process starts migrating; returns the run's id. Forgets the oldest finished runs."""
        ((run,),) = self.file.rows(
            "INSERT INTO run (pid, started_ticks, boot_id, created_ns) VALUES (?, ?, ?, ?) RETURNING id",
            (self.owner.pid, self.owner.started_ticks, self.owner.boot_id, self.clock()),
        )
        self.file.change("DELETE FROM run WHERE finished = 1 AND id <= ?", (run - KEPT_RUNS,))
        return int(run)

    def add_migration(
        self,
        run: int,
        *,
        vm: str,
        session: str,
        kind: str,
        source: Mapping[str, Any],
        destination: Mapping[str, Any],
        state: str,
    ) -> int:
        """Record a migration of an own run before it touches anything; returns its id."""
        row = self.file.row(
            "INSERT INTO migration (run, vm, session, kind, source, destination, state)"
            f" SELECT ?, ?, ?, ?, ?, ?, ? WHERE ? IN {_OWN_RUNS} RETURNING id",
            (run, vm, session, kind, json.dumps(source), json.dumps(destination), state, run, *self._me),
        )
        if row is None:
            raise KuakaError(self._lost(f"run {run}"))
        return int(row[0])

    def set_state(self, migration: int, state: str) -> None:
        """Record how far an own, unfinished migration is."""
        self._change_own("UPDATE migration SET state = ?", (state,), migration)

    def record_hand_over(self, migration: int) -> None:
        """Record that the guest belongs to its destination; durable when it returns. Doing it again changes nothing.

        A raise means that the destination must not be told to run.
        """
        self._change_own("UPDATE migration SET handed_over = 1", (), migration)

    def record_take_back(self, migration: int) -> None:
        """Record that the guest belongs to its source again: its destination was removed for certain."""
        self._change_own("UPDATE migration SET handed_over = 0", (), migration)

    def finish_migration(self, migration: int, state: str, error: str | None = None) -> None:
        """Record the end of an own migration, after which nothing of it is left to clean up."""
        self._change_own("UPDATE migration SET finished = 1, state = ?, error = ?", (state, error), migration)

    def finish_run(self, run: int) -> None:
        """Record the end of an own run; refused while one of its migrations is unfinished."""
        changed = self.file.change(
            "UPDATE run SET finished = 1 WHERE id = ? AND pid = ? AND started_ticks = ? AND boot_id = ?"
            " AND NOT EXISTS (SELECT 1 FROM migration WHERE run = run.id AND finished = 0)",
            (run, *self._me),
        )
        if not changed:
            raise KuakaError(self._lost(f"run {run}", ", or has unfinished migrations"))

    def migration(self, migration: int) -> Migration:
        """One migration, as any process recorded it."""
        row = self.file.row(f"SELECT {_MIGRATION} FROM migration WHERE id = ?", (migration,))
        if row is None:
            raise KuakaError(f"journal {self.path} has no migration {migration}")
        return _migration(row)

    def of_session(self, session: str) -> Migration | None:
        """The migration of that session, as any process recorded it; None when none was."""
        row = self.file.row(f"SELECT {_MIGRATION} FROM migration WHERE session = ?", (session,))
        return None if row is None else _migration(row)

    def unfinished(self, is_alive: Callable[[Owner], bool]) -> list[Run]:
        """Runs whose owner died before they were finished, oldest first."""
        rows = self.file.rows("SELECT id, pid, started_ticks, boot_id FROM run WHERE finished = 0 ORDER BY id", ())
        owned = [(number, Owner(*who)) for number, *who in rows]
        return [Run(number, owner, self._unfinished_of(number)) for number, owner in owned if not is_alive(owner)]

    def take_over(self, run: Run) -> bool:
        """Make this process the owner of a dead one's run; False when another process was faster."""
        dead = run.owner
        changed = self.file.change(
            "UPDATE run SET pid = ?, started_ticks = ?, boot_id = ?"
            " WHERE id = ? AND finished = 0 AND pid = ? AND started_ticks = ? AND boot_id = ?",
            (*self._me, run.id, dead.pid, dead.started_ticks, dead.boot_id),
        )
        return changed == 1

    def close(self) -> None:
        """Release the file."""
        self.file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def _me(self) -> tuple[int, int, str]:
        return self.owner.pid, self.owner.started_ticks, self.owner.boot_id

    def _unfinished_of(self, run: int) -> tuple[Migration, ...]:
        rows = self.file.rows(f"SELECT {_MIGRATION} FROM migration WHERE run = ? AND finished = 0 ORDER BY id", (run,))
        return tuple(_migration(row) for row in rows)

    def _change_own(self, update: str, values: tuple[Any, ...], migration: int) -> None:
        changed = self.file.change(
            f"{update} WHERE id = ? AND finished = 0 AND run IN {_OWN_RUNS}", (*values, migration, *self._me)
        )
        if not changed:
            raise KuakaError(self._lost(f"migration {migration}"))

    def _lost(self, what: str, otherwise: str = "") -> str:
        return f"journal {self.path}: {what} is finished, unknown or taken over by another kuaka process{otherwise}"


def _migration(row: tuple[Any, ...]) -> Migration:
    number, run, vm, session, kind, source, destination, state, handed_over, finished, error = row
    return Migration(
        number,
        run,
        vm,
        session,
        kind,
        json.loads(source),
        json.loads(destination),
        state,
        bool(handed_over),
        bool(finished),
        error,
    )
