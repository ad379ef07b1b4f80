"""Spec files: every problem of one, at once, in a line each."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.errors import ExitCode, SpecError
from pipeline.fleet.spec_file import MAX_PROBLEMS_SHOWN, load_spec

TLS = {"ca": "/t/ca.pem", "certificate": "/t/a.pem", "key": "/t/a.key"}
GOOD: dict[str, Any] = {
    "apiVersion": "kuaka/v1",
    "kind": "Fleet",
    "metadata": {"name": "test"},
    "spec": {
        "hosts": [{"name": "a"}, {"name": "b", "node": "10.0.0.2"}],
        "virtualMachines": [
            {
                "name": "live",
                "kind": "qemu",
                "source": {"host": "a", "qmp": "/run/live.qmp"},
                "destination": {"host": "b", "qmp": "/run/live.qmp", "prepare": "start", "cleanup": ["stop", "it"]},
            },
            {
                "name": "image",
                "kind": "image",
                "source": {"host": "a", "path": "/images/1"},
                "destination": {"host": "a", "path": "/images/2"},
            },
        ],
    },
}


def load(tmp_path: Path, document: Any) -> None:
    path = tmp_path / "f.yaml"
    path.write_text(yaml.safe_dump(document))
    load_spec(path)


def problems(tmp_path: Path, document: Any) -> list[str]:
    """The lines of the refusal, without the file's name."""
    with pytest.raises(SpecError) as caught:
        load(tmp_path, document)
    assert caught.value.exit_code == ExitCode.SPEC_REJECTED
    lines = str(caught.value).split("\n")
    assert all(line.startswith(f"{tmp_path}/f.yaml: ") for line in lines)
    return [line.removeprefix(f"{tmp_path}/f.yaml: ") for line in lines]


def changed(at: str, value: Any) -> dict[str, Any]:
    """The good document with one field, named by its path, set; `...` removes it."""
    document = deepcopy(GOOD)
    *parents, last = [int(part) if part.isdigit() else part for part in at.split(".")]
    place: Any = document
    for part in parents:
        place = place[part]
    if value is ...:
        del place[last]
    elif isinstance(place, list) and last == len(place):
        place.append(value)
    else:
        place[last] = value
    return document


def machine(index: int, **fields: Any) -> dict[str, Any]:
    found: dict[str, Any] = {**GOOD["spec"]["virtualMachines"][index], **fields}
    return found


def test_a_good_spec_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / "f.yaml"
    path.write_text(yaml.safe_dump(GOOD))
    spec = load_spec(path)
    assert spec.metadata.name == "test"
    assert [vm.name for vm in spec.spec.virtual_machines] == ["live", "image"]


@pytest.mark.parametrize(
    ("at", "value", "line"),
    [
        ("apiVersion", "kuaka/v2", "apiVersion: 'kuaka/v2' cannot be: it should be 'kuaka/v1'"),
        ("metadata", ..., "metadata: is missing: add it"),
        ("spec.chanels", 4, "spec.chanels: is not a field of a spec: remove it or correct its name"),
        ("spec.channels", "4", "spec.channels: '4' is not a whole number: write it without quotes"),
        ("spec.channels", 256, "spec.channels: 256 cannot be: it should be less than or equal to 255"),
        ("spec.level", 33, "spec.level: level 33 does not exist for zstd: choose 1 to 19"),
        ("spec.codec", "none", None),
        ("spec.hosts", None, "spec.hosts: null is not a list: give one"),
        ("spec.hosts", [], "spec.hosts: has 0 items: give at least one and at most 1000"),
        ("spec.hosts.0.name", 7, "spec.hosts[0].name: 7 is not a string: put it in quotes"),
        ("spec.hosts.1.name", "a", "spec.hosts[1].name: 'a' is the name of spec.hosts[0], too: choose another"),
        (
            "spec.tls",
            {"ca": "x"},
            "spec.tls.ca: 'x' is no absolute path: it is used on the host named, begin it with '/'",
        ),
        (
            "spec.virtualMachines.0",
            7,
            "spec.virtualMachines[0]: 7 is not a mapping of fields: write its fields below it",
        ),
        (
            "spec.virtualMachines.0.kind",
            ...,
            "spec.virtualMachines[0].kind: kind is missing: add kind: qemu or kind: image",
        ),
        (
            "spec.virtualMachines.0.kind",
            "xen",
            "spec.virtualMachines[0].kind: kind is unknown: write kind: qemu or kind: image",
        ),
        ("spec.virtualMachines.0.source.qmp", ..., "spec.virtualMachines[0].source.qmp: is missing: add it"),
        (
            "spec.virtualMachines.1.source.host",
            "c",
            "spec.virtualMachines[1].source.host: there is no host 'c': add it to spec.hosts",
        ),
        (
            "spec.virtualMachines.1.level",
            0,
            "spec.virtualMachines[1].level: level 0 does not exist for zstd: choose 1 to 19",
        ),
        (
            "spec.virtualMachines.1.destination.path",
            "/images/../images//1",
            (
                "spec.virtualMachines[1].destination.path: /images/1 is spec.virtualMachines[1].source.path, too,"
                " on the same machine: give each its own"
            ),
        ),
        (
            "spec.virtualMachines.1.destination.reuse",
            "/images/2",
            (
                "spec.virtualMachines[1].destination.reuse: /images/2 is spec.virtualMachines[1].destination.path, too,"
                " on the same machine: give each its own"
            ),
        ),
        (
            "spec.virtualMachines.2",
            machine(0),
            "spec.virtualMachines[2].name: 'live' is the name of spec.virtualMachines[0], too: choose another",
        ),
        (
            "spec.virtualMachines.2",
            machine(0, name="twice", destination={"host": "a", "qmp": "/run/x.qmp"}),
            (
                "spec.virtualMachines[2].source.qmp: /run/live.qmp is spec.virtualMachines[0].source.qmp, too,"
                " on the same machine: give each its own"
            ),
        ),
    ],
)
def test_a_problem_says_where_what_and_what_to_do(tmp_path: Path, at: str, value: Any, line: str | None) -> None:
    if line is None:
        load(tmp_path, changed(at, value))
    else:
        assert line in problems(tmp_path, changed(at, value))


def test_a_list_whose_items_are_all_wrong_is_not_empty_as_well(tmp_path: Path) -> None:
    lines = problems(tmp_path, changed("spec.hosts", [{"name": "a", "address": ""}]))
    assert [line.partition(": ")[0] for line in lines] == [
        "spec.hosts[0].address",
        "spec.virtualMachines[0].destination.host",
    ]


def test_hosts_without_a_node_are_one_machine_and_others_are_not(tmp_path: Path) -> None:
    document = changed("spec.virtualMachines.0.destination.host", "a")
    assert "destination.qmp: /run/live.qmp is spec.virtualMachines[0].source.qmp" in problems(tmp_path, document)[0]
    here = changed("spec.hosts.1", {"name": "b"})
    assert "destination.qmp: /run/live.qmp is spec.virtualMachines[0].source.qmp" in problems(tmp_path, here)[0]
    load(tmp_path, GOOD)


def test_snake_case_is_no_field(tmp_path: Path) -> None:
    lines = problems(tmp_path, changed("spec.downtime_limit_ms", 5))
    assert lines == ["spec.downtime_limit_ms: is not a field of a spec: remove it or correct its name"]


@pytest.mark.parametrize("value", [{"allowPlain": True}, {"tls": TLS}])
def test_a_link_that_leaves_loopback_needs_tls_or_the_explicit_wish(tmp_path: Path, value: dict[str, Any]) -> None:
    document = changed("spec.hosts.1.address", "10.1.0.2")
    (line,) = problems(tmp_path, document)
    assert line.startswith("spec.virtualMachines[0].destination.host: link with 10.1.0.2 would carry guest memory")
    document["spec"].update(value)
    load(tmp_path, document)


def test_tls_at_one_end_only_is_a_problem(tmp_path: Path) -> None:
    (line,) = problems(tmp_path, changed("spec.hosts.1.tls", TLS))
    assert line == (
        "spec.virtualMachines[0].destination.host: host b has tls and host a has none: give it to both, or to neither"
    )


def test_a_pair_of_hosts_is_complained_about_once(tmp_path: Path) -> None:
    document = changed("spec.hosts.1.address", "10.1.0.2")
    document["spec"]["virtualMachines"] += [
        machine(1, name=f"m{n}", source={"host": "a", "path": f"/m/{n}"}, destination={"host": "b", "path": f"/m/{n}"})
        for n in range(5)
    ]
    assert len(problems(tmp_path, document)) == 1


def test_fields_and_references_are_reported_together(tmp_path: Path) -> None:
    document = changed("spec.hosts.1.address", 10)
    document["spec"]["virtualMachines"][1]["source"]["host"] = "nowhere"
    document["spec"]["virtualMachines"][0]["channels"] = 0
    document["metadata"]["name"] = "-"
    fields = [line.partition(": ")[0] for line in problems(tmp_path, document)]
    assert fields == [
        "metadata.name",
        "spec.hosts[1].address",
        "spec.virtualMachines[0].channels",
        "spec.virtualMachines[1].source.host",
    ]


def test_a_flood_of_problems_is_cut(tmp_path: Path) -> None:
    lines = problems(tmp_path, changed("spec.hosts", [{"name": "-"}] * 500))
    assert len(lines) == MAX_PROBLEMS_SHOWN + 1
    assert lines[-1].endswith("problems more")


@pytest.mark.parametrize("document", [[], 7, "text", {}, {"spec": []}, {"spec": {"hosts": {"a": 1}}}, {1: 2}, True])
def test_what_is_no_spec_at_all_is_refused(tmp_path: Path, document: Any) -> None:
    assert problems(tmp_path, document)


def test_values_of_any_length_make_short_lines(tmp_path: Path) -> None:
    long = "x" * 100_000
    for at in ("metadata.name", "spec.codec", "spec.hosts.0.address", "spec.virtualMachines.0.channels"):
        (line, *_) = problems(tmp_path, changed(at, long))
        assert len(line) < 400


def test_a_syntax_error_has_its_line(tmp_path: Path) -> None:
    path = tmp_path / "f.yaml"
    path.write_text("apiVersion: kuaka/v1\nspec: [\n")
    with pytest.raises(SpecError, match=r"f\.yaml: line 3: "):
        load_spec(path)
