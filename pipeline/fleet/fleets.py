"""The journal's part on fleets: what was asked for, how far it is, and what is still to be done after any crash.

The same file and the same rules as `journal`:

1. What returned is on disk.
2. One controller owns all fleets. Only its process records anything about them; when it is dead another takes its
   place, atomically, and one that was only thought dead is refused from then on (`ControllerReplaced`).
3. Every change is one transaction, and the event that tells of it is part of it: a process that is killed in the middle
   of one has changed nothing, and no state was ever reached without its event.
4. A migration's state follows `lifecycle` from the state that is recorded: a change that was made already, or that was
   decided on another state, is refused.
5. It is bounded: of fleets that have finished the last `KEPT_FLEETS` are kept, with their events and results.

Whether a guest was handed over is not said here but by `journal`, under the attempt's session.
"""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, TypeVar

from pipeline.errors import KuakaError, UsageError
from pipeline.fleet.events import EVENTS_PER_CALL, Event
from pipeline.fleet.journal import Journal
from pipeline.fleet.journal_file import Execute, Values
from pipeline.fleet.lifecycle import State, Trigger, follow, reason
from pipeline.fleet.owner import Owner
from pipeline.fleet.recorded_results import decode_result, encode_result
from pipeline.fleet.results import MigrationResult

Result = TypeVar("Result")

_log = logging.getLogger(__name__)

#: Finished fleets that are kept; older ones are forgotten when one is submitted.
KEPT_FLEETS = 200
#: What an event of a fleet says that is not of one of its machines.
SUBMITTED, CHANGED, FINISHED = "Submitted", "Changed", "Finished"

_FLEET = "number, id, spec, submitted_ns, head_start_bytes, finished"
_MIGRATION = "vm, state, attempt, failures, not_before_ns, reason, session, result"


class ControllerReplaced(KuakaError):
    """Another process has become the controller: this one must end at once and touch nothing any more."""


class CommandKind(StrEnum):
    """What a user may ask of a fleet that is under way."""

    CANCEL = "cancel"
    PAUSE = "pause"
    BANDWIDTH = "bandwidth"


@dataclass(frozen=True, slots=True)
class MigrationRecord:
    """One machine of a fleet, as recorded."""

    #: The fleet's number.
    fleet: int
    vm: str
    state: State
    #: Counts from 1; every one has a session and a destination of its own.
    attempt: int
    #: Attempts that failed; those that died with their controller are not its fault and do not count.
    failures: int
    #: Its next attempt does not begin earlier, nanoseconds since 1970.
    not_before_ns: int
    reason: str
    #: Of the attempt that runs or ran last.
    session: str | None
    result: MigrationResult | None


@dataclass(frozen=True, slots=True)
class FleetRecord:
    """A fleet, as recorded; machines in the order of its spec."""

    #: Order of submission.
    number: int
    id: str
    spec: dict[str, Any]
    submitted_ns: int
    #: What it counts as served from its beginning; see `plan.admission.head_start`.
    head_start_bytes: int
    finished: bool
    migrations: tuple[MigrationRecord, ...]
    #: What holds for it: by machine ("" for all) and kind. A cap of None was lifted.
    commands: Mapping[tuple[str, CommandKind], int | None]


class FleetJournal:
    """One process's access to the fleets. Every method raises `KuakaError` in one line."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        owner = journal.owner
        self._me = (owner.pid, owner.started_ticks, owner.boot_id)

    def claim(self, is_alive: Callable[[Owner], bool]) -> None:
        """Become the controller. Raises `KuakaError` when another one lives."""

        def work(execute: Execute) -> None:
            rows = execute("SELECT pid, started_ticks, boot_id FROM controller")
            if rows and rows[0] != self._me and is_alive(Owner(*rows[0])):
                raise KuakaError(
                    f"journal {self.journal.path} has a controller already, process {rows[0][0]}: use that one"
                )
            execute("INSERT OR REPLACE INTO controller VALUES (1, ?, ?, ?)", self._me)

        self.journal.file.transaction(work)

    def submit(self, fleet_id: str, spec: Mapping[str, Any], vms: Sequence[str], head_start_bytes: int = 0) -> bool:
        """Record a fleet, all its machines pending; False when that very fleet is recorded already.

        Raises `UsageError` for another spec under the same id.
        """
        text = json.dumps(spec, sort_keys=True)

        def work(execute: Execute) -> bool:
            if known := execute("SELECT spec FROM fleet WHERE id = ?", (fleet_id,)):
                if known[0][0] != text:
                    raise UsageError(f"fleet {fleet_id} is known with another spec: submit this one under another name")
                return False
            ((number,),) = execute(
                "INSERT INTO fleet (id, spec, submitted_ns, head_start_bytes) VALUES (?, ?, ?, ?) RETURNING number",
                (fleet_id, text, self.journal.clock(), head_start_bytes),
            )
            for position, vm in enumerate(vms):
                execute(
                    "INSERT INTO fleet_migration (fleet, position, vm, state, reason) VALUES (?, ?, ?, ?, ?)",
                    (number, position, vm, State.PENDING, "submitted"),
                )
            self._tell(execute, number, "", SUBMITTED, f"{len(vms)} migrations")
            execute(
                "DELETE FROM fleet WHERE finished = 1 AND number <= (SELECT number FROM fleet WHERE finished = 1"
                " ORDER BY number DESC LIMIT 1 OFFSET ?)",
                (KEPT_FLEETS,),
            )
            return True

        return self._change(work)

    def move(
        self, record: MigrationRecord, trigger: Trigger, why: str | None = None, **changed: Any
    ) -> MigrationRecord:
        """Record what happened to a migration, with its event; `changed` are other fields. What is recorded then."""
        why = why or reason(record.state, trigger)
        after = replace(record, state=follow(record.state, trigger), reason=why, **changed)

        def work(execute: Execute) -> MigrationRecord:
            result = None if after.result is None else encode_result(after.result)
            rows = execute(
                "UPDATE fleet_migration SET state = ?, attempt = ?, failures = ?, not_before_ns = ?, reason = ?,"
                " session = ?, result = ? WHERE fleet = ? AND vm = ? AND state = ? AND attempt = ? RETURNING 1",
                (
                    after.state,
                    after.attempt,
                    after.failures,
                    after.not_before_ns,
                    why,
                    after.session,
                    result,
                    record.fleet,
                    record.vm,
                    record.state,
                    record.attempt,
                ),
            )
            if not rows:
                raise KuakaError(
                    f"journal {self.journal.path}: {record.vm} is not {record.state} any more: nothing was changed"
                )
            self._tell(execute, record.fleet, record.vm, after.state, why)
            return after

        recorded = self._change(work)
        if _log.isEnabledFor(logging.INFO):
            ids = {"fleet": self._id(after.fleet), "vm": after.vm, "migration": after.session}
            _log.info("%s is %s: %s", after.vm, after.state, why, extra=ids)
        return recorded

    def tell(self, fleet: int, vm: str, state: str, why: str) -> None:
        """Record an event that changes no state."""
        self._change(lambda execute: self._tell(execute, fleet, vm, state, why))

    def command(self, fleet: int, vm: str, kind: CommandKind, value: int | None, why: str) -> None:
        """Record what the user wants, until it is withdrawn or the fleet has finished; the last word counts."""

        def work(execute: Execute) -> None:
            execute("INSERT OR REPLACE INTO fleet_command VALUES (?, ?, ?, ?)", (fleet, vm, kind, value))
            self._tell(execute, fleet, vm, CHANGED, why)

        self._change(work)

    def withdraw(self, fleet: int, vm: str, kind: CommandKind, why: str) -> None:
        """Record that the user wants that no more."""

        def work(execute: Execute) -> None:
            execute("DELETE FROM fleet_command WHERE fleet = ? AND vm = ? AND kind = ?", (fleet, vm, kind))
            self._tell(execute, fleet, vm, CHANGED, why)

        self._change(work)

    def finish(self, fleet: int, why: str) -> None:
        """Record that all of a fleet's migrations have ended."""

        def work(execute: Execute) -> None:
            execute("UPDATE fleet SET finished = 1 WHERE number = ?", (fleet,))
            execute("DELETE FROM fleet_command WHERE fleet = ?", (fleet,))
            self._tell(execute, fleet, "", FINISHED, why)

        self._change(work)

    def unfinished(self) -> list[FleetRecord]:
        """Fleets that have not finished, in the order of their submission."""
        return self._fleets("finished = 0", ())

    def fleet(self, fleet_id: str) -> FleetRecord | None:
        """One fleet, finished or not."""
        found = self._fleets("id = ?", (fleet_id,))
        return found[0] if found else None

    def fleet_ids(self) -> list[str]:
        """All fleets that are kept, in the order of their submission."""
        return [row[0] for row in self.journal.file.rows("SELECT id FROM fleet ORDER BY number", ())]

    def events(self, fleet_id: str | None, after: int = 0) -> list[Event]:
        """The events of one fleet or of all with a sequence above `after`, oldest first, `EVENTS_PER_CALL` at most."""
        where, values = ("AND fleet.id = ?", (fleet_id,)) if fleet_id is not None else ("", ())
        rows = self.journal.file.rows(
            "SELECT sequence, time_ns, fleet.id, vm, state, reason FROM fleet_event"
            f" JOIN fleet ON fleet.number = fleet_event.fleet WHERE sequence > ? {where} ORDER BY sequence LIMIT ?",
            (after, *values, EVENTS_PER_CALL),
        )
        return [Event(*row) for row in rows]

    def last_event(self) -> int:
        """The sequence of the newest event; 0: there was none."""
        ((newest,),) = self.journal.file.rows("SELECT MAX(sequence) FROM fleet_event", ())
        return newest or 0

    def sessions(self) -> set[str]:
        """The sessions of all fleets' last attempts."""
        return {row[0] for row in self.journal.file.rows("SELECT session FROM fleet_migration", ()) if row[0]}

    def spec_of_session(self, session: str) -> dict[str, Any]:
        """The spec of the fleet whose machine has that session. Raises `KuakaError` when there is none."""
        row = self.journal.file.row(
            "SELECT spec FROM fleet JOIN fleet_migration ON fleet_migration.fleet = fleet.number WHERE session = ?",
            (session,),
        )
        if row is None:
            raise KuakaError(f"journal {self.journal.path} has no fleet of session {session[:8]}")
        spec: dict[str, Any] = json.loads(row[0])
        return spec

    def _id(self, number: int) -> str | None:
        row = self.journal.file.row("SELECT id FROM fleet WHERE number = ?", (number,))
        return None if row is None else str(row[0])

    def _fleets(self, where: str, values: Values) -> list[FleetRecord]:
        rows = self.journal.file.rows(f"SELECT {_FLEET} FROM fleet WHERE {where} ORDER BY number", values)
        return [self._fleet(row) for row in rows]

    def _fleet(self, row: Values) -> FleetRecord:
        number, fleet_id, spec, submitted_ns, head_start_bytes, finished = row
        return FleetRecord(
            number,
            fleet_id,
            json.loads(spec),
            submitted_ns,
            head_start_bytes,
            bool(finished),
            self._of(number),
            self._wishes(number),
        )

    def _of(self, fleet: int) -> tuple[MigrationRecord, ...]:
        rows = self.journal.file.rows(
            f"SELECT {_MIGRATION} FROM fleet_migration WHERE fleet = ? ORDER BY position", (fleet,)
        )
        return tuple(_migration(fleet, row) for row in rows)

    def _wishes(self, fleet: int) -> dict[tuple[str, CommandKind], int | None]:
        rows = self.journal.file.rows("SELECT vm, kind, value FROM fleet_command WHERE fleet = ?", (fleet,))
        return {(vm, CommandKind(kind)): value for vm, kind, value in rows}

    def _change(self, work: Callable[[Execute], Result]) -> Result:
        def owned(execute: Execute) -> Result:
            where = "pid = ? AND started_ticks = ? AND boot_id = ?"
            if not execute(f"SELECT 1 FROM controller WHERE {where}", self._me):
                raise ControllerReplaced(f"journal {self.journal.path}: another process is the controller now")
            return work(execute)

        return self.journal.file.transaction(owned)

    def _tell(self, execute: Execute, fleet: int, vm: str, state: str, why: str) -> None:
        execute(
            "INSERT INTO fleet_event (time_ns, fleet, vm, state, reason) VALUES (?, ?, ?, ?, ?)",
            (self.journal.clock(), fleet, vm, state, why),
        )


def _migration(fleet: int, row: Values) -> MigrationRecord:
    vm, state, attempt, failures, not_before_ns, why, session, result = row
    return MigrationRecord(
        fleet,
        vm,
        State(state),
        attempt,
        failures,
        not_before_ns,
        why,
        session,
        decode_result(result) if result else None,
    )
