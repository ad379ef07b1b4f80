"""The plan is what accel-config reads and a device can be, and the rule opens its queues alone."""

import fnmatch
import json
import re
from pathlib import Path
from typing import Any

import pytest

from scheduler.core.units import AcceleratorKind
from scheduler.devices.discovery import discover
from scheduler.devices.discovery.plan import (
    Capacity,
    PlanError,
    Sizes,
    capacities_by_hand,
    capacity_of,
    plan_json,
    udev_rule,
)
from tests.scheduler.devices.discovery.accel_config import load_config
from tests.scheduler.devices.discovery.recorded_trees import GROUPS_OF_A_DEVICE, QUEUES_OF_A_DEVICE, Tree

DSA, IAA, QAT = AcceleratorKind.DSA, AcceleratorKind.IAA, AcceleratorKind.QAT


def planned(devices: tuple[Capacity, ...], sizes: Sizes | None = None) -> list[dict[str, Any]]:
    """The plan as plain data."""
    plan: list[dict[str, Any]] = json.loads(plan_json(devices, sizes))
    return plan


def queues(device: dict[str, Any]) -> list[dict[str, Any]]:
    (group,) = device["groups"]
    return list(group["grouped_workqueues"])


@pytest.fixture
def fresh(tmp_path: Path) -> Tree:
    """Disabled devices of either kind, as after a boot, and whole: accel-config dies of missing groups."""
    tree = Tree(tmp_path, QUEUES_OF_A_DEVICE, GROUPS_OF_A_DEVICE)
    tree.add_device("dsa0", state="disabled")
    tree.add_device("iax1", state="disabled")
    tree.make_writable()
    return tree


def test_dsa_has_a_critical_and_a_bulk_queue_and_iaa_one() -> None:
    dsa, iaa = planned(capacities_by_hand(DSA, 1) + capacities_by_hand(IAA, 1))
    shown = [(queue["name"], queue["size"], queue["threshold"], queue["priority"]) for queue in queues(dsa)]
    assert shown == [("crit", 16, 16, 15), ("bulk", 112, 112, 5)]
    assert [(queue["size"], queue["threshold"]) for queue in queues(iaa)] == [(128, 128)]
    for queue in queues(dsa) + queues(iaa):
        assert (queue["mode"], queue["type"], queue["block_on_fault"]) == ("shared", "user", 1)


def test_priority_weighs_within_one_group_so_all_queues_and_engines_share_it() -> None:
    for device, engines in ((planned(capacities_by_hand(DSA, 1))[0], 4), (planned(capacities_by_hand(IAA, 1))[0], 8)):
        (group,) = device["groups"]
        assert {queue["group_id"] for queue in group["grouped_workqueues"]} == {0}
        assert [engine["group_id"] for engine in group["grouped_engines"]] == [0] * engines


def test_nothing_is_set_that_iaa_or_the_first_generation_refuses() -> None:
    dsa, iaa = planned(capacities_by_hand(DSA, 1) + capacities_by_hand(IAA, 1))
    assert "max_batch_size" not in queues(iaa)[0]
    text = json.dumps([dsa, iaa])
    assert [word for word in ("read_buffer", "token", "traffic_class", "progress_limit") if word in text] == []


def test_a_packets_pages_fit_one_batch_and_a_batch_fits_the_device() -> None:
    small = Capacity("dsa0", DSA, entries=128, engines=4, queues=8, max_batch=64)
    assert [queue["max_batch_size"] for queue in queues(planned((small,))[0])] == [64, 64]
    assert queues(planned(capacities_by_hand(DSA, 1))[0])[0]["max_batch_size"] == 128


def test_older_kernels_show_a_batch_of_one_for_iaa_and_it_is_not_set(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    tree.add_device("iax1", max_batch_size="1")
    (device,) = discover(tree.roots).idxd
    assert "max_batch_size" not in queues(planned((capacity_of(device),))[0])[0]


def test_nothing_but_the_largest_transfer_bounds_a_descriptor_so_it_is_set() -> None:
    every = [queue for kind in (DSA, IAA) for queue in queues(planned(capacities_by_hand(kind, 1))[0])]
    assert {queue["max_transfer_size"] for queue in every} == {2 << 20}


def test_devices_by_hand_are_numbered_as_the_kernel_does() -> None:
    assert [device.name for device in capacities_by_hand(DSA, 3)] == ["dsa0", "dsa2", "dsa4"]
    assert [device.name for device in capacities_by_hand(IAA, 3)] == ["iax1", "iax3", "iax5"]


def test_found_devices_are_planned_by_what_they_have(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    tree.add_device("dsa4", max_work_queues_size="64", max_batch_size="32")
    (device,) = discover(tree.roots).idxd
    crit, bulk = queues(planned((capacity_of(device),))[0])
    assert (crit["dev"], crit["size"], bulk["dev"], bulk["size"]) == ("wq4.0", 16, "wq4.1", 48)
    assert bulk["max_batch_size"] == 32


@pytest.mark.parametrize(
    "sizes", [Sizes(16, 113), Sizes(128), Sizes(0), Sizes(-5), Sizes(16, 0), Sizes(200, 10), Sizes(10**30, 1)]
)
def test_sizes_beyond_the_device_are_refused_in_one_line(sizes: Sizes) -> None:
    with pytest.raises(PlanError, match=r"^dsa0 has 128 entries, which cannot be .*: give --critical-entries"):
        plan_json(capacities_by_hand(DSA, 1), sizes)


def test_iaa_takes_all_its_entries_whatever_dsa_was_told() -> None:
    (device,) = planned(capacities_by_hand(IAA, 1), Sizes(200, 200))
    assert queues(device)[0]["size"] == 128


def test_device_with_one_queue_is_refused() -> None:
    with pytest.raises(PlanError, match=r"^dsa0 has 1 queue, the plan needs 2: "):
        plan_json((Capacity("dsa0", DSA, entries=128, engines=4, queues=1, max_batch=64),))


def test_device_that_is_not_configurable_is_refused(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    tree.add_device("iax1", configurable="0")
    (device,) = discover(tree.roots).idxd
    with pytest.raises(PlanError, match=r"^iax1 is not configurable: "):
        plan_json((capacity_of(device),))


def test_device_that_does_not_say_what_it_has_is_refused(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    tree.add_device("iax1", max_work_queues_size="junk")
    (device,) = discover(tree.roots).idxd
    with pytest.raises(PlanError, match=r"^iax1: how many entries, queues and engines it has cannot be read: "):
        capacity_of(device)


def test_no_device_at_all_is_refused() -> None:
    with pytest.raises(PlanError, match=r"^there is no DSA or IAA device here: give --devices"):
        plan_json(())


@pytest.mark.parametrize("count", [0, -1, 33, 10**9])
def test_counts_that_no_server_has_are_refused(count: int) -> None:
    with pytest.raises(PlanError, match=r"^--devices .*: give 1 to 32$"):
        capacities_by_hand(IAA, count)


def test_qat_is_not_accel_configs_business() -> None:
    with pytest.raises(PlanError, match=r"^--kind qat: accel-config sets up dsa and iaa"):
        capacities_by_hand(QAT, 1)


def rules(text: str) -> list[dict[str, str]]:
    """Each rule of a udev file as what it matches and assigns."""
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return [dict(re.findall(r'([A-Z]+)==?"([^"]*)"', line)) for line in lines]


def test_rule_opens_the_planned_queues_to_the_group_and_no_other() -> None:
    found = rules(udev_rule(capacities_by_hand(DSA, 2) + capacities_by_hand(IAA, 1), "movers"))
    assert {(rule["SUBSYSTEM"], rule["GROUP"], rule["MODE"]) for rule in found} == {("dsa", "movers", "0660")}
    patterns = [rule["KERNEL"] for rule in found]

    def opened(name: str) -> bool:
        return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)

    # The kernel's name has a mark where udev shows a slash; older versions matched the mark.
    assert all(opened(f"dsa{mark}wq{queue}") for mark in "!/" for queue in ("0.0", "0.1", "2.0", "2.1"))
    assert all(opened(f"iax{mark}wq1.0") for mark in "!/")
    assert not any(opened(name) for name in ("dsa!wq0.2", "iax!wq1.1", "wq0.0", "dsa0", "dsa!wq10.0", "iax!wq0.0"))


@pytest.mark.parametrize("group", ["", "Kuaka", 'k", RUN+="/bin/sh', "a b", "x" * 32, "kuaka\n"])
def test_group_that_would_break_the_rule_is_refused(group: str) -> None:
    with pytest.raises(PlanError, match="is no name of a group: give one such as kuaka"):
        udev_rule(capacities_by_hand(IAA, 1), group)


def test_accel_config_loads_the_plan_and_the_devices_become_what_it_says(fresh: Tree) -> None:
    capacities = tuple(capacity_of(device) for device in discover(fresh.roots).idxd)
    done = load_config(fresh, plan_json(capacities))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    dsa, iaa = discover(fresh.roots).idxd
    shown = [
        (queue.label, queue.mode, queue.type, queue.slots, queue.priority, queue.group) for queue in dsa.queues[:2]
    ]
    assert shown == [("crit", "shared", "user", 16, 15, 0), ("bulk", "shared", "user", 112, 5, 0)]
    assert [(queue.label, queue.slots, queue.waits_for_faults) for queue in iaa.queues[:1]] == [("all", 128, True)]
    assert [engine.group for device in (dsa, iaa) for engine in device.engines] == [0] * 12


def test_accel_config_takes_a_plan_by_hand_on_a_kernel_without_driver_names(fresh: Tree) -> None:
    fresh.add_device("dsa2", state="disabled")
    for name in fresh.roots.sysfs.rglob("driver_name"):
        name.unlink()
    done = load_config(fresh, plan_json(capacities_by_hand(DSA, 2) + capacities_by_hand(IAA, 1)))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_accel_config_tells_a_missing_device_from_a_file_that_is_no_plan(fresh: Tree) -> None:
    good = plan_json(capacities_by_hand(IAA, 2))
    missing = load_config(fresh, good)
    assert (missing.returncode, missing.stderr.splitlines()[0]) == (1, "device is not available")
    broken = load_config(fresh, good[: len(good) // 2])
    assert (broken.returncode, broken.stderr) == (1, "Parse json and set device fail: -12\n")


def test_accel_config_drops_a_threshold_that_stands_before_the_mode(fresh: Tree) -> None:
    plan = planned(capacities_by_hand(IAA, 1))
    (queue,) = queues(plan[0])
    plan[0]["groups"][0]["grouped_workqueues"] = [{"dev": queue.pop("dev"), "threshold": queue["threshold"]} | queue]
    assert load_config(fresh, json.dumps(plan)).returncode == 0
    assert discover(fresh.roots).devices(IAA)[0].queues[0].threshold == 0
    assert load_config(fresh, plan_json(capacities_by_hand(IAA, 1))).returncode == 0
    assert discover(fresh.roots).devices(IAA)[0].queues[0].threshold == 128
