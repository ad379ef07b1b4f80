"""A whole server is two thousand files: one tree for all tests that only look at it."""

import pytest

from tests.scheduler.devices.discovery.recorded_trees import Tree, sapphire_rapids


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Tree:
    """Two sockets with four DSA and four IAA devices each, as planned. Not to be changed."""
    return sapphire_rapids(tmp_path_factory.mktemp("server"))
