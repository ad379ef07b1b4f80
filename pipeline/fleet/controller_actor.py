"""The controller's Ray shell: one detached actor per cluster, found by its name, and how commands call it.

Ray starts it again when its process dies, on the node that it was on: its journal is a file there. The plain controller
runs on a loop in a thread of its own, so that it goes on working whether or not anybody calls; what it cannot deal with
ends the process, and the next one puts right what was under way.
"""

import asyncio
import concurrent.futures
import gc
import logging
import os
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipeline.errors import KuakaError, UsageError
from pipeline.fleet.agent_handle import NAMESPACE
from pipeline.fleet.attempts import fleet_attempts
from pipeline.fleet.cluster import tell_scheduler
from pipeline.fleet.cluster_hosts import ClusterHosts
from pipeline.fleet.controller import Controller
from pipeline.fleet.controller_exporter import controller_exporter
from pipeline.fleet.directories import state_directory
from pipeline.fleet.events import Event
from pipeline.fleet.fleet_status import Accepted, FleetStatus
from pipeline.fleet.fleets import FleetRecord
from pipeline.fleet.journal import Journal
from pipeline.fleet.owner import this_process
from pipeline.fleet.read_fleet import read_fleet
from pipeline.fleet.results import MigrationResult
from pipeline.logs import set_up_logs

ACTOR_NAME = "controller"
#: Calls at the same time; each takes milliseconds.
_CALLS = 32
_CALL_TIMEOUT_S = 10.0
#: A controller that has to be started, or started again, answers within this time.
_READY_TIMEOUT_S = 60.0
#: How often a controller without anything to do is looked at, and after how long its agents are ended.
_LOOK_S = 1.0
_IDLE_S = 20.0
#: How long a controller that could not begin says why.
_TELL_S = 5.0

Answer = TypeVar("Answer")

_log = logging.getLogger(__name__)


class ControllerShell:
    """The actor. Its calls are those of `Controller`."""

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._ready: concurrent.futures.Future[Controller] = concurrent.futures.Future()
        self._loop = asyncio.new_event_loop()
        gc.freeze()
        set_up_logs("controller", socket.gethostname())
        threading.Thread(target=self._work, name="controller", daemon=True).start()

    def process(self) -> int:
        """The process id, once the controller works. Raises `KuakaError` where it cannot begin."""
        self._ready.result(_READY_TIMEOUT_S)
        return os.getpid()

    def submit(self, fleet_id: str, spec: Mapping[str, Any]) -> Accepted:
        """See `Controller`."""
        return self._ask(lambda controller: controller.submit(fleet_id, spec))

    def status(self, fleet_id: str | None = None) -> list[FleetStatus]:
        """See `Controller`."""
        return self._ask(lambda controller: controller.status(fleet_id))

    def results(self, fleet_id: str) -> list[MigrationResult]:
        """See `Controller`."""
        return self._ask(lambda controller: controller.results(fleet_id))

    def record(self, fleet_id: str) -> FleetRecord:
        """See `Controller`."""
        return self._ask(lambda controller: controller.record(fleet_id))

    def events(self, fleet_id: str | None = None, after: int = 0) -> list[Event]:
        """See `Controller`."""
        return self._ask(lambda controller: controller.events(fleet_id, after))

    def cancel(self, fleet_id: str, vm: str | None = None) -> None:
        """See `Controller`."""
        self._ask(lambda controller: controller.cancel(fleet_id, vm))

    def pause(self, fleet_id: str, vm: str | None = None) -> None:
        """See `Controller`."""
        self._ask(lambda controller: controller.pause(fleet_id, vm))

    def resume(self, fleet_id: str, vm: str | None = None) -> None:
        """See `Controller`."""
        self._ask(lambda controller: controller.resume(fleet_id, vm))

    def set_bandwidth(self, fleet_id: str, rate_bytes_s: int | None) -> None:
        """See `Controller`."""
        self._ask(lambda controller: controller.set_bandwidth(fleet_id, rate_bytes_s))

    def _ask(self, call: Callable[[Controller], Answer]) -> Answer:
        controller = self._ready.result(_READY_TIMEOUT_S)

        async def asked() -> Answer:
            return call(controller)

        return asyncio.run_coroutine_threadsafe(asked(), self._loop).result(_CALL_TIMEOUT_S)

    def _work(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._control())
        except KuakaError as error:
            if not self._ready.done():
                # Nothing was touched. Whoever asks is told why, then Ray starts it again: it may be mended meanwhile.
                self._ready.set_exception(error)
                time.sleep(_TELL_S)
            _log.critical("the controller ends: %s", error)
            os._exit(1)
        except BaseException:
            _log.critical("the controller ends", exc_info=True)
            os._exit(1)

    async def _control(self) -> None:
        owner = this_process()
        journal = Journal.open(state_directory(), owner)
        hosts = ClusterHosts(owner, self._workers)
        controller = Controller(journal, hosts, read_fleet, fleet_attempts(journal))
        controller.adopt()
        self._ready.set_result(controller)
        exporter = controller_exporter(controller)
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(controller.run())
                tasks.create_task(_spare_agents(controller, hosts))
                tasks.create_task(tell_tenants(lambda: controller.weights, tell_scheduler))
        finally:
            await exporter.stop()


async def _spare_agents(controller: Controller, hosts: ClusterHosts) -> None:
    """End the agents of a controller that has had nothing to do for a while."""
    idle_s = 0.0
    while True:
        await asyncio.sleep(_LOOK_S)
        idle_s = 0.0 if controller.busy else idle_s + _LOOK_S
        if idle_s >= _IDLE_S:
            await hosts.end_all()


async def tell_tenants(
    weights: Callable[[], Mapping[str, int]],
    tell: Callable[[str, int | None], Awaitable[bool]],
    every_s: float = _LOOK_S,
) -> None:
    """Run for ever: the scheduler is told the weight of every fleet under way, and which are over."""
    told: dict[str, int] = {}
    while True:
        now = dict(weights())
        for fleet in sorted(told.keys() | now.keys()):
            weight = now.get(fleet)
            if told.get(fleet) == weight:
                continue
            if not await tell(fleet, weight):
                # Nobody is there; the others would not be heard, either.
                break
            if weight is None:
                del told[fleet]
            else:
                told[fleet] = weight
        await asyncio.sleep(every_s)


class ControllerHandle:
    """The cluster's controller for a command. Every call raises `KuakaError` in one line."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor

    @classmethod
    def find(cls) -> "ControllerHandle":
        """The controller that there is; raises `UsageError` where there is none."""
        try:
            return cls(ray.get_actor(ACTOR_NAME, namespace=NAMESPACE))
        except ValueError:
            raise UsageError(
                "no controller runs on this cluster: nothing was submitted to it yet, see kuaka migrate --detach"
            ) from None

    @classmethod
    def find_or_start(cls, workers: int) -> "ControllerHandle":
        """The cluster's controller, started on this node if there is none. Raises `KuakaError`."""
        shell: Any = ray.remote(ControllerShell)
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        actor = shell.options(
            name=ACTOR_NAME,
            namespace=NAMESPACE,
            get_if_exists=True,
            lifetime="detached",
            num_cpus=0,
            max_restarts=-1,
            max_task_retries=0,
            max_concurrency=_CALLS,
            scheduling_strategy=here,
        ).remote(workers)
        handle = cls(actor)
        handle.process()
        return handle

    def process(self) -> int:
        """The controller's process, once it works."""
        return int(self._call(self._actor.process.remote()))

    def submit(self, fleet_id: str, spec: Mapping[str, Any]) -> Accepted:
        """See `Controller`."""
        accepted: Accepted = self._call(self._actor.submit.remote(fleet_id, spec))
        return accepted

    def status(self, fleet_id: str | None = None) -> Sequence[FleetStatus]:
        """See `Controller`."""
        status: Sequence[FleetStatus] = self._call(self._actor.status.remote(fleet_id))
        return status

    def results(self, fleet_id: str) -> Sequence[MigrationResult]:
        """See `Controller`."""
        results: Sequence[MigrationResult] = self._call(self._actor.results.remote(fleet_id))
        return results

    def record(self, fleet_id: str) -> FleetRecord:
        """See `Controller`."""
        record: FleetRecord = self._call(self._actor.record.remote(fleet_id))
        return record

    def events(self, fleet_id: str | None = None, after: int = 0) -> Sequence[Event]:
        """See `Controller`."""
        events: Sequence[Event] = self._call(self._actor.events.remote(fleet_id, after))
        return events

    def cancel(self, fleet_id: str, vm: str | None = None) -> None:
        """See `Controller`."""
        self._call(self._actor.cancel.remote(fleet_id, vm))

    def pause(self, fleet_id: str, vm: str | None = None) -> None:
        """See `Controller`."""
        self._call(self._actor.pause.remote(fleet_id, vm))

    def resume(self, fleet_id: str, vm: str | None = None) -> None:
        """See `Controller`."""
        self._call(self._actor.resume.remote(fleet_id, vm))

    def set_bandwidth(self, fleet_id: str, rate_bytes_s: int | None) -> None:
        """See `Controller`."""
        self._call(self._actor.set_bandwidth.remote(fleet_id, rate_bytes_s))

    @staticmethod
    def _call(reference: Any) -> Any:
        try:
            return ray.get(reference, timeout=_READY_TIMEOUT_S)
        except RayTaskError as error:
            if isinstance(error.cause, KuakaError):
                raise error.cause from None
            raise KuakaError(f"the controller failed: {type(error.cause).__name__}: {error.cause}") from None
        except RayActorError:
            raise KuakaError("the controller has died, and comes back within seconds: ask again") from None
        except RayError as error:
            raise KuakaError(f"the controller cannot be reached: {type(error).__name__}") from None
