"""Opening a device by its address, and the figures that stand for hardware nobody has measured."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from scheduler.devices import opening
from scheduler.devices.address import DeviceAddress
from scheduler.devices.device import DESCRIPTOR, Device, DeviceDown, DeviceUnavailable, Operation, Status
from scheduler.devices.dsa.device import DsaDevice
from scheduler.devices.emulated.client import EmulatedDevice
from scheduler.devices.iaa.device import IaaDevice
from scheduler.devices.opening import open_device, stand_in_for, stand_ins_directory
from scheduler.devices.presets import COSTS, ENGINES
from scheduler.devices.qat.device import QatDevice
from scheduler.devices.qat.libqatzip import RAW_PAGES
from scheduler.devices.spec_file import load_devices
from tests.conftest import ROOT
from tests.needs import need
from tests.scheduler.devices.served_device import LONG_NS, served

PAGE_BYTES = 4096
MEMORY_BYTES = 1 << 20


@pytest.fixture
def socket(tmp_path: Path) -> Iterator[Path]:
    with served(tmp_path / "device"):
        yield tmp_path / "device"


def done(device: Device, operation: Operation, size: int) -> Status:
    job = np.array([(0, size, MEMORY_BYTES // 2, size - 1)], dtype=DESCRIPTOR)
    assert device.submit(operation, job) == 1
    assert device.wait(LONG_NS)
    return Status(device.status[0])


@pytest.mark.parametrize(
    ("kind", "operation", "made_of", "size"),
    [
        ("dsa", Operation.ZERO_SCAN, DsaDevice, PAGE_BYTES),
        ("iaa", Operation.COMPRESS, IaaDevice, PAGE_BYTES),
        ("qat", Operation.COMPRESS, QatDevice, 1 << 16),
    ],
)
def test_emulated_device_is_used_through_the_real_binding(
    socket: Path, kind: str, operation: Operation, made_of: type, size: int
) -> None:
    need("cc")
    address = DeviceAddress(kind, (str(socket),), 128, emulated=True, stand_in=stand_in_for(kind))
    device = open_device(address, MEMORY_BYTES)
    try:
        assert isinstance(device, made_of)
        assert done(device, operation, size) is Status.OK
    finally:
        device.close()


def test_without_a_stand_in_an_emulated_iaa_is_used_as_it_is(socket: Path) -> None:
    device = open_device(DeviceAddress("iaa", (str(socket),), 128, emulated=True), MEMORY_BYTES)
    assert isinstance(device, EmulatedDevice)
    device.close()


def test_without_a_stand_in_an_emulated_qat_is_not_used_because_its_streams_are_not_qatzips(socket: Path) -> None:
    with pytest.raises(DeviceUnavailable, match="install a C compiler"):
        open_device(DeviceAddress("qat", (str(socket),), 128, emulated=True), MEMORY_BYTES)


def test_qat_is_opened_in_the_form_that_was_asked_for(socket: Path) -> None:
    need("cc")
    library = stand_in_for("qat")
    assert library is not None
    address = DeviceAddress("qat", (str(socket),), 128, emulated=True, stand_in=library)
    device = open_device(address, MEMORY_BYTES)
    # The forms are not for one process, and this one says so of the other.
    with pytest.raises(DeviceUnavailable, match="not for one worker"):
        open_device(address, MEMORY_BYTES, RAW_PAGES)
    device.close()


@pytest.mark.parametrize("kind", ["dsa", "iaa", "qat"])
def test_hardware_that_is_not_there_is_down_in_one_line(tmp_path: Path, kind: str) -> None:
    with pytest.raises(DeviceDown) as raised:
        open_device(DeviceAddress(kind, (str(tmp_path / "wq0.0"),), 128), MEMORY_BYTES)
    assert "\n" not in str(raised.value)


def test_kind_that_nobody_knows_is_unavailable() -> None:
    with pytest.raises(DeviceUnavailable, match="this kuaka knows dsa, iaa, qat"):
        open_device(DeviceAddress("gpu", (), 1), MEMORY_BYTES)


def test_threads_spread_over_the_queues_of_a_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[tuple[str, int]] = []

    def take(path: Path, _memory_bytes: int, slots: int, _cost: object) -> None:
        opened.append((path.name, slots))

    monkeypatch.setattr(opening.DsaDevice, "open", take)
    for _ in range(4):
        open_device(DeviceAddress("dsa", ("/dev/dsa/wq0.1", "/dev/dsa/wq2.1"), 224), MEMORY_BYTES)
    assert sorted(opened) == [("wq0.1", 112)] * 2 + [("wq2.1", 112)] * 2


def test_stand_ins_have_their_own_place() -> None:
    assert stand_ins_directory({"KUAKA_STAND_INS": "/x"}) == Path("/x")
    assert stand_ins_directory({"XDG_CACHE_HOME": "/c"}) == Path("/c/kuaka/stand-ins")
    assert stand_in_for("dsa") is None


@pytest.mark.parametrize("kind", ["dsa", "iaa", "qat"])
def test_figures_for_hardware_are_those_of_the_examples(kind: str) -> None:
    (declared,) = load_devices(ROOT / "examples" / "devices" / f"{kind}.yaml")
    assert declared.cost() == COSTS[kind]
    assert declared.spec.engines == ENGINES[kind]
