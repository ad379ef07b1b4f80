"""A cluster of this machine with a controller, in a benchmark's directory, and what its event log says of a fleet."""

import json
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.fleet.directories import RUNTIME_VARIABLE, STATE_VARIABLE
from pipeline.fleet.events import Event
from pipeline.fleet.fleet_status import FleetState
from pipeline.fleet.lifecycle import UNDER_WAY
from pipeline.fleet.ray_environment import prepare_environment
from pipeline.fleet.read_fleet import fields_of
from pipeline.fleet.results import MigrationResult, Status
from pipeline.fleet.spec import Spec

if TYPE_CHECKING:
    from pipeline.fleet.controller_actor import ControllerHandle

_LOOK_S = 0.1
_NS = 10**9


@dataclass(frozen=True, slots=True)
class FinishedFleet:
    """What came of a fleet; times from its submission."""

    wall_s: float
    results: Sequence[MigrationResult]
    #: The most at the same time: in the cluster, leaving one host, arriving at one.
    cluster: int
    outbound: int
    inbound: int


@dataclass(slots=True)
class BenchmarkController:
    """The controller; every fleet gets a name of its own."""

    handle: "ControllerHandle"
    fleets: int = 0

    def run(self, spec: Spec) -> FinishedFleet:
        """Submit a fleet and wait for its end. Raises RuntimeError for a machine that did not arrive."""
        self.fleets += 1
        name = f"{spec.metadata.name}-{self.fleets}"
        self.handle.submit(name, fields_of(spec))
        events = [*self.handle.events(name)]
        while events[-1].state != FleetState.FINISHED:
            time.sleep(_LOOK_S)
            events += self.handle.events(name, events[-1].sequence)
        results = self.handle.results(name)
        if failed := [result for result in results if result.status is not Status.COMPLETED]:
            raise RuntimeError(f"{failed[0].vm} is {failed[0].status}: {failed[0].error}")
        wall_s = (events[-1].time_ns - events[0].time_ns) / _NS
        return FinishedFleet(wall_s, results, *_peaks(events, spec))


@contextmanager
def controller(folder: Path, workers: int) -> Iterator[BenchmarkController]:
    """A controller with so many workers per host; its cluster ends with it."""
    before = dict(os.environ)
    for variable in (STATE_VARIABLE, RUNTIME_VARIABLE):
        os.environ[variable] = str(folder / variable[-1])
    prepare_environment(local=True)
    from pipeline.fleet.cluster import ray_cluster
    from pipeline.fleet.controller_actor import ControllerHandle

    try:
        results = sys.stdout
        # Ray's remarks are kept from it; what is printed in between is ours.
        with ray_cluster(None), redirect_stdout(results):
            yield BenchmarkController(ControllerHandle.find_or_start(workers))
    finally:
        os.environ.clear()
        os.environ.update(before)


def fleet(name: str, machines: Sequence[Mapping[str, Any]], hosts: str, **settings: Any) -> Spec:
    """A spec; hosts by letters."""
    fields = {
        "apiVersion": "kuaka/v1",
        "kind": "Fleet",
        "metadata": {"name": name},
        "spec": {"hosts": [{"name": host} for host in hosts], "virtualMachines": list(machines), **settings},
    }
    return Spec.model_validate_json(json.dumps(fields))


def _peaks(events: Sequence[Event], spec: Spec) -> tuple[int, int, int]:
    ends = {vm.name: (vm.source.host, vm.destination.host) for vm in spec.spec.virtual_machines}
    states: dict[str, str] = {}
    cluster = outbound = inbound = 0
    for event in events:
        if event.vm:
            states[event.vm] = event.state
        running = [ends[vm] for vm, state in states.items() if state in UNDER_WAY]
        cluster = max(cluster, len(running))
        outbound = max([outbound, *Counter(source for source, _ in running).values()])
        inbound = max([inbound, *Counter(destination for _, destination in running).values()])
    return cluster, outbound, inbound
