"""A fleet's figures: memory as hosts say, as the spec says, or as that of the fleet's usual machine."""

from typing import Any

from pipeline.fleet.cases import FleetCase, fleet_case
from pipeline.fleet.fleet_statistics import fleet_facts
from pipeline.fleet.fleets import FleetRecord, MigrationRecord
from pipeline.fleet.lifecycle import State
from pipeline.fleet.read_fleet import read_fleet
from pipeline.fleet.results import MigrationResult, Status
from tests.fleet.plan.specs import document

MIB, GIB = 1 << 20, 1 << 30


def image(name: str, **other: Any) -> dict[str, Any]:
    ends = {end: {"host": host, "path": f"/{host}/{name}.ram"} for end, host in (("source", "a"), ("destination", "b"))}
    return {"name": name, "kind": "image", **ends, **other}


def guest(name: str, **other: Any) -> dict[str, Any]:
    ends = {end: {"host": host, "qmp": f"/{host}/{name}.qmp"} for end, host in (("source", "a"), ("destination", "b"))}
    return {"name": name, "kind": "qemu", "sharedStorage": True, **ends, **other}


def fleet(*machines: dict[str, Any], arrived: dict[str, int] | None = None) -> FleetCase:
    """None of it runs; images of `arrived` have completed, so many bytes each."""
    spec = document([{"name": "a"}, {"name": "b"}], machines, "drain")
    records = []
    for each in machines:
        size = (arrived or {}).get(each["name"])
        result = None if size is None else MigrationResult(each["name"], "image", Status.COMPLETED, raw_bytes=size)
        state = State.PENDING if size is None else State.SUCCEEDED
        records.append(MigrationRecord(1, each["name"], state, 1, 0, 0, "", None, result))
    record = FleetRecord(1, "drain", spec, 0, 0, False, tuple(records), {})
    return fleet_case(record, read_fleet("drain", spec))


def sizes(found: FleetCase) -> list[int]:
    (facts,) = fleet_facts([found])
    return [each.memory_bytes for each in facts.migrations]


def test_memory_is_what_the_spec_says_until_a_host_says_it_and_then_for_good() -> None:
    found = fleet(image("one", memory="64MiB"), image("two", memory="32MiB"))
    assert sizes(found) == [64 * MIB, 32 * MIB]
    # Nothing of it runs any more.
    found.cases["one"].said_bytes = 65 * MIB
    assert sizes(found) == [65 * MIB, 32 * MIB]


def test_a_machine_that_nobody_speaks_of_counts_as_the_others_of_its_kind() -> None:
    found = fleet(image("one"), image("two", memory="32MiB"), image("three"), guest("four"))
    assert sizes(found) == [32 * MIB, 32 * MIB, 32 * MIB, 4 * GIB]
    found.cases["three"].said_bytes = 16 * MIB
    assert sizes(found) == [24 * MIB, 32 * MIB, 16 * MIB, 4 * GIB]


def test_an_image_that_arrived_unseen_was_as_large_as_what_was_sent() -> None:
    found = fleet(image("one"), image("two"), arrived={"one": 8 * MIB})
    assert sizes(found) == [8 * MIB, 8 * MIB]
    (facts,) = fleet_facts([found])
    assert [each.moved_bytes for each in facts.migrations] == [8 * MIB, 0]


def test_a_plans_assumption_stands_where_nothing_else_does() -> None:
    assert sizes(fleet(image("one"), image("two"))) == [GIB, GIB]
