"""What the chart makes, against the schemas of those who read it: Kubernetes, KubeRay, the Prometheus operator."""

import functools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from pipeline import __version__
from tests.helm.chart import CHART, VALUES, Manifest, cluster, head_pod, helm, host_pods, of_kind
from tests.helm.conftest import VALUE_SETS

SCHEMAS = {path.stem: json.loads(path.read_text()) for path in (Path(__file__).parent / "schemas").glob("*.json")}
#: The oldest and the newest Kubernetes that the chart is checked for.
KUBERNETES = ("1.27", "1.35")


@pytest.fixture(scope="module", autouse=True)
def _schemas_read_once() -> Iterator[None]:
    """The library reads a megabyte of definitions for every object."""
    utils = kubernetes_validate.utils
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(utils, "schema_contents", functools.cache(utils.schema_contents))
        yield


def _pods(manifests: list[Manifest]) -> list[Manifest]:
    """Both kinds of pod templates as the pods that KubeRay makes of them."""
    templates = [head_pod(manifests), *host_pods(manifests).values()]
    return [
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "x", **template["metadata"]},
            "spec": template["spec"],
        }
        for template in templates
    ]


def test_every_value_set_passes_the_strict_lint() -> None:
    options = [f"--values={VALUES / name}.yaml" for name in VALUE_SETS]
    for option in options:
        answer = helm("lint", "--strict", CHART, option)
        assert answer.returncode == 0, answer.stdout


def test_kinds_of_kubernetes_itself_are_valid(manifests: list[Manifest]) -> None:
    core = [manifest for manifest in manifests if manifest["kind"] not in SCHEMAS]
    assert {"PersistentVolumeClaim", "ConfigMap"} & {manifest["kind"] for manifest in core}
    for manifest in core:
        kubernetes_validate.validate(manifest, KUBERNETES[0], strict=True)


@pytest.mark.parametrize("version", KUBERNETES)
def test_pods_of_head_and_hosts_are_valid(manifests: list[Manifest], version: str) -> None:
    for pod in _pods(manifests):
        kubernetes_validate.validate(pod, version, strict=True)


def test_a_pod_with_a_misspelt_field_would_be_found(rendered: dict[str, list[Manifest]]) -> None:
    pod = _pods(rendered["minimal"])[0]
    pod["spec"] = {**pod["spec"], "securityContxt": {}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(pod, KUBERNETES[0], strict=True)


def test_kinds_of_the_operators_are_valid(manifests: list[Manifest]) -> None:
    foreign = [manifest for manifest in manifests if manifest["kind"] in SCHEMAS]
    assert len(of_kind(foreign, "RayCluster")) == 1
    for manifest in foreign:
        jsonschema.validate(manifest, SCHEMAS[manifest["kind"]])


@pytest.mark.parametrize(
    ("kind", "path"),
    [
        ("RayCluster", ("spec", "headGroupSpec", "rayStartParam")),
        ("RayJob", ("spec", "entryPoint")),
        ("PodMonitor", ("spec", "podMetricEndpoints")),
        ("PrometheusRule", ("spec", "groups", 0, "rules", 0, "fore")),
    ],
)
def test_a_misspelt_field_of_an_operators_kind_would_be_found(
    rendered: dict[str, list[Manifest]], kind: str, path: tuple[str | int, ...]
) -> None:
    manifest: Any = json.loads(json.dumps(of_kind(rendered["full"], kind)[0]))
    jsonschema.validate(manifest, SCHEMAS[kind])
    place = manifest
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = {}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(manifest, SCHEMAS[kind])


def test_the_full_value_set_makes_every_kind_there_is(rendered: dict[str, list[Manifest]]) -> None:
    assert {manifest["kind"] for manifest in rendered["full"]} == {
        *SCHEMAS,
        "ConfigMap",
        "NetworkPolicy",
        "PersistentVolumeClaim",
        "ServiceAccount",
    }


def test_no_two_objects_have_the_same_name(manifests: list[Manifest]) -> None:
    keys = [(each["kind"], each["metadata"].get("namespace"), each["metadata"]["name"]) for each in manifests]
    assert len(set(keys)) == len(keys)


def test_every_object_is_labelled_with_its_release(manifests: list[Manifest]) -> None:
    for manifest in manifests:
        assert manifest["metadata"]["labels"]["app.kubernetes.io/instance"] == "r", manifest["metadata"]["name"]


def test_whoever_is_named_by_a_pod_is_there_or_the_operators_own(rendered: dict[str, list[Manifest]]) -> None:
    manifests = rendered["full"]
    made = {(manifest["kind"], manifest["metadata"]["name"]) for manifest in manifests}
    volumes = {volume["name"]: volume for volume in head_pod(manifests)["spec"]["volumes"]}
    assert ("PersistentVolumeClaim", volumes["journal"]["persistentVolumeClaim"]["claimName"]) in made
    assert ("ConfigMap", volumes["fleets"]["configMap"]["name"]) in made
    assert ("ServiceAccount", head_pod(manifests)["spec"]["serviceAccountName"]) in made


def test_the_longest_names_leave_room_for_what_kuberay_adds() -> None:
    name, group = "n" * 40, "g" * 20
    answer = helm(
        "template",
        "r" * 53,
        CHART,
        f"--values={VALUES / 'minimal.yaml'}",
        f"--set=fullnameOverride={name}",
        f"--set=workerGroups.{group}.replicas=1",
        f"--set=fleets.{'f' * 63}=spec",
    )
    manifests = [each for each in yaml.load_all(answer.stdout, Loader=yaml.CSafeLoader) if each]
    assert cluster(manifests)["workerGroupSpecs"][-1]["groupName"] == group
    # KubeRay's own limits of the names of clusters and jobs, below the 63 characters of a service's name.
    assert max(len(each["metadata"]["name"]) for each in of_kind(manifests, "RayCluster")) <= 53
    assert max(len(each["metadata"]["name"]) for each in of_kind(manifests, "RayJob")) <= 47


def test_the_chart_is_of_the_packages_version() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["appVersion"] == __version__


def test_the_notes_warn_of_what_is_off() -> None:
    options = [
        f"--values={VALUES / 'minimal.yaml'}",
        "--set=ray.auth.mode=disabled",
        "--set=networkPolicy.enabled=false",
    ]
    notes = helm("install", "r", CHART, "--dry-run=client", *options).stdout.partition("NOTES:")[2]
    warnings = [line for line in notes.splitlines() if line.startswith("WARNING")]
    assert [word for word in ("token", "certificates", "network policy") if word not in " ".join(warnings)] == []
