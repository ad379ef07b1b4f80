"""Settings that cannot be meant: each is a line with its field, and all of them come at once."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.errors import SpecError
from pipeline.fleet.spec_file import load_spec
from tests.fleet.plan.specs import document, guest, image


def problems(tmp_path: Path, *machines: Any, **fields: Any) -> list[str]:
    path = tmp_path / "f.yaml"
    hosts = [{"name": "a", "linkCapacity": "100MB"}, {"name": "b"}]
    path.write_text(yaml.safe_dump(document(hosts, machines, **fields)))
    try:
        load_spec(path)
    except SpecError as error:
        return [line.removeprefix(f"{path}: ") for line in str(error).split("\n")]
    return []


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        (
            {"policies": [{"name": "p", "selector": {"tier": "gold"}}]},
            ("spec.policies[0].selector: no virtual machine has tier=gold: correct the labels or remove the policy"),
        ),
        (
            {"policies": [{"name": "p", "selector": {}}]},
            (
                "spec.policies[0].selector: selects nothing in particular: give at least one label,"
                " what holds for all stands in spec"
            ),
        ),
        (
            {"policies": [{"name": "p", "selector": {"tier": "db"}}, {"name": "p", "selector": {"rack": "1"}}]},
            "spec.policies[1].name: 'p' is the name of spec.policies[0], too: choose another",
        ),
        (
            {"policies": [{"name": "p", "selector": {"tier": "db"}}, {"name": "q", "selector": {"tier": "db"}}]},
            "spec.policies[1].selector: is the selector of spec.policies[0], too, which wins: make them one",
        ),
        (
            {"policies": [{"name": "p", "selector": {"tier": "db"}, "codec": "lz4", "level": 99}]},
            "spec.policies[0].level: level 99 does not exist for lz4: choose 1 to 64",
        ),
        (
            {"policies": [{"name": "p", "selector": {"tier": "db"}, "parallelMigrationsPerCluster": 3}]},
            ("spec.policies[0].parallelMigrationsPerCluster: is not a field of a spec: remove it or correct its name"),
        ),
        (
            {"downtimeLimitMs": 100, "maxDowntimeMs": 100},
            "spec.maxDowntimeMs: is downtimeLimitMs by KubeVirt's name: give one of them",
        ),
        (
            {"retry": {"backoffSeconds": 60, "maxBackoffSeconds": 30}},
            "spec.retry.maxBackoffSeconds: 30 is less than backoffSeconds, 60: give at least that",
        ),
        (
            {"accelerators": {"reservationPercent": 60, "capPercent": 50}},
            "spec.accelerators.capPercent: 50 is less than reservationPercent, 60: raise it",
        ),
        (
            {"accelerators": {"kinds": ["gpu"]}},
            "spec.accelerators.kinds[0]: 'gpu' cannot be: it should be 'dsa', 'iaa' or 'qat'",
        ),
        (
            {"deadlineSeconds": 5},
            (
                "spec.virtualMachines[0].memory: 8 GiB at 100 MB/s take at least 9 s and the deadline is 5 s:"
                " raise one of them"
            ),
        ),
        (
            {"parallelInboundMigrationsPerNode": 0},
            "spec.parallelInboundMigrationsPerNode: 0 cannot be: it should be greater than or equal to 1",
        ),
        (
            {"priority": "urgent"},
            (
                "spec.priority: priority 'urgent' is unknown: choose system-critical, user-triggered,"
                " system-maintenance, default or a number, 0 to 100"
            ),
        ),
    ],
)
def test_a_setting_that_cannot_be_meant_is_a_line(tmp_path: Path, fields: dict[str, Any], line: str) -> None:
    machine = guest("g", labels={"tier": "db", "rack": "1"}, memory="8GiB")
    assert problems(tmp_path, machine) == []
    assert problems(tmp_path, machine, **fields) == [line]


def test_a_disk_that_would_stay_behind_is_refused(tmp_path: Path) -> None:
    disks = [
        {"name": "/san/1", "shared": True},
        {"name": "/local/2"},
        {"name": "/iso/3", "readOnly": True},
    ]
    (line,) = problems(tmp_path, guest("g", disks=disks))
    assert line == (
        "spec.virtualMachines[0].disks[1]: '/local/2' is written to and not shared, so it would stay behind: say"
        " shared: true if the destination reaches it, too, or leave this machine out"
    )
    assert problems(tmp_path, guest("g", disks=disks, sharedStorage=True)) == []


def test_a_deadline_counts_the_slowest_of_cap_and_links(tmp_path: Path) -> None:
    policies = [{"name": "slow", "selector": {"k": "v"}, "bandwidthPerMigration": "10MB", "deadlineSeconds": 20}]
    slow = guest("g", labels={"k": "v"}, memory="2GiB")
    (line,) = problems(tmp_path, slow, policies=policies)
    assert line.startswith(
        "spec.virtualMachines[0].memory: 2 GiB at 10 MB/s take at least 21 s and the deadline is 20 s"
    )
    assert problems(tmp_path, {**slow, "deadlineSeconds": 22}, policies=policies) == []


def test_everything_is_said_at_once(tmp_path: Path) -> None:
    lines = problems(
        tmp_path,
        guest("g", downtimeLimitMs=5, maxDowntimeMs=5, disks=[{"name": "x"}]),
        guest("g", source="nowhere"),
        image("i", deadlineSeconds=1, memory="64GiB"),
        policies=[{"name": "p", "selector": {"tier": "gold"}}],
        channels=0,
    )
    assert [line.partition(": ")[0] for line in lines] == [
        "spec.channels",
        "spec.virtualMachines[1].name",
        "spec.virtualMachines[1].source.host",
        "spec.virtualMachines[1].destination.qmp",
        "spec.policies[0].selector",
        "spec.virtualMachines[0].maxDowntimeMs",
        "spec.virtualMachines[0].disks[0]",
    ]


def test_a_machine_that_cannot_be_read_may_be_what_a_policy_selects(tmp_path: Path) -> None:
    broken = guest("g", labels={"tier": "gold"}, channels=0)
    lines = problems(tmp_path, broken, policies=[{"name": "p", "selector": {"tier": "gold"}}])
    assert [line.partition(": ")[0] for line in lines] == ["spec.virtualMachines[0].channels"]
