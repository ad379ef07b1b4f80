"""Every value set of `values/`, rendered once."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from scheduler.core.units import AcceleratorKind
from scheduler.devices.discovery.plan import capacities_by_hand, plan_json
from tests.helm.chart import ROOT, VALUES, Manifest, render

VALUE_SETS = ("minimal", "no-accelerators", "tls-token", "full")


@pytest.fixture(scope="session")
def plans(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """What `kuaka devices plan --devices 1` prints, by kind."""
    directory = tmp_path_factory.mktemp("plans")
    paths = {}
    for kind in (AcceleratorKind.DSA, AcceleratorKind.IAA):
        paths[kind.value] = directory / f"{kind.value}.json"
        paths[kind.value].write_text(plan_json(capacities_by_hand(kind, 1)))
    return paths


@pytest.fixture(scope="session")
def rendered(plans: Mapping[str, Path]) -> Mapping[str, list[Manifest]]:
    """The manifests of each value set."""
    files = {f"accelConfig.{kind}": path for kind, path in plans.items()}
    files["fleets.images"] = ROOT / "examples" / "image-fleet.yaml"
    more = {"full": [f"--set-file={key}={path}" for key, path in files.items()]}
    return {name: render(VALUES / f"{name}.yaml", *more.get(name, [])) for name in VALUE_SETS}


@pytest.fixture(params=VALUE_SETS)
def manifests(request: pytest.FixtureRequest, rendered: Mapping[str, list[Manifest]]) -> list[Manifest]:
    """One value set's after the other."""
    return rendered[request.param]
