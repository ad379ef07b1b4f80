"""What no value set may give away, asserted on what is rendered."""

import re
from typing import Any

import pytest

from tests.helm.chart import Manifest, cluster, environment, head_pod, host_pods, of_kind, refusal

_SECRET_NAME = re.compile("token|secret|password|passwd|credential|private", re.IGNORECASE)


def _pods(manifests: list[Manifest]) -> list[Manifest]:
    return [head_pod(manifests), *host_pods(manifests).values()]


def _containers(manifests: list[Manifest]) -> list[dict[str, Any]]:
    return [
        container
        for pod in _pods(manifests)
        for container in (*pod["spec"]["containers"], *pod["spec"].get("initContainers", []))
    ]


def _home(container: dict[str, Any]) -> str:
    return next(str(entry["value"]) for entry in container["env"] if entry["name"] == "HOME")


def test_nobody_is_root(manifests: list[Manifest]) -> None:
    for pod in _pods(manifests):
        security = pod["spec"]["securityContext"]
        assert security["runAsNonRoot"] is True
        assert min(security["runAsUser"], security["runAsGroup"]) > 0
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in _containers(manifests):
        assert container["securityContext"]["runAsNonRoot"] is True
        assert "runAsUser" not in container["securityContext"]


def test_nobody_has_or_gets_privileges(manifests: list[Manifest]) -> None:
    for container in _containers(manifests):
        security = container["securityContext"]
        assert security["privileged"] is False
        assert security["allowPrivilegeEscalation"] is False
        assert security["capabilities"] == {"drop": ["ALL"]}


def test_no_image_is_written_to(manifests: list[Manifest]) -> None:
    for container in _containers(manifests):
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        written = {mount["mountPath"] for mount in container["volumeMounts"] if not mount.get("readOnly")}
        assert {"/tmp", "/dev/shm", _home(container)} <= written


def test_no_namespace_of_the_machine_is_shared_but_the_hosts_network(manifests: list[Manifest]) -> None:
    for pod in _pods(manifests):
        assert not {"hostPID", "hostIPC", "shareProcessNamespace"} & pod["spec"].keys()


def test_no_pod_can_talk_to_kubernetes(manifests: list[Manifest]) -> None:
    for pod in _pods(manifests):
        assert pod["spec"]["automountServiceAccountToken"] is False
    for account in of_kind(manifests, "ServiceAccount"):
        assert account["automountServiceAccountToken"] is False
    assert not [each for each in manifests if "Role" in each["kind"]]


def test_no_secret_stands_in_the_environment(manifests: list[Manifest]) -> None:
    for pod in _pods(manifests):
        for name, value in environment(pod).items():
            assert not _SECRET_NAME.search(name) or "secretKeyRef" in value, name


def test_the_chart_makes_no_secret_for_a_release_to_hold(manifests: list[Manifest]) -> None:
    assert of_kind(manifests, "Secret") == []


def test_the_head_sees_nothing_of_its_machine(manifests: list[Manifest]) -> None:
    assert not [volume for volume in head_pod(manifests)["spec"]["volumes"] if "hostPath" in volume]


def test_a_directory_of_the_machine_is_mounted_only_if_it_is_there(manifests: list[Manifest]) -> None:
    for pod in host_pods(manifests).values():
        paths = [volume["hostPath"] for volume in pod["spec"]["volumes"] if "hostPath" in volume]
        # What the kubelet would make belongs to root, and hides that a machine was not prepared.
        assert {path["type"] for path in paths} == {"Directory"}


@pytest.mark.parametrize(
    ("name", "options"),
    [("minimal", {"mode": "token"}), ("tls-token", {"mode": "token", "secretName": "ray-token"})],
)
def test_ray_wants_a_token(rendered: dict[str, list[Manifest]], name: str, options: dict[str, str]) -> None:
    assert cluster(rendered[name])["authOptions"] == options


def test_tls_between_rays_processes_is_asked_for(rendered: dict[str, list[Manifest]]) -> None:
    assert cluster(rendered["tls-token"])["tlsOptions"] == {"enabled": True}
    assert "tlsOptions" not in cluster(rendered["minimal"])


def _certificates(pod: Manifest) -> dict[str, Any]:
    (volume,) = [volume for volume in pod["spec"]["volumes"] if volume["name"] == "link-tls"]
    (mount,) = [mount for mount in pod["spec"]["containers"][0]["volumeMounts"] if mount["name"] == "link-tls"]
    assert (mount["mountPath"], mount["readOnly"]) == ("/etc/kuaka/tls", True)
    return {key: value for key, value in volume.items() if key != "name"}


def test_certificates_of_links_come_from_a_secret_that_the_group_may_read(
    rendered: dict[str, list[Manifest]],
) -> None:
    pods = host_pods(rendered["tls-token"])
    assert _certificates(pods["cpu"]) == {"secret": {"secretName": "link-certificates", "defaultMode": 0o440}}
    assert _certificates(pods["edge"]) == {"secret": {"secretName": "edge-certificates", "defaultMode": 0o440}}
    # The files are root's; the volume's group makes them readable, and kuaka accepts a key of this mode.
    assert pods["cpu"]["spec"]["securityContext"]["fsGroup"] == pods["cpu"]["spec"]["securityContext"]["runAsGroup"]


def test_certificates_of_links_come_from_the_machine(rendered: dict[str, list[Manifest]]) -> None:
    for pod in host_pods(rendered["full"]).values():
        assert _certificates(pod) == {"hostPath": {"path": "/etc/kuaka/tls", "type": "Directory"}}


def test_only_the_cluster_the_operator_and_prometheus_get_in(rendered: dict[str, list[Manifest]]) -> None:
    policies = {each["metadata"]["name"]: each["spec"] for each in of_kind(rendered["minimal"], "NetworkPolicy")}
    assert set(policies) == {"r-kuaka", "r-kuaka-operator", "r-kuaka-monitoring"}
    own = {"podSelector": {"matchLabels": {"ray.io/cluster": "r-kuaka"}}}
    hosts = {"ipBlock": {"cidr": "10.0.0.0/24"}}
    assert policies["r-kuaka"]["policyTypes"] == ["Ingress", "Egress"]
    assert policies["r-kuaka"]["ingress"] == [{"from": [own, hosts]}]
    assert policies["r-kuaka"]["egress"][0] == {"to": [own, hosts]}
    for name in ("r-kuaka-operator", "r-kuaka-monitoring"):
        (rule,) = policies[name]["ingress"]
        assert rule["ports"]
        assert all("namespaceSelector" in peer for peer in rule["from"])


def test_policies_name_ports_that_pods_have(rendered: dict[str, list[Manifest]]) -> None:
    manifests = rendered["full"]
    declared = {port["name"] for container in _containers(manifests) for port in container["ports"]}
    named = {
        port["port"]
        for policy in of_kind(manifests, "NetworkPolicy")
        for rule in policy["spec"].get("ingress", [])
        for port in rule.get("ports", [])
        if isinstance(port["port"], str)
    }
    assert {"metrics", "dashboard", "kuaka-agent", "kuaka-sched"} <= named <= declared


def test_hosts_that_the_policy_would_shut_out_are_refused() -> None:
    assert "networkPolicy.hostCidrs: hosts on the host network would not reach the head" in refusal(
        "--set-json=networkPolicy.hostCidrs=[]"
    )
