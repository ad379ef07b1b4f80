"""What a controller's fleets look like from outside: taken on request, on its loop. Metrics are made from it."""

from collections.abc import Iterable
from dataclasses import dataclass

from pipeline.fleet.cases import Case, FleetCase
from pipeline.fleet.fleets import CommandKind
from pipeline.fleet.lifecycle import State
from pipeline.memory.pages import PAGE_BYTES


@dataclass(frozen=True, slots=True)
class MigrationFacts:
    """One machine of a fleet that is under way."""

    vm: str
    kind: str
    state: State
    source: str
    destination: str
    #: Its memory, as the host says or else its spec.
    memory_bytes: int
    #: Of that, what has been moved: all of it once it has ended, however it has.
    moved_bytes: int


@dataclass(frozen=True, slots=True)
class FleetFacts:
    """One fleet that is under way."""

    fleet: str
    paused: bool
    submitted_ns: int
    weight: int
    migrations: tuple[MigrationFacts, ...]


def fleet_facts(fleets: Iterable[FleetCase]) -> list[FleetFacts]:
    """A snapshot, O(machines)."""
    return [
        FleetFacts(
            fleet.id,
            fleet.wants(CommandKind.PAUSE, ""),
            fleet.submitted_ns,
            fleet.weight,
            tuple(_migration(case) for case in fleet.cases.values()),
        )
        for fleet in fleets
    ]


def _migration(case: Case) -> MigrationFacts:
    order = case.order
    progress = None if case.running is None else case.running.progress
    memory_bytes = (progress.total_bytes if progress is not None else 0) or order.request.memory_bytes
    moved_bytes = 0
    if case.ended:
        moved_bytes = memory_bytes
    elif progress is not None:
        # Later rounds send pages again: how far it is shows only in that it has not ended.
        moved_bytes = min(progress.counters.pages * PAGE_BYTES, memory_bytes)
    return MigrationFacts(
        order.vm,
        order.kind,
        case.record.state,
        order.request.source,
        order.request.destination,
        memory_bytes,
        moved_bytes,
    )
