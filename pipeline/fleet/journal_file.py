"""The journal's SQLite file: opened, made and brought up to date once per process, used by any of its threads.

What returned is on disk. A change is one statement or one `transaction`: a process killed in the middle of one has
changed nothing. Every failure of the file is a `KuakaError` in one line.
"""

import contextlib
import fcntl
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol, TypeVar

from pipeline.errors import KuakaError
from pipeline.fleet.journal_schema import set_up

Result = TypeVar("Result")
Values = tuple[Any, ...]

_SET_UP_RETRY_S = 0.02


class Execute(Protocol):
    """Runs one statement of a transaction; all its rows."""

    def __call__(self, statement: str, values: Values = (), /) -> list[Values]: ...


class JournalFile:
    """One process's connection."""

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self.path = path
        self._connection = connection
        # A connection has one transaction, whichever thread began it.
        self._lock = threading.Lock()

    def change(self, statement: str, values: Values) -> int:
        """Run one statement; how many rows it changed."""
        with self._lock, one_line(self.path):
            return self._connection.execute(statement, values).rowcount

    def row(self, statement: str, values: Values) -> Values | None:
        """The first row of a statement, None when there is none."""
        rows = self.rows(statement, values)
        return rows[0] if rows else None

    def rows(self, statement: str, values: Values) -> list[Values]:
        """All rows of a statement, which may be one that changes."""
        with self._lock, one_line(self.path):
            # To the end: a statement that is still open keeps its transaction open.
            return self._connection.execute(statement, values).fetchall()

    def transaction(self, work: Callable[[Execute], Result]) -> Result:
        """Run `work` as one change: all of it is on disk when this returns, nothing of it when it raises."""

        def execute(statement: str, values: Values = (), /) -> list[Values]:
            return self._connection.execute(statement, values).fetchall()

        with self._lock, one_line(self.path):
            execute("BEGIN IMMEDIATE")
            try:
                result = work(execute)
                execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    execute("ROLLBACK")
                raise
            return result

    def close(self) -> None:
        """Release the file."""
        with self._lock, one_line(self.path):
            self._connection.close()


def connect(path: Path, busy_timeout_s: float) -> sqlite3.Connection:
    """A connection to the file at `path`, made or brought up to date if need be. Raises `KuakaError`."""
    with one_line(path), _set_up_alone(path.parent, busy_timeout_s):
        _create_private(path)
        connection = sqlite3.connect(
            path, timeout=busy_timeout_s, isolation_level=None, check_same_thread=False, cached_statements=64
        )
        try:
            set_up(connection, path)
        except BaseException:
            connection.close()
            raise
    return connection


@contextlib.contextmanager
def one_line(path: Path) -> Iterator[None]:
    """What goes wrong with the file inside is a `KuakaError` that says where to look."""
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        reason = error.strerror if isinstance(error, OSError) else " ".join(str(error).split())
        raise KuakaError(
            f"journal {path} cannot be used: {reason}: check the file, its directory and the disk"
        ) from None


@contextlib.contextmanager
def _set_up_alone(directory: Path, timeout_s: float) -> Iterator[None]:
    """Keep other processes out while a journal is made: the change to WAL does not wait for them, it fails."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for _ in range(int(timeout_s / _SET_UP_RETRY_S)):
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(_SET_UP_RETRY_S)
        else:
            raise KuakaError(f"directory {directory} stays locked by another kuaka process: see what it is doing")
        yield
        # The name of a journal just made is as durable as what will be in it.
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _create_private(path: Path) -> None:
    # SQLite gives its -wal and -shm files the mode of the file itself.
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
