"""What Prometheus and Grafana get: the chart's files, and every port with metrics."""

import re
import shutil
from collections.abc import Mapping
from pathlib import Path

import yaml

from scheduler.metrics_server import ADDRESS_VARIABLE, PORT_VARIABLE, ROLES, MetricsPlace
from tests.helm.chart import CHART, MINIMAL, Manifest, environment, head_pod, helm, host_pods, of_kind


def test_every_port_with_metrics_is_scraped_and_every_scraped_port_is_there(
    rendered: Mapping[str, list[Manifest]],
) -> None:
    manifests = rendered["full"]
    (monitor,) = of_kind(manifests, "PodMonitor")
    scraped = {endpoint["port"] for endpoint in monitor["spec"]["podMetricsEndpoints"]}
    pods = (head_pod(manifests), *host_pods(manifests).values())
    declared = {port["name"] for pod in pods for port in pod["spec"]["containers"][0]["ports"]}
    assert scraped == {name for name in declared if "metrics" in name or name.startswith("kuaka-")}
    assert {"kuaka-agent", "kuaka-control", "kuaka-sched"} <= scraped


def test_exporters_listen_where_they_are_scraped(rendered: Mapping[str, list[Manifest]]) -> None:
    manifests = rendered["full"]
    for pod in (head_pod(manifests), *host_pods(manifests).values()):
        settings = environment(pod)
        assert settings.pop(ADDRESS_VARIABLE) == {"fieldRef": {"fieldPath": "status.podIP"}}
        places = [MetricsPlace.of(role, "h", Path("/"), environ=settings) for role in ROLES]
        ports = [port for port in pod["spec"]["containers"][0]["ports"] if port["name"].startswith("kuaka-")]
        assert [place and place.port for place in places] == [port["containerPort"] for port in ports]
        for role, port in zip(ROLES, ports, strict=True):
            assert role.startswith(port["name"].removeprefix("kuaka-"))


def test_exporters_stay_on_loopback_where_nobody_scrapes_them(rendered: Mapping[str, list[Manifest]]) -> None:
    manifests = rendered["minimal"]
    for pod in (head_pod(manifests), *host_pods(manifests).values()):
        assert not {ADDRESS_VARIABLE, PORT_VARIABLE} & environment(pod).keys()
        assert not [port for port in pod["spec"]["containers"][0]["ports"] if port["name"].startswith("kuaka-")]


def test_prometheus_selects_by_the_labels_that_are_asked_for(rendered: Mapping[str, list[Manifest]]) -> None:
    for kind in ("PodMonitor", "PrometheusRule"):
        (manifest,) = of_kind(rendered["full"], kind)
        assert manifest["metadata"]["labels"]["release"] == "prometheus"


def test_targets_have_the_job_that_the_rules_ask_for_whatever_the_release_is_called(
    rendered: Mapping[str, list[Manifest]],
) -> None:
    (monitor,) = of_kind(rendered["full"], "PodMonitor")
    for endpoint in monitor["spec"]["podMetricsEndpoints"]:
        assert endpoint["relabelings"] == [{"targetLabel": "job", "replacement": "kuaka"}]
    rules = (CHART / "files/rules.yaml").read_text()
    assert set(re.findall('job="(.*?)"', rules)) == {"kuaka"}
    # `ray.io/node-type`, as Prometheus writes it.
    assert "ray_io_node_type=" in rules
    assert "ray.io/node-type" in monitor["spec"]["podTargetLabels"]


def test_the_rules_are_those_of_the_charts_files(rendered: Mapping[str, list[Manifest]]) -> None:
    (rule,) = of_kind(rendered["full"], "PrometheusRule")
    files = sorted((CHART / "files").glob("rules*.yaml"))
    groups = [group for path in files for group in yaml.safe_load(path.read_text())["groups"]]
    assert groups
    assert rule["spec"]["groups"] == groups


def test_nothing_of_it_is_made_unless_it_is_asked_for(rendered: Mapping[str, list[Manifest]]) -> None:
    kinds = {manifest["kind"] for manifest in rendered["minimal"]}
    assert not kinds & {"PodMonitor", "PrometheusRule"}


def test_each_dashboard_is_a_config_map_with_the_file_as_it_is(tmp_path: Path) -> None:
    chart = tmp_path / "kuaka"
    shutil.copytree(CHART, chart)
    dashboards = chart / "files" / "dashboards"
    shutil.rmtree(dashboards, ignore_errors=True)
    dashboards.mkdir()
    texts = {"fleet_overview.json": '{"title": "{{instance}} é"}\n', "host.json": '{\n  "uid": "host"\n}\n'}
    for name, text in texts.items():
        (dashboards / name).write_text(text)
    answer = helm("template", "r", chart, f"--values={MINIMAL}", "--set=metrics.dashboards.enabled=true")
    manifests = [each for each in yaml.safe_load_all(answer.stdout) if each]
    maps = [each for each in of_kind(manifests, "ConfigMap") if "grafana_dashboard" in each["metadata"]["labels"]]
    assert {each["metadata"]["name"]: each["data"] for each in maps} == {
        "r-kuaka-fleet-overview": {"fleet_overview.json": texts["fleet_overview.json"]},
        "r-kuaka-host": {"host.json": texts["host.json"]},
    }
