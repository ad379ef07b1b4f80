"""The chart, rendered by the real helm: `render` once for values that are right, `refusal` for others."""

import subprocess
from pathlib import Path
from typing import Any

import yaml

from tests.needs import missing

ROOT = Path(__file__).parent.parent.parent
CHART = ROOT / "helm" / "kuaka"
VALUES = Path(__file__).parent / "values"
#: What it takes for the chart to render at all.
MINIMAL = VALUES / "minimal.yaml"
_HELM = ROOT / ".cache" / "helm-4.1.4" / "helm"

Manifest = dict[str, Any]


def helm(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """What helm answers. It never talks to a cluster here."""
    binary = _HELM if _HELM.exists() else missing("helm 4.1.4")
    environment = {"PATH": "/usr/bin:/bin", "HOME": "/nonexistent", "KUBECONFIG": "/nonexistent"}
    return subprocess.run([binary, *arguments], env=environment, capture_output=True, text=True, check=False)


def render(values: Path, *options: str) -> list[Manifest]:
    """The manifests of a release `r` in namespace `n`."""
    answer = helm("template", "r", CHART, "--namespace", "n", "--values", values, *options)
    assert answer.returncode == 0, answer.stderr
    return [manifest for manifest in yaml.load_all(answer.stdout, Loader=yaml.CSafeLoader) if manifest]


def refusal(*options: str) -> str:
    """Why the chart does not render with the minimal values and `options`; empty if it does."""
    answer = helm("template", "r", CHART, "--values", MINIMAL, *options)
    return "" if answer.returncode == 0 else answer.stderr


def of_kind(manifests: list[Manifest], kind: str) -> list[Manifest]:
    """Those of one kind."""
    return [manifest for manifest in manifests if manifest["kind"] == kind]


def cluster(manifests: list[Manifest]) -> Manifest:
    """The RayCluster's spec; there is one."""
    (found,) = of_kind(manifests, "RayCluster")
    spec: Manifest = found["spec"]
    return spec


def head_pod(manifests: list[Manifest]) -> Manifest:
    """The head's pod template."""
    template: Manifest = cluster(manifests)["headGroupSpec"]["template"]
    return template


def host_pods(manifests: list[Manifest]) -> dict[str, Manifest]:
    """The hosts' pod templates, by group."""
    return {group["groupName"]: group["template"] for group in cluster(manifests)["workerGroupSpecs"]}


def environment(pod: Manifest) -> dict[str, Any]:
    """The environment of a pod's only container; a value that comes from elsewhere is a dict."""
    (container,) = pod["spec"]["containers"]
    return {entry["name"]: entry.get("value", entry.get("valueFrom")) for entry in container["env"]}
