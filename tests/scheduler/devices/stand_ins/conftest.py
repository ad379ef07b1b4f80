"""The compiled C client, once per process."""

from pathlib import Path

import pytest

from scheduler.devices.stand_ins.build import build
from tests.needs import need


@pytest.fixture(scope="session")
def c_client(tmp_path_factory: pytest.TempPathFactory) -> Path:
    need("cc")
    return build("emulated_client", tmp_path_factory.mktemp("stand-in"))
