"""libqatzip as the tests have it: our stand-in always, the real one too where the machine has it."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import pytest

from scheduler.devices.device import DeviceUnavailable
from scheduler.devices.qat.device import QatDevice, open_qat, open_qat_on_emulated
from scheduler.devices.qat.libqatzip import GZIP_EXTENDED, Form, QatZip, load_qatzip
from scheduler.devices.stand_ins.build import build
from tests.needs import need
from tests.scheduler.devices.served_device import served

MEMORY_BYTES = 4 << 20


class OpenForm(Protocol):
    """Opens a device that speaks a form."""

    def __call__(self, form: Form = GZIP_EXTENDED) -> QatDevice: ...


def real_library() -> QatZip | None:
    """The machine's own libqatzip; tests of what a host without hardware says run on it too."""
    try:
        return load_qatzip()
    except DeviceUnavailable:
        return None


def _has_hardware() -> bool:
    try:
        open_qat(MEMORY_BYTES).close()
    except DeviceUnavailable:
        return False
    return True


HARDWARE = ["stand-in", *(["real"] if _has_hardware() else [])]


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


@pytest.fixture(params=HARDWARE)
def open_any(request: pytest.FixtureRequest, stand_in: QatZip, tmp_path: Path) -> Iterator[OpenForm]:
    """Each hardware that there is: a device that is emulated, and the machine's own."""
    if request.param == "stand-in":
        with served(tmp_path / "device") as path:
            library = QatZip(stand_in.path)
            yield lambda form=GZIP_EXTENDED: open_qat_on_emulated(library, path, MEMORY_BYTES, form=form)
        return

    def on_hardware(form: Form = GZIP_EXTENDED) -> QatDevice:
        try:
            return open_qat(MEMORY_BYTES, form=form)
        except DeviceUnavailable as unavailable:
            # One form for a process.
            return pytest.skip(f"{unavailable}: run the tests of each form alone")

    yield on_hardware


@pytest.fixture
def open_device(stand_in: QatZip) -> Callable[[Path], QatDevice]:
    return lambda path: open_qat_on_emulated(stand_in, path, MEMORY_BYTES)


@pytest.fixture
def has_hardware(any_library: QatZip) -> bool:
    """Whether this host has QAT; only the real library could find it."""
    try:
        open_qat(4096, library=any_library).close()
    except DeviceUnavailable:
        return False
    return True
