"""Disks that would stay behind, from what real QEMUs answer to `query-block`."""

from collections.abc import Collection
from typing import Any

import pytest

from pipeline.qemu import disks


def disk(**fields: Any) -> dict[str, Any]:
    """As QEMU 7.2 says it of `-drive file=/san/disk.img,format=raw,if=ide`, what does not matter left out."""
    inserted = {
        "ro": False,
        "drv": "raw",
        "file": "/san/disk.img",
        "node-name": "#block123",
        "image": {"filename": "/san/disk.img", "format": "raw", "virtual-size": 512},
    }
    block = {
        "device": "ide0-hd0",
        "qdev": "/machine/unattached/device[11]",
        "locked": False,
        "removable": False,
        "type": "unknown",
        "inserted": inserted | fields.pop("inserted", {}),
    }
    return block | fields


def unshared_disks(blocks: list[dict[str, Any]], shared: Collection[str]) -> tuple[str, ...]:
    return disks.unshared_disks(disks.writable_disks(blocks), shared)


EMPTY_DRIVE = {"device": "ide1-cd0", "locked": False, "removable": True, "tray_open": False, "type": "unknown"}


@pytest.mark.parametrize("name", ["/san/disk.img", "#block123", "ide0-hd0", "/machine/unattached/device[11]"])
def test_a_disk_is_shared_by_any_of_its_names(name: str) -> None:
    assert unshared_disks([disk()], {name, "another"}) == ()


def test_a_writable_disk_that_nobody_called_shared_is_named_by_its_file() -> None:
    assert unshared_disks([disk(), EMPTY_DRIVE], {"/san/other.img"}) == ("/san/disk.img",)


def test_what_the_guest_cannot_write_to_may_stay() -> None:
    assert unshared_disks([disk(inserted={"ro": True}), EMPTY_DRIVE], ()) == ()


def test_a_disk_of_a_blockdev_has_no_device_but_names() -> None:
    block = disk(device="", inserted={"file": "json:{...}", "node-name": "disk0"}, qdev="/machine/peripheral/d0")
    assert unshared_disks([block], {"disk0"}) == ()
    assert unshared_disks([block], ()) == ("json:{...}",)


def test_a_disk_without_any_name_is_no_exception() -> None:
    assert unshared_disks([{"inserted": {"ro": False}}], {"x"}) == ("a disk without a name",)
