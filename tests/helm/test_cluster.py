"""The Ray cluster: sized for hypervisors, one host per machine, accelerators as Intel's device plugins call them."""

import os

import pytest

from pipeline.fleet import cluster as fleet_cluster
from pipeline.fleet.directories import MAX_SOCKET_NAME_BYTES, MAX_SOCKET_PATH_BYTES
from pipeline.fleet.ray_environment import prepare_environment
from tests.helm.chart import Manifest, cluster, environment, head_pod, host_pods


def _parameters(manifests: list[Manifest]) -> list[dict[str, str]]:
    spec = cluster(manifests)
    return [group["rayStartParams"] for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"])]


def test_ray_finds_the_settings_that_a_command_gives_its_own_cluster(
    manifests: list[Manifest], monkeypatch: pytest.MonkeyPatch
) -> None:
    own: dict[str, str] = {}
    monkeypatch.setattr(os, "environ", own)
    prepare_environment(local=False)
    monkeypatch.undo()
    assert own["RAY_memory_monitor_refresh_ms"] == "0"
    for pod in (head_pod(manifests), *host_pods(manifests).values()):
        assert own.items() <= environment(pod).items()


def test_ray_has_few_cpus_and_the_least_object_store(rendered: dict[str, list[Manifest]]) -> None:
    head, hosts = _parameters(rendered["minimal"])
    assert (head["num-cpus"], hosts["num-cpus"]) == ("0", "1")
    assert {head["object-store-memory"], hosts["object-store-memory"]} == {str(fleet_cluster._OBJECT_STORE_BYTES)}


def test_parameters_of_ray_are_strings_without_exponents(manifests: list[Manifest]) -> None:
    for parameters in _parameters(manifests):
        assert all(isinstance(value, str) and "e+" not in value for value in parameters.values())


def test_each_group_asks_for_its_accelerators(rendered: dict[str, list[Manifest]]) -> None:
    asked = {
        name: {
            key: value
            for key, value in pod["spec"]["containers"][0]["resources"]["limits"].items()
            if ".intel.com/" in key
        }
        for name, pod in host_pods(rendered["full"]).items()
    }
    assert asked == {
        "dsa": {"dsa.intel.com/wq-user-shared": "2"},
        "iaa": {"iaa.intel.com/wq-user-shared": "1"},
        "qat": {"qat.intel.com/dc": "1"},
        "sapphire-rapids": {
            "dsa.intel.com/wq-user-shared": "2",
            "iaa.intel.com/wq-user-shared": "1",
            "qat.intel.com/dc": "4",
        },
    }


def test_devices_are_requested_as_they_are_limited(manifests: list[Manifest]) -> None:
    for pod in host_pods(manifests).values():
        resources = pod["spec"]["containers"][0]["resources"]
        devices = [{key: value for key, value in side.items() if "/" in key} for side in resources.values()]
        assert devices[0] == devices[1]


@pytest.mark.parametrize("name", ["minimal", "no-accelerators", "tls-token"])
def test_without_accelerators_no_device_is_asked_for(rendered: dict[str, list[Manifest]], name: str) -> None:
    assert "intel.com/" not in str([pod["spec"]["containers"] for pod in host_pods(rendered[name]).values()])


def test_a_group_that_is_not_enabled_is_not_there(rendered: dict[str, list[Manifest]]) -> None:
    assert set(host_pods(rendered["minimal"])) == {"cpu"}
    assert "cpu" not in host_pods(rendered["full"])


def test_a_groups_own_settings_go_before_those_of_all_hosts(rendered: dict[str, list[Manifest]]) -> None:
    pods = host_pods(rendered["full"])
    assert pods["sapphire-rapids"]["spec"]["containers"][0]["resources"]["limits"]["memory"] == "32Gi"
    assert pods["iaa"]["spec"]["containers"][0]["resources"]["limits"]["memory"] == "16Gi"
    assert pods["sapphire-rapids"]["spec"]["tolerations"][0]["key"] == "accelerators"
    assert pods["iaa"]["spec"]["tolerations"] == [{"operator": "Exists"}]


def test_every_replica_is_on_another_machine_and_none_is_scaled_away(manifests: list[Manifest]) -> None:
    for group in cluster(manifests)["workerGroupSpecs"]:
        assert group["replicas"] == group["minReplicas"] == group["maxReplicas"]
        (rule,) = group["template"]["spec"]["affinity"]["podAntiAffinity"][
            "requiredDuringSchedulingIgnoredDuringExecution"
        ]
        assert rule["topologyKey"] == "kubernetes.io/hostname"
        assert rule["labelSelector"]["matchLabels"]["ray.io/node-type"] == "worker"


def test_the_journal_is_on_a_volume_that_outlives_the_release(rendered: dict[str, list[Manifest]]) -> None:
    manifests = rendered["minimal"]
    (claim,) = [each for each in manifests if each["kind"] == "PersistentVolumeClaim"]
    assert claim["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
    (container,) = head_pod(manifests)["spec"]["containers"]
    (mount,) = [each for each in container["volumeMounts"] if each["name"] == "journal"]
    # A directory of the user's own: the volume's root is the group's, which kuaka refuses.
    assert environment(head_pod(manifests))["KUAKA_STATE"].startswith(mount["mountPath"] + "/")


def test_a_journal_that_is_there_is_used_and_none_made(rendered: dict[str, list[Manifest]]) -> None:
    manifests = rendered["tls-token"]
    assert not [each for each in manifests if each["kind"] == "PersistentVolumeClaim"]
    volumes = {volume["name"]: volume for volume in head_pod(manifests)["spec"]["volumes"]}
    assert volumes["journal"]["persistentVolumeClaim"]["claimName"] == "kuaka-journal-of-last-year"


def test_sockets_have_the_same_path_for_kuaka_and_for_qemu(manifests: list[Manifest]) -> None:
    for pod in host_pods(manifests).values():
        mounts = {mount["name"]: mount["mountPath"] for mount in pod["spec"]["containers"][0]["volumeMounts"]}
        on_host = {each["name"]: each["hostPath"]["path"] for each in pod["spec"]["volumes"] if "hostPath" in each}
        assert on_host
        assert {name: mounts[name] for name in on_host} == on_host
        runtime = environment(pod)["KUAKA_RUNTIME"]
        assert on_host["runtime"] == runtime
        assert len(runtime) + 1 + MAX_SOCKET_NAME_BYTES <= MAX_SOCKET_PATH_BYTES


def test_hosts_on_the_host_network_answer_at_their_own_addresses(rendered: dict[str, list[Manifest]]) -> None:
    (pod,) = host_pods(rendered["minimal"]).values()
    assert pod["spec"]["hostNetwork"] is True
    assert pod["spec"]["dnsPolicy"] == "ClusterFirstWithHostNet"
    (pod,) = host_pods(rendered["no-accelerators"]).values()
    assert "hostNetwork" not in pod["spec"]
    assert "hostNetwork" not in head_pod(rendered["minimal"])["spec"]


def test_declared_ports_are_those_that_ray_is_told(manifests: list[Manifest]) -> None:
    for group in cluster(manifests)["workerGroupSpecs"]:
        (container,) = group["template"]["spec"]["containers"]
        ports = {port["name"]: str(port["containerPort"]) for port in container["ports"]}
        told = group["rayStartParams"]
        assert ports["metrics"] == told["metrics-export-port"]
        assert ports["node-manager"] == told["node-manager-port"]
        assert str(container["livenessProbe"]["httpGet"]["port"]) == told["dashboard-agent-listen-port"]
        outside = {int(port) for port in (*ports.values(), told["dashboard-agent-listen-port"])}
        workers = range(int(told["min-worker-port"]), int(told["max-worker-port"]) + 1)
        assert not outside & set(workers)
