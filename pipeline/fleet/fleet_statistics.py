"""What a controller's fleets look like from outside: taken on request, on its loop. Metrics are made from it."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from pipeline.fleet.cases import Case, FleetCase
from pipeline.fleet.fleets import CommandKind
from pipeline.fleet.lifecycle import State
from pipeline.fleet.results import Status
from pipeline.memory.pages import PAGE_BYTES


@dataclass(frozen=True, slots=True)
class MigrationFacts:
    """One machine of a fleet that is under way."""

    vm: str
    kind: str
    state: State
    source: str
    destination: str
    #: Its memory, as its host says or else its spec; where neither does, as much as the fleet's others of its kind.
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
            fleet.id, fleet.wants(CommandKind.PAUSE, ""), fleet.submitted_ns, fleet.weight, tuple(_migrations(fleet))
        )
        for fleet in fleets
    ]


def _migrations(fleet: FleetCase) -> Iterator[MigrationFacts]:
    known: dict[str, list[int]] = {}
    for case in fleet.cases.values():
        if size := _known_bytes(case):
            known.setdefault(case.order.kind, []).append(size)
    usual = {kind: sum(sizes) // len(sizes) for kind, sizes in known.items()}
    for case in fleet.cases.values():
        yield _migration(case, _known_bytes(case) or usual.get(case.order.kind) or case.memory_bytes)


def _known_bytes(case: Case) -> int:
    """0 for what nobody has said. All of an image travels once, a guest's memory may do so more often."""
    if case.said_bytes or case.order.memory_known:
        return case.memory_bytes
    result = case.record.result
    if result is None or result.status is not Status.COMPLETED or case.order.kind != "image":
        return 0
    return result.raw_bytes


def _migration(case: Case, memory_bytes: int) -> MigrationFacts:
    order = case.order
    moved_bytes = 0
    if case.ended:
        moved_bytes = memory_bytes
    elif case.running is not None and case.running.progress is not None:
        # Later rounds send pages again: how far it is shows only in that it has not ended.
        moved_bytes = min(case.running.progress.counters.pages * PAGE_BYTES, memory_bytes)
    return MigrationFacts(
        order.vm,
        order.kind,
        case.record.state,
        order.request.source,
        order.request.destination,
        memory_bytes,
        moved_bytes,
    )
