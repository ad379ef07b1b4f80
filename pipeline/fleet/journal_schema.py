"""The tables of the journal's file, version by version: a file of an older version is brought up to date in place.

A step is one transaction: a process killed in the middle of one leaves the file as it was. Steps only add, so that a
process of the older version that has the file open goes on with what it knows.
"""

import sqlite3
from pathlib import Path

from pipeline.errors import KuakaError

_RUNS = """
BEGIN IMMEDIATE;
CREATE TABLE run (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    pid INTEGER NOT NULL,
    started_ticks INTEGER NOT NULL,
    boot_id TEXT NOT NULL,
    created_ns INTEGER NOT NULL,
    finished INTEGER NOT NULL DEFAULT 0 CHECK (finished IN (0, 1))
) STRICT;
CREATE TABLE migration (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    run INTEGER NOT NULL REFERENCES run (id) ON DELETE CASCADE,
    vm TEXT NOT NULL,
    session TEXT NOT NULL UNIQUE,
    kind TEXT NOT NULL,
    source TEXT NOT NULL,
    destination TEXT NOT NULL,
    state TEXT NOT NULL,
    handed_over INTEGER NOT NULL DEFAULT 0 CHECK (handed_over IN (0, 1)),
    finished INTEGER NOT NULL DEFAULT 0 CHECK (finished IN (0, 1)),
    error TEXT
) STRICT;
CREATE INDEX migration_by_run ON migration (run);
PRAGMA user_version = 1;
COMMIT;
"""

#: `fleet_migration.session` is `migration.session` of the attempt that runs or ran last; there is no reference, for it
#: is recorded before the attempt is. `fleet_command.vm` and `fleet_event.vm` are empty where the whole fleet is meant.
_FLEETS = """
BEGIN IMMEDIATE;
CREATE TABLE controller (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    pid INTEGER NOT NULL,
    started_ticks INTEGER NOT NULL,
    boot_id TEXT NOT NULL
) STRICT;
CREATE TABLE fleet (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    spec TEXT NOT NULL,
    submitted_ns INTEGER NOT NULL,
    head_start_bytes INTEGER NOT NULL DEFAULT 0,
    finished INTEGER NOT NULL DEFAULT 0 CHECK (finished IN (0, 1))
) STRICT;
CREATE INDEX fleet_by_finished ON fleet (finished, number);
CREATE TABLE fleet_migration (
    fleet INTEGER NOT NULL REFERENCES fleet (number) ON DELETE CASCADE,
    position INTEGER NOT NULL,
    vm TEXT NOT NULL,
    state TEXT NOT NULL,
    attempt INTEGER NOT NULL DEFAULT 1,
    failures INTEGER NOT NULL DEFAULT 0,
    not_before_ns INTEGER NOT NULL DEFAULT 0,
    reason TEXT NOT NULL,
    session TEXT,
    result TEXT,
    PRIMARY KEY (fleet, vm)
) STRICT, WITHOUT ROWID;
CREATE TABLE fleet_command (
    fleet INTEGER NOT NULL REFERENCES fleet (number) ON DELETE CASCADE,
    vm TEXT NOT NULL,
    kind TEXT NOT NULL,
    value INTEGER,
    PRIMARY KEY (fleet, vm, kind)
) STRICT, WITHOUT ROWID;
CREATE TABLE fleet_event (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT,
    time_ns INTEGER NOT NULL,
    fleet INTEGER NOT NULL REFERENCES fleet (number) ON DELETE CASCADE,
    vm TEXT NOT NULL,
    state TEXT NOT NULL,
    reason TEXT NOT NULL
) STRICT;
CREATE INDEX fleet_event_by_fleet ON fleet_event (fleet, sequence);
PRAGMA user_version = 2;
COMMIT;
"""

#: What makes version N + 1 of version N.
_STEPS = (_RUNS, _FLEETS)
VERSION = len(_STEPS)


def set_up(connection: sqlite3.Connection, path: Path) -> None:
    """Make the file durable and bring its tables up to date. Raises `KuakaError` for a file of a later version."""
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA foreign_keys = ON")
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > VERSION:
        raise KuakaError(f"journal {path} has version {version}, this kuaka knows {VERSION}: use the newer kuaka")
    for step in _STEPS[version:]:
        connection.executescript(step)
