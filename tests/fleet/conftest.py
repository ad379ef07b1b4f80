"""Fixtures of the fleet's tests: a short directory, and a guest in it that can be migrated."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fleet.live_pair import LivePair, short_directory
from tests.fleet.ray_head import ray_head


@pytest.fixture
def home() -> Iterator[Path]:
    """A directory of few letters, with those for state and sockets in it."""
    with short_directory() as directory:
        yield directory


@pytest.fixture
def pair(home: Path) -> Iterator[LivePair]:
    """A running guest and what it takes to migrate it."""
    pair = LivePair(home)
    yield pair
    pair.close()


@pytest.fixture(scope="module")
def cluster() -> Iterator[tuple[str, Path]]:
    """Address and directory of a Ray head on loopback that asks for a token."""
    with ray_head() as cluster:
        yield cluster
