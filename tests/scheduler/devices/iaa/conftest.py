"""The libraries that these tests run on: the stand-in always, libqpl itself where this machine has it."""

import ctypes
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from scheduler.devices.device import DeviceUnavailable
from scheduler.devices.iaa.device import IaaDevice, open_iaa
from scheduler.devices.iaa.emulated import load_stand_in, open_iaa_on_emulated
from scheduler.devices.iaa.libqpl import Library, load
from tests.needs import need
from tests.scheduler.devices.served_device import DATA_BYTES, served


def _has_library() -> bool:
    try:
        load()
    except DeviceUnavailable:
        return False
    return True


def _has_hardware() -> bool:
    try:
        open_iaa(DATA_BYTES, slots=1).close()
    except DeviceUnavailable:
        return False
    return True


LIBRARIES = ["stand-in", *(["real"] if _has_library() else [])]
HARDWARE = ["stand-in", *(["real"] if _has_hardware() else [])]


@pytest.fixture(scope="session")
def stand_in(tmp_path_factory: pytest.TempPathFactory) -> Library:
    need("cc")
    return load_stand_in(tmp_path_factory.mktemp("libqpl"))


@pytest.fixture
def stand_in_alone(stand_in: Library) -> Iterator[Library]:
    """The stand-in without a device, and without what a test asked of it, afterwards."""
    yield stand_in
    stand_in.handle.kuaka_stand_in_connect(None)
    stand_in.handle.kuaka_stand_in_instant(0)
    disturb(stand_in)


@pytest.fixture(params=LIBRARIES)
def library(request: pytest.FixtureRequest, stand_in_alone: Library) -> Library:
    """For the software path, which every libqpl has."""
    return load() if request.param == "real" else stand_in_alone


def connect(library: Library, path: Path) -> None:
    assert library.handle.kuaka_stand_in_connect(str(path).encode()) == 0


def disturb(library: Library, busy: int = 0, fault: int = 0, error: int = 0, seed: int = 0) -> None:
    """Chances per million."""
    library.handle.kuaka_stand_in_disturb(busy, fault, error, ctypes.c_uint64(seed))


@pytest.fixture(params=HARDWARE)
def open_device(
    request: pytest.FixtureRequest, stand_in_alone: Library, tmp_path: Path
) -> Iterator[Callable[[int], IaaDevice]]:
    """Opens devices with so many bytes of memory; what they do themselves, the stand-in has done by a quiet device."""
    if request.param == "real":
        yield open_iaa
        return
    with served(tmp_path / "device") as path:
        yield partial(open_iaa_on_emulated, stand_in_alone, path)
