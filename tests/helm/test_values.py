"""A value that cannot be is refused before anything is made, and says where it stands."""

import json
from typing import Any

import pytest
import yaml

from tests.helm.chart import CHART, MINIMAL, helm, refusal

SCHEMA = json.loads((CHART / "values.schema.json").read_text())


#: An option of helm's, and what the refusal says of it. Helm says all at once, so those of one list are tried together.
BAD = (
    (
        ("--set=image.repository=https://registry.example/kuaka", "at '/image/repository'"),
        ("--set=image.pullPolicy=Sometimes", "at '/image/pullPolicy'"),
        ("--set=user.uid=0", "at '/user/uid'"),
        ("--set=user.gid=root", "at '/user/gid'"),
        ("--set=ray.auth.mode=basic", "at '/ray/auth/mode'"),
        ("--set=ray.objectStoreMemory=1000000", "at '/ray/objectStoreMemory'"),
        ('--set-json=ray.env=[{"name": "API_TOKEN", "value": "in clear"}]', "at '/ray/env/0'"),
        ("--set=head.journal.accessMode=ReadWriteMany", "at '/head/journal/accessMode'"),
        ("--set=head.journal.size=plenty", "at '/head/journal/size'"),
        ("--set=hosts.numCpus=many", "at '/hosts/numCpus'"),
        (
            "--set=hosts.runtimeDirectory=/run/a-directory-whose-path-leaves-no-room-for-sockets",
            "at '/hosts/runtimeDirectory'",
        ),
        ("--set=hosts.directories[0].path=/", "at '/hosts/directories/0/path'"),
        ("--set=hosts.directories[1].path=/etc", "at '/hosts/directories/1/path'"),
        ("--set=hosts.directories[2].path=/run/vm/../../etc", "at '/hosts/directories/2/path'"),
        ("--set=hosts.directories[3].path=/run/containerd", "at '/hosts/directories/3/path'"),
        ("--set=hosts.directories[4].path=/run", "at '/hosts/directories/4/path'"),
        ("--set=hosts.ports.metrics=80", "at '/hosts/ports/metrics'"),
        ("--set=linkTls.hostDirectory=/root", "at '/linkTls/hostDirectory'"),
        ("--set=workerGroups.cpu.replicas=-1", "at '/workerGroups/cpu/replicas'"),
        ("--set=workerGroups.gpu.accelerators.nvidia=1", "at '/workerGroups/gpu'"),
        ("--set=workerGroups.Big_Hosts.replicas=1", "invalid propertyName 'Big_Hosts'"),
        ("--set=fleets.UPPER=spec", "invalid propertyName 'UPPER'"),
        ("--set=accelConfig.dsa=crit", "at '/accelConfig/dsa'"),
        ("--set=networkPolicy.hostCidrs[0]=10.0.0.0", "at '/networkPolicy/hostCidrs/0'"),
        ("--set=metrics.podMonitor.interval=often", "at '/metrics/podMonitor/interval'"),
        ("--set=metrics.port=65534", "at '/metrics/port'"),
        ("--set=netwrokPolicy.enabled=false", "additional properties 'netwrokPolicy' not allowed"),
        ("--set=hosts.privileged=true", "additional properties 'privileged' not allowed"),
    ),
    (
        ("--set=image.repository=registry.example//kuaka", "at '/image/repository'"),
        ("--set=hosts.runtimeDirectory=run/kuaka", "at '/hosts/runtimeDirectory'"),
    ),
)


@pytest.fixture(scope="module")
def refusals() -> dict[str, str]:
    """What helm says, by option."""
    together = {bad: refusal(*(option for option, _ in bad)) for bad in BAD}
    return {option: said for bad, said in together.items() for option, _ in bad}


@pytest.mark.parametrize(("option", "words"), [each for bad in BAD for each in bad])
def test_a_bad_value_is_refused_by_the_schema(refusals: dict[str, str], option: str, words: str) -> None:
    said = refusals[option]
    assert "values don't meet the specifications of the schema" in said
    assert words in said


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--set=workerGroups.cpu.enabled=false"], "workerGroups: none is enabled"),
        (["--set=linkTls.secretName=a", "--set=linkTls.hostDirectory=/etc/kuaka"], "exclude each other"),
        (["--set=hosts.ports.lastWorker=18000"], "lastWorker is below firstWorker"),
    ],
)
def test_values_that_contradict_each_other_are_refused(options: list[str], words: str) -> None:
    assert words in refusal(*options)


def test_the_minimal_values_are_not_refused_and_without_them_the_image_is_missed() -> None:
    assert refusal() == ""
    answer = helm("template", "r", CHART)
    assert answer.returncode != 0
    assert "/image/repository" in answer.stderr
    assert yaml.safe_load(MINIMAL.read_text()).keys() == {"image", "networkPolicy"}


def _leaves(values: Any, schema: dict[str, Any], path: str = "") -> dict[str, tuple[Any, str]]:
    """Every value that the schema describes, with its default and its description."""
    found: dict[str, tuple[Any, str]] = {}
    for name, part in schema["properties"].items():
        if name == "global":
            continue
        if "description" in part:
            found[f"{path}{name}"] = (values[name], part["description"])
        else:
            found |= _leaves(values[name], part, f"{path}{name}.")
    return found


def _defaults() -> Any:
    return yaml.safe_load((CHART / "values.yaml").read_text())


def _names(values: dict[str, Any], schema: dict[str, Any]) -> None:
    """`values` has what the schema has, no less and no more, down to what is described as a whole."""
    assert values.keys() == schema["properties"].keys() - {"global"}
    for name, part in schema["properties"].items():
        if "description" not in part and name != "global":
            _names(values[name], part)


def test_the_schema_and_the_defaults_have_the_same_values() -> None:
    _names(_defaults(), SCHEMA)


def test_the_readme_has_every_value_with_its_default() -> None:
    rows = [
        f"| `{path}` | `{json.dumps(default)}` | {description} |"
        for path, (default, description) in _leaves(_defaults(), SCHEMA).items()
        if path != "workerGroups"
    ]
    table = (CHART / "README.md").read_text().partition("## All other values")[2]
    assert [line for line in table.splitlines() if line.startswith("| `")] == rows


def test_the_readme_has_every_field_and_default_of_a_group() -> None:
    text = (CHART / "README.md").read_text()
    section = text.partition("## workerGroups")[2].partition("\n## ")[0]
    assert [name for name in SCHEMA["definitions"]["group"]["properties"] if f"`{name}`" not in section] == []
    assert [name for name in _defaults()["workerGroups"] if f"`{name}`" not in section] == []
