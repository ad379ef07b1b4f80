"""What a controller makes of a spec: the same whenever it is read."""

from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import SpecError
from pipeline.fleet.read_fleet import fields_of, read_fleet
from pipeline.fleet.spec_file import load_spec
from tests.conftest import ROOT

EXAMPLES = sorted((ROOT / "examples").glob("*fleet*.yaml"))


def fields(path: Path) -> dict[str, Any]:
    return fields_of(load_spec(path))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: str(path.stem))
def test_examples_are_read_alike_by_every_controller(path: Path) -> None:
    spec = load_spec(path)
    order = read_fleet("drain", fields(path))
    assert order == read_fleet("drain", fields(path))
    assert [each.vm for each in order.vms] == [vm.name for vm in spec.spec.virtual_machines]
    assert {each.request.fleet for each in order.vms} == {"drain"}
    assert len({each.request.id for each in order.vms}) == len(order.vms)
    assert order.limits.cluster <= spec.spec.parallel_migrations_per_cluster


def test_both_ends_of_a_machine_are_places_that_no_other_migration_touches() -> None:
    order = read_fleet("f", fields(EXAMPLES[0]))
    for each in order.vms:
        assert len(each.endpoints) == 2
        assert {place.partition(":")[0] for place in each.endpoints} == {each.request.source, each.request.destination}


@pytest.mark.parametrize("broken", [{}, {"apiVersion": "kuaka/v1"}, {"apiVersion": "kuaka/v9", "kind": "Fleet"}])
def test_spec_of_another_kuaka_is_refused_with_a_line_for_every_field(broken: dict[str, Any]) -> None:
    with pytest.raises(SpecError) as refused:
        read_fleet("f", broken)
    lines = str(refused.value).splitlines()
    assert all(line.startswith("fleet f: ") for line in lines)
    assert any(line.startswith("fleet f: spec") for line in lines)


@pytest.mark.parametrize(
    ("memory", "refused"), [({"memory": "64GiB"}, True), ({}, False), ({"memory": "16MiB"}, False)]
)
def test_machine_that_can_never_be_done_in_time_is_refused_where_its_size_is_known(
    memory: dict[str, str], refused: bool
) -> None:
    machine = {"name": "vm", "kind": "image", "source": {"host": "a", "path": "/a"}, **memory}
    spec = {
        "bandwidthPerMigration": "1MB",
        "hosts": [{"name": "a"}, {"name": "b"}],
        "virtualMachines": [{**machine, "destination": {"host": "b", "path": "/b"}}],
    }
    fields = {"apiVersion": "kuaka/v1", "kind": "Fleet", "metadata": {"name": "f"}, "spec": spec}
    if refused:
        with pytest.raises(SpecError, match="fleet f: vm: "):
            read_fleet("f", fields)
    else:
        assert len(read_fleet("f", fields).vms) == 1
