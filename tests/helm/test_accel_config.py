"""The plans of `kuaka devices plan`, as the init containers of Intel's device plugins load them."""

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from scheduler.core.units import AcceleratorKind
from scheduler.devices.discovery.plan import capacities_by_hand, plan_json
from tests.helm.chart import Manifest, of_kind, refusal

KINDS = (AcceleratorKind.DSA, AcceleratorKind.IAA)


def _loaded(manifests: list[Manifest], kind: AcceleratorKind, number: int) -> str:
    """What accel-config gets for the device of that number: the init container puts it in the place of X."""
    (config,) = [
        each for each in of_kind(manifests, "ConfigMap") if each["metadata"]["name"].endswith(f"-{kind.value}-config")
    ]
    text: str = config["data"][f"{kind.value}.conf"]
    return text.replace("X", str(number))


@pytest.mark.parametrize("kind", KINDS)
def test_each_device_gets_the_plan_that_kuaka_makes_for_it(
    rendered: Mapping[str, list[Manifest]], kind: AcceleratorKind
) -> None:
    last = capacities_by_hand(kind, 3)[-1]
    # As text: accel-config drops a threshold that comes before the mode, so the order counts.
    assert _loaded(rendered["full"], kind, last.number).strip() == plan_json([last]).strip()


def test_plans_are_where_the_device_plugins_are(rendered: Mapping[str, list[Manifest]]) -> None:
    configs = [each for each in of_kind(rendered["full"], "ConfigMap") if each["metadata"]["name"].endswith("-config")]
    assert {each["metadata"]["namespace"] for each in configs} == {"inteldeviceplugins-system"}
    assert len(configs) == len(KINDS)


def test_without_plans_there_is_no_config(rendered: Mapping[str, list[Manifest]]) -> None:
    names = [each["metadata"]["name"] for each in of_kind(rendered["minimal"], "ConfigMap")]
    assert names == ["r-kuaka-fleets"]


def test_a_plan_for_several_devices_is_refused(tmp_path: Path) -> None:
    plan = tmp_path / "dsa.json"
    plan.write_text(plan_json(capacities_by_hand(AcceleratorKind.DSA, 2)))
    assert "must plan one dsa device" in refusal(f"--set-file=accelConfig.dsa={plan}")


def test_a_plan_of_the_other_kind_is_refused(plans: Mapping[str, Path]) -> None:
    assert "must plan one iaa device" in refusal(f"--set-file=accelConfig.iaa={plans['dsa']}")


@pytest.mark.parametrize("text", ['["wq"]', "[not json]", json.dumps([]), '[{"groups": []}]'])
def test_what_is_no_plan_is_refused(tmp_path: Path, text: str) -> None:
    plan = tmp_path / "dsa.json"
    plan.write_text(text)
    assert "accelConfig.dsa" in refusal(f"--set-file=accelConfig.dsa={plan}")
