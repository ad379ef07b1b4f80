"""kuaka for Python programs: `from pipeline import Fleet, migrate` (docs/api.md).

Nothing here prints. A mistake, or a failure of the world, is a `pipeline.errors.KuakaError` whose text says what, where
and what to do; a migration that failed is no exception but a result that says so. Ray is imported by what needs it.
"""

import asyncio
import contextlib
import itertools
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from pipeline.errors import DeadlineError, KuakaError, UsageError
from pipeline.fleet.command import DEFAULT_WORKERS, FinishedRun, run_spec
from pipeline.fleet.events import Event
from pipeline.fleet.fleet_status import FleetState, FleetStatus
from pipeline.fleet.joined import joined_cluster, joined_controller
from pipeline.fleet.plan.plan import Plan
from pipeline.fleet.plan_here import plan_here
from pipeline.fleet.read_fleet import fields_of
from pipeline.fleet.results import MigrationResult
from pipeline.fleet.run import OnProgress
from pipeline.fleet.spec import Spec
from pipeline.fleet.spec_file import check_spec, load_spec
from pipeline.signals import caught

if TYPE_CHECKING:
    from pipeline.fleet.controller_actor import ControllerHandle

Answer = TypeVar("Answer")

_LOOK_S = 0.5
#: A controller that died is back within this time; until then it does not answer.
_PATIENCE_S = 60.0


@dataclass(frozen=True, slots=True)
class Fleet:
    """Machines to be migrated, and how: a spec that has passed every check which needs no host."""

    spec: Spec

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """The fleet in a spec file (docs/spec.md). Raises `SpecError`: a line for every problem."""
        return cls(load_spec(Path(path)))

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any]) -> Self:
        """The fleet in a spec's fields, named as in a file: `{"apiVersion": "kuaka/v1", ...}`. Raises `SpecError`."""
        return cls(check_spec(fields, "fields"))

    @property
    def name(self) -> str:
        """The spec's name, by which a controller knows the fleet unless it is told another one."""
        return self.spec.metadata.name

    def plan(self, workers: int = DEFAULT_WORKERS, *, say: Callable[[str], None] = lambda text: None) -> Plan:
        """Who would go when, how long it takes (seconds), and who cannot go and why; nothing is moved (docs/plan.md).

        Sources on this machine are looked at; `workers` are processes per host. `say` is called with a line where this
        machine is busy with something else.
        """
        return plan_here(self.spec, workers, say)

    def submit(self, address: str, *, fleet_id: str | None = None, workers: int = DEFAULT_WORKERS) -> "SubmittedFleet":
        """Hand the fleet to the controller of the cluster at HOST:PORT (or `auto`), which is started if there is none.

        The fleet goes on without this process. `fleet_id` is its name there, that of the spec without it; the same spec
        under the same id is not begun again. Raises `SpecError` for a fleet of which a machine can never go,
        `UsageError` where another spec has that id or no cluster answers, `KuakaError` where Ray fails.
        """
        with self.submitted(address, fleet_id=fleet_id or self.name, workers=workers) as submitted:
            return SubmittedFleet(submitted.id, address, new=submitted.new)

    @contextlib.contextmanager
    def submitted(
        self,
        address: str,
        *,
        fleet_id: str | None = None,
        workers: int = DEFAULT_WORKERS,
        cancelled_by: Sequence[signal.Signals] = (),
    ) -> "Iterator[SubmittedFleet]":
        """`submit`, and for as long as the block lasts this process stays part of the cluster.

        Without `fleet_id` a fleet of the spec's name that has finished is not in the way: the name is then NAME-2, and
        so on. One that has not finished is the one that is meant. A signal of `cancelled_by` that comes during the
        block, caught where this is the main thread, makes `wait` cancel the fleet and wait on.
        """
        # Once it is joined: Ray has signal handlers of its own.
        with joined_cluster(address), caught(*cancelled_by) as given_up:
            from pipeline.fleet.controller_actor import ControllerHandle

            controller = ControllerHandle.find_or_start(workers)
            name = fleet_id or _name_to_begin(controller, self.name)
            accepted = controller.submit(name, fields_of(self.spec))
            yield SubmittedFleet(name, address, new=accepted.new, controller=controller, given_up=given_up)


def migrate(
    fleet: Fleet,
    address: str | None = None,
    workers: int = DEFAULT_WORKERS,
    *,
    on_progress: OnProgress = lambda progress: None,
    say: Callable[[str], None] = lambda text: None,
) -> FinishedRun:
    """Migrate all of a fleet and wait for it: the results in the spec's order, and the seconds they took.

    `address` is that of the Ray cluster (HOST:PORT, or `auto`), by default $RAY_ADDRESS, which Ray sets in a job: its
    controller has the fleet then (see `Fleet.submitted`), which goes on should this process die. Without either a
    cluster is started on this machine and ended again, and every machine is tried once, whatever the spec says of
    retries and of help for guests that do not converge. `workers` are processes per host. `on_progress`
    is called several times a second with the progress of each machine that moves, by name, counters in bytes; `say`
    with a line now and then.

    SIGINT and SIGTERM, caught where this is the main thread, cancel what has not been handed over: those results say
    `cancelled`. Blocks; from a coroutine, call it by `asyncio.to_thread`. Raises `SpecError` where a machine that the
    spec names is not as it says (nothing has moved then), `UsageError` where no cluster answers or a node is unknown,
    `KuakaError` where Ray fails.
    """
    if _has_running_loop():
        raise UsageError("migrate() blocks: call it from this coroutine as await asyncio.to_thread(migrate, fleet)")
    address = cluster_address(address)
    if address is None:
        return run_spec(fleet.spec, workers=workers, on_progress=on_progress, say=say)
    began_s = time.monotonic()
    with fleet.submitted(address, workers=workers, cancelled_by=(signal.SIGINT, signal.SIGTERM)) as submitted:
        say(f"fleet {submitted.id} is with the controller at {address}")

        def look(status: FleetStatus) -> None:
            on_progress({each.vm: each.progress for each in status.migrations if each.progress is not None})

        return FinishedRun(submitted.wait(on_status=look), time.monotonic() - began_s, abandoned=False)


def cluster_address(address: str | None) -> str | None:
    """The cluster that is meant: the one named, else $RAY_ADDRESS, which Ray sets in a job; None: one's own."""
    return address or os.environ.get("RAY_ADDRESS") or None


class SubmittedFleet:
    """A fleet that a cluster's controller has; it goes on whether or not this object lives.

    Every call joins the cluster, asks and leaves, which takes about a second; inside a `with` block it stays joined. A
    process is part of one Ray cluster at a time.

    Every call raises `UsageError` where no cluster answers, no controller runs there or the fleet is not known, and
    `KuakaError` where the controller does not answer: one that has died is back within seconds.
    """

    def __init__(
        self,
        fleet_id: str,
        address: str = "auto",
        *,
        new: bool = False,
        controller: "ControllerHandle | None" = None,
        given_up: threading.Event | None = None,
    ) -> None:
        """The fleet of that id at the cluster (HOST:PORT, or `auto`); nothing is asked yet.

        `controller` is the one to ask, where this process is part of its cluster already; `given_up`, once set, makes
        `wait` cancel the fleet.
        """
        self._given_up = given_up or threading.Event()
        #: Its name at the controller.
        self.id = fleet_id
        #: Of the cluster.
        self.address = address
        #: Whether `submit` began it; not if it was there before.
        self.new = new
        self._joined = contextlib.ExitStack()
        self._controller = controller

    def __enter__(self) -> Self:
        self._controller = self._joined.enter_context(joined_controller(self.address))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._controller = None
        self._joined.close()

    def status(self) -> FleetStatus:
        """Where each machine is, in the spec's order, and what it waits for; progress in bytes."""
        with self._asked() as controller:
            (status,) = controller.status(self.id)
        return status

    def results(self) -> Sequence[MigrationResult]:
        """What the migrations that have ended came to, in the spec's order; times in milliseconds."""
        with self._asked() as controller:
            return controller.results(self.id)

    def events(self, after: int = 0) -> Iterator[Event]:
        """What happened after the event of that sequence, oldest first; times in nanoseconds since 1970."""
        with self._asked() as controller:
            while events := controller.events(self.id, after):
                yield from events
                after = events[-1].sequence

    def wait(
        self, timeout_s: float | None = None, on_status: Callable[[FleetStatus], None] = lambda status: None
    ) -> Sequence[MigrationResult]:
        """Wait until every migration has ended; their results. `on_status` is called twice a second.

        A controller that dies meanwhile is waited for. Raises `DeadlineError` after `timeout_s`; the fleet goes on.
        """
        deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
        with self._asked() as controller:
            while True:
                status = _patiently(lambda: controller.status(self.id)[0])
                on_status(status)
                if self._given_up.is_set():
                    self._given_up.clear()
                    _patiently(lambda: controller.cancel(self.id, None))
                if status.state is FleetState.FINISHED:
                    return _patiently(lambda: controller.results(self.id))
                if deadline_s is not None and time.monotonic() >= deadline_s:
                    raise DeadlineError(f"fleet {self.id} has not finished after {timeout_s} s: it goes on, wait again")
                time.sleep(_LOOK_S)

    def cancel(self, vm: str | None = None) -> None:
        """Give up the fleet, or one machine. Guests stay where they are; behind the hand-over it is too late."""
        with self._asked() as controller:
            controller.cancel(self.id, vm)

    def pause(self, vm: str | None = None) -> None:
        """Hold back what has not begun and slow down what runs, of the fleet or of one machine."""
        with self._asked() as controller:
            controller.pause(self.id, vm)

    def resume(self, vm: str | None = None) -> None:
        """Take a pause back."""
        with self._asked() as controller:
            controller.resume(self.id, vm)

    def set_bandwidth(self, rate_bytes_s: int | None) -> None:
        """Cap each migration at so many wire bytes per second, those that run too; None lifts the cap."""
        with self._asked() as controller:
            controller.set_bandwidth(self.id, rate_bytes_s)

    @contextlib.contextmanager
    def _asked(self) -> Iterator["ControllerHandle"]:
        if self._controller is not None:
            yield self._controller
        else:
            with joined_controller(self.address) as controller:
                yield controller


def _name_to_begin(controller: "ControllerHandle", name: str) -> str:
    """The first of NAME, NAME-2, ... under which no fleet has finished."""
    names = itertools.chain((name,), (f"{name}-{number}" for number in itertools.count(2)))
    return next(each for each in names if not _has_finished(controller, each))


def _has_finished(controller: "ControllerHandle", name: str) -> bool:
    try:
        (status,) = controller.status(name)
    except UsageError:
        return False
    return status.state is FleetState.FINISHED


def _patiently(call: Callable[[], Answer]) -> Answer:
    """What a controller answers that may be on its way back."""
    deadline_s = time.monotonic() + _PATIENCE_S
    while True:
        try:
            return call()
        except UsageError:
            raise
        except KuakaError:
            if time.monotonic() > deadline_s:
                raise
            time.sleep(_LOOK_S)


def _has_running_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
