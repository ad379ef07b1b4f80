"""libqatzip as the tests have it: our stand-in always, the real one too where the machine has it."""

from collections.abc import Callable
from pathlib import Path

import pytest

from scheduler.devices.device import DeviceUnavailable
from scheduler.devices.qat.device import QatDevice, open_qat, open_qat_on_emulated
from scheduler.devices.qat.libqatzip import QatZip, load_qatzip
from scheduler.devices.stand_ins.build import build
from tests.needs import need


def real_library() -> QatZip | None:
    """The machine's own libqatzip; tests of what a host without hardware says run on it too."""
    try:
        return load_qatzip()
    except DeviceUnavailable:
        return None


@pytest.fixture(scope="session")
def stand_in(tmp_path_factory: pytest.TempPathFactory) -> QatZip:
    need("cc")
    return QatZip(str(build("libqatzip", tmp_path_factory.mktemp("qatzip"))))


@pytest.fixture(params=["stand-in", "real"])
def any_library(request: pytest.FixtureRequest, stand_in: QatZip) -> QatZip:
    """Each library that there is, with nothing connected: a host without hardware, unless it has some."""
    if request.param == "stand-in":
        return stand_in
    library = real_library()
    if library is None:
        pytest.skip("libqatzip is not installed")
    return library


@pytest.fixture
def open_device(stand_in: QatZip) -> Callable[[Path], QatDevice]:
    return lambda path: open_qat_on_emulated(stand_in, path, 4 << 20)


@pytest.fixture
def has_hardware(any_library: QatZip) -> bool:
    """Whether this host has QAT; only the real library could find it."""
    try:
        open_qat(4096, library=any_library).close()
    except DeviceUnavailable:
        return False
    return True
