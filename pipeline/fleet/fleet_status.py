"""What a controller answers: snapshots that cross hosts."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from pipeline.fleet.cases import FleetCase
from pipeline.fleet.fleets import CommandKind, FleetRecord, MigrationRecord
from pipeline.fleet.lifecycle import State
from pipeline.fleet.orders import MigrationProgress
from pipeline.fleet.results import MigrationResult


class FleetState(StrEnum):
    """Where a fleet is."""

    ACTIVE = "Active"
    PAUSED = "Paused"
    FINISHED = "Finished"


@dataclass(frozen=True, slots=True)
class Accepted:
    """A fleet is recorded; `new` is False for one that was before."""

    fleet: str
    new: bool


@dataclass(frozen=True, slots=True)
class MigrationStatus:
    """One machine."""

    vm: str
    state: State
    attempt: int
    #: Why it is in that state, or what it waits for: "2/2 outbound on a".
    reason: str
    #: As last seen at its source; None where nothing runs or was seen yet.
    progress: MigrationProgress | None
    result: MigrationResult | None


@dataclass(frozen=True, slots=True)
class FleetStatus:
    """One fleet, its machines in the order of its spec."""

    fleet: str
    state: FleetState
    submitted_ns: int
    migrations: tuple[MigrationStatus, ...]


def status_of_case(fleet: FleetCase) -> FleetStatus:
    """A fleet that is under way."""
    migrations = tuple(
        _status(case.record, case.waiting, None if case.running is None else case.running.progress)
        for case in fleet.cases.values()
    )
    state = FleetState.PAUSED if fleet.wants(CommandKind.PAUSE, "") else FleetState.ACTIVE
    return FleetStatus(fleet.id, state, fleet.submitted_ns, migrations)


def status_of_record(fleet: FleetRecord) -> FleetStatus:
    """A fleet that nothing is done for any more."""
    migrations = tuple(_status(record, "", None) for record in fleet.migrations)
    # One that has not finished was left aside.
    state = FleetState.FINISHED if fleet.finished else FleetState.ACTIVE
    return FleetStatus(fleet.id, state, fleet.submitted_ns, migrations)


def results_of(migrations: Sequence[MigrationStatus]) -> list[MigrationResult]:
    """The results of those that have ended."""
    return [each.result for each in migrations if each.result is not None and each.state in _WITH_RESULT]


_WITH_RESULT = frozenset((State.SUCCEEDED, State.FAILED, State.CANCELLED))


def _status(record: MigrationRecord, waiting: str, progress: MigrationProgress | None) -> MigrationStatus:
    return MigrationStatus(record.vm, record.state, record.attempt, waiting or record.reason, progress, record.result)
