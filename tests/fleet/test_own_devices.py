"""A host's own accelerators as pools, by recorded trees of hosts that have some."""

import asyncio
from pathlib import Path

import pytest

from pipeline.fleet.own_devices import OwnDevice, own_devices
from scheduler.devices.device import DeviceUnavailable
from scheduler.devices.discovery.discover import discover
from tests.scheduler.devices.discovery.recorded_trees import Tree, sapphire_rapids

INSTALLED = (("iaa", object), ("qat", object))


def of(tree: Tree) -> dict[str, OwnDevice]:
    return {device.settings.pool: device for device in own_devices("h", lambda: discover(tree.roots), INSTALLED)}


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


def test_machine_without_any_has_no_pools(tree: Tree) -> None:
    assert of(tree) == {}


def test_whole_server_has_a_pool_per_kind_and_node(tmp_path: Path) -> None:
    pools = of(sapphire_rapids(tmp_path))
    assert set(pools) == {"h/dsa/0", "h/dsa/1", "h/iaa/0", "h/iaa/1"}
    dsa, iaa = pools["h/dsa/0"], pools["h/iaa/1"]
    # Four devices each: DSA by its bulk queues, IAA whole.
    assert (dsa.settings.slots, dsa.settings.critical_slots, dsa.settings.engines) == (448, 56, 16)
    assert [Path(path).name for path in dsa.address.paths] == ["wq0.1", "wq2.1", "wq4.1", "wq6.1"]
    assert (iaa.settings.slots, iaa.settings.engines, iaa.address.numa_node) == (512, 8, 1)


def test_qat_is_a_pool_where_qatmgr_hands_it_out(tree: Tree) -> None:
    tree.add_qat("0000:6b:00.0")
    assert of(tree) == {}
    tree.add_qatmgr()
    assert of(tree)["h/qat/0"].settings.slots == 64


def test_kind_whose_library_is_missing_is_left_out_with_a_line(tree: Tree, caplog: pytest.LogCaptureFixture) -> None:
    tree.add_ready_device("iax1")
    tree.add_ready_device("dsa0")

    def missing() -> None:
        raise DeviceUnavailable("libqpl.so.1 is not installed")

    found = own_devices("h", lambda: discover(tree.roots), (("iaa", missing),))
    assert [device.settings.pool for device in found] == ["h/dsa/0"]
    assert "h/iaa/0 is not used: libqpl.so.1 is not installed" in caplog.text


def test_small_queue_has_a_pool_that_the_scheduler_takes(tree: Tree) -> None:
    tree.add_device("iax1")
    tree.set_queue("iax1", 0, size="4", threshold="4")
    settings = of(tree)["h/iaa/0"].settings
    assert (settings.slots, settings.critical_slots, settings.least_window) == (4, 0, 4)


def test_device_that_was_disabled_is_down_after_the_next_look(tree: Tree) -> None:
    tree.add_ready_device("iax1")
    now_s = [0.0]
    (device,) = own_devices("h", lambda: discover(tree.roots), INSTALLED)
    device._clock = lambda: now_s[0]
    device._look_at_s = 10.0
    (tree.device("iax1") / "state").write_text("disabled\n")
    asyncio.run(device.sample())
    assert device.up
    now_s[0] = 11.0
    assert asyncio.run(device.sample()) is None
    assert not device.up
