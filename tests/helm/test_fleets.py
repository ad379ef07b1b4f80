"""Fleets of a release: their specs arrive as they are, and each is submitted once."""

import hashlib
import subprocess
from collections.abc import Mapping
from pathlib import Path

from pipeline.fleet.spec_file import load_spec
from tests.helm.chart import MINIMAL, ROOT, Manifest, cluster, of_kind, render
from tests.needs import need

EXAMPLE = ROOT / "examples" / "image-fleet.yaml"


def _spec(manifests: list[Manifest]) -> str:
    (fleets,) = [each for each in of_kind(manifests, "ConfigMap") if each["metadata"]["name"].endswith("-fleets")]
    text: str = fleets["data"]["images.yaml"]
    return text


def test_a_spec_arrives_byte_for_byte(rendered: Mapping[str, list[Manifest]], tmp_path: Path) -> None:
    arrived = tmp_path / "images.yaml"
    arrived.write_text(_spec(rendered["full"]))
    assert arrived.read_bytes() == EXAMPLE.read_bytes()
    assert load_spec(arrived).metadata.name == "images"


def test_a_fleet_is_a_job_on_the_releases_own_cluster(rendered: Mapping[str, list[Manifest]]) -> None:
    manifests = rendered["full"]
    (job,) = of_kind(manifests, "RayJob")
    (ray,) = of_kind(manifests, "RayCluster")
    assert job["spec"]["clusterSelector"] == {"ray.io/cluster": ray["metadata"]["name"]}
    assert job["spec"]["shutdownAfterJobFinishes"] is False
    # A migration is never run twice by whoever submits it: kuaka's own retries know what has happened.
    assert job["spec"]["backoffLimit"] == 0
    mounts = cluster(manifests)["headGroupSpec"]["template"]["spec"]["containers"][0]["volumeMounts"]
    (place,) = [mount["mountPath"] for mount in mounts if mount["name"] == "fleets"]
    assert f"kuaka migrate {place}/images.yaml --address auto" in job["spec"]["entrypoint"]


def test_a_job_waits_for_the_spec_that_it_was_made_for(rendered: Mapping[str, list[Manifest]], tmp_path: Path) -> None:
    (job,) = of_kind(rendered["full"], "RayJob")
    assert hashlib.sha256(EXAMPLE.read_bytes()).hexdigest() in job["spec"]["entrypoint"]
    entrypoint = job["spec"]["entrypoint"].replace("/etc/kuaka/fleets", str(tmp_path))
    entrypoint = entrypoint.replace("timeout 300", "timeout 0.3")
    (tmp_path / "kuaka").write_text('#!/bin/sh\necho "$@"\n')
    (tmp_path / "kuaka").chmod(0o755)

    def run() -> subprocess.CompletedProcess[str]:
        environment = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
        return subprocess.run(
            [need("sh"), "-c", entrypoint], env=environment, capture_output=True, text=True, check=False
        )

    (tmp_path / "images.yaml").write_text("an older one\n")
    assert run().returncode != 0
    (tmp_path / "images.yaml").write_bytes(EXAMPLE.read_bytes())
    assert run().stdout == f"migrate {tmp_path}/images.yaml --address auto -o json\n"


def test_only_another_spec_makes_another_job(tmp_path: Path) -> None:
    def job_name(text: str, *more: str) -> str:
        (tmp_path / "fleet.yaml").write_text(text)
        (job,) = of_kind(render(MINIMAL, f"--set-file=fleets.images={tmp_path / 'fleet.yaml'}", *more), "RayJob")
        return str(job["metadata"]["name"])

    text = EXAMPLE.read_text()
    assert job_name(text) == job_name(text, "--set=head.numCpus=1")
    assert job_name(text) != job_name(text + "# again\n")
