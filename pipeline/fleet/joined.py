"""Being part of a Ray cluster for a while, to talk to its controller.

A process is part of one cluster at a time. What Ray says while it joins and leaves is kept from stdout, which is for
results.
"""

import contextlib
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from pipeline.fleet.ray_environment import prepare_environment

if TYPE_CHECKING:
    from pipeline.fleet.controller_actor import ControllerHandle


@contextlib.contextmanager
def joined_cluster(address: str) -> Iterator[None]:
    """Be part of the cluster at HOST:PORT, or `auto`. Raises `UsageError` or `KuakaError`."""
    prepare_environment(local=False)
    # Only now: Ray reads its environment when it is imported.
    from pipeline.fleet.cluster import ray_cluster

    results = sys.stdout
    # What is printed in between is ours.
    with ray_cluster(address), contextlib.redirect_stdout(results):
        yield


@contextlib.contextmanager
def joined_controller(address: str) -> Iterator["ControllerHandle"]:
    """The controller of that cluster. Raises `UsageError` where there is none, too."""
    with joined_cluster(address):
        from pipeline.fleet.controller_actor import ControllerHandle

        yield ControllerHandle.find()
