"""Workers for the live tests: started once, because a migration leaves nothing in them."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.worker_process import local_workers
from tests.qemu.live import Pools


@pytest.fixture(scope="session")
def pools(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pools]:
    """Two workers for either side."""
    folder: Path = tmp_path_factory.mktemp("w")
    for side in ("s", "d"):
        (folder / side).mkdir()
    with local_workers(2, folder / "s") as source, local_workers(2, folder / "d") as destination:
        yield Pools(source, destination)
