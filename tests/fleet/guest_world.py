"""A naive model of one guest between two hosts: two QEMUs and a journal as flags, and everything that can go wrong.

`World` holds what is true, whoever knows it. `Calls` is the one door through which a migration or a sweep acts on it:
every call has a number, and a plan says which of them go wrong and how. The world itself watches the rules that must
hold at any moment; `broken` collects what was broken.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any

from pipeline.errors import KuakaError, MigrationError
from pipeline.fleet.orders import Cleanup, DestinationOrder, DestinationReady, MigrationProgress, SourceOrder
from pipeline.qemu.qmp import QemuFacts
from pipeline.qemu.source_vm import SourceOutcome
from pipeline.shard import ShardCounters
from tests.fleet.no_images import NoImages

FACTS = QemuFacts((10, 0, 0), "uuid", "pc-i440fx-10.0", 1 << 28, "running", {}, {}, ())


class Fault(Enum):
    """How a call goes wrong."""

    REFUSED = "raises, nothing was done"
    LOST = "was done, raises"
    DEAD = "the host's agent is dead, nothing was done"
    DYING = "was done, then the host's agent is dead"
    CANCELLED = "the user gives up while it is under way; it is done nevertheless"
    SLOW = "does not return before the migration's time is over; it is done nevertheless"
    KILLED = "the command dies, nothing was done"
    KILLED_AFTER = "was done, the command dies"


#: For calls of the journal: it has no agent, and does not wait.
JOURNAL_FAULTS = (Fault.REFUSED, Fault.LOST, Fault.KILLED, Fault.KILLED_AFTER)


class CommandDied(BaseException):
    """SIGKILL: nothing of the command runs any more."""


@dataclass
class World:
    """What is true. `was_running`: the guest runs when the migration begins."""

    was_running: bool = True
    source_runs: bool = True
    migrating: bool = False
    completed: bool = False
    destination_exists: bool = False
    destination_loaded: bool = False
    destination_runs: bool = False
    destination_ran: bool = False
    kept: bool = False
    dead: set[str] = field(default_factory=set)
    # The journal.
    begun: bool = False
    paused: bool = False
    handed_over: bool = False
    finished: bool = False
    broken: list[str] = field(default_factory=list)

    def run_destination(self) -> None:
        if not self.handed_over:
            self.broken.append("the destination was told to run before the hand-over was recorded")
        if not self.destination_exists or not self.destination_loaded:
            raise MigrationError("no guest to run")
        self.destination_runs = self.destination_ran = True
        self.look()

    def run_source(self) -> None:
        if self.destination_exists:
            self.broken.append("the source was told to run while the destination exists")
        self.migrating = False
        self.source_runs = self.was_running
        self.look()

    def remove_destination(self) -> None:
        self.destination_exists = self.destination_loaded = self.destination_runs = False
        self.migrating = False

    def stop_migrating(self) -> None:
        """A source whose stream is cut, or that is told to give up, goes on by itself unless it had completed."""
        self.migrating = False

    def complete(self) -> None:
        """All memory is at the destination; the source stops for good."""
        if self.migrating and self.destination_exists and not self.dead:
            self.migrating, self.completed = False, True
            self.source_runs, self.destination_loaded = False, True

    def look(self) -> None:
        if self.source_runs and self.destination_runs:
            self.broken.append("both guests run")

    def die(self, host: str) -> None:
        """An agent dies, and with it every stream through it. QEMUs live on."""
        self.dead.add(host)
        self.stop_migrating()


class Calls:
    """Numbers the calls and makes those of `plan` go wrong."""

    def __init__(self, world: World, plan: Mapping[int, Fault]) -> None:
        self.world = world
        self.plan = plan
        self.made: list[str] = []
        self.task: asyncio.Task[Any] | None = None

    async def host(self, host: str, name: str, effect: Any = lambda: None) -> Any:
        fault = self._next(f"{host}.{name}")
        if fault in (Fault.DEAD, Fault.DYING) and host not in self.world.dead:
            result = effect() if fault is Fault.DYING else None
            self.world.die(host)
            raise MigrationError(f"a kuaka process on host {host} has died")
        if host in self.world.dead:
            raise MigrationError(f"a kuaka process on host {host} has died")
        match fault:
            case Fault.REFUSED:
                raise MigrationError(f"{name} refused")
            case Fault.LOST:
                effect()
                raise MigrationError(f"the answer of {name} was lost")
            case Fault.KILLED:
                raise CommandDied
            case Fault.KILLED_AFTER:
                effect()
                raise CommandDied
            case Fault.CANCELLED:
                assert self.task is not None
                self.task.cancel()
                result = effect()
                await asyncio.sleep(0)
                return result
            case Fault.SLOW:
                result = effect()
                await asyncio.sleep(0.005)
                return result
        return effect()

    def journal(self, name: str, effect: Any) -> None:
        fault = self._next(f"journal.{name}")
        if fault is Fault.KILLED:
            raise CommandDied
        if fault is Fault.REFUSED:
            raise KuakaError("journal cannot be used")
        effect()
        if fault is Fault.LOST:
            raise KuakaError("journal cannot be used")
        if fault is Fault.KILLED_AFTER:
            raise CommandDied

    def _next(self, name: str) -> Fault | None:
        self.made.append(name)
        return self.plan.get(len(self.made) - 1)


class FakeHost(NoImages):
    """A `HostHandle` (and a sweep's host) over the world."""

    directory = "/run/kuaka/agent-1"

    def __init__(self, name: str, calls: Calls) -> None:
        self.name = name
        self._calls = calls
        self._world = calls.world

    async def clock_ns(self) -> int:
        return int(await self._calls.host(self.name, "clock_ns", lambda: 0))

    async def inspect_source(self, vm: str, qmp: str, session_id: str) -> QemuFacts:
        status = "running" if self._world.was_running else "paused"
        facts: QemuFacts = await self._calls.host(self.name, "inspect_source", lambda: replace(FACTS, status=status))
        return facts

    async def prepare_destination(self, order: DestinationOrder) -> DestinationReady:
        def effect() -> DestinationReady:
            self._world.destination_exists = True
            return DestinationReady("127.0.0.1", 1, FACTS)

        ready: DestinationReady = await self._calls.host(self.name, "prepare_destination", effect)
        return ready

    async def start_source(self, order: SourceOrder, facts: QemuFacts) -> None:
        def effect() -> None:
            self._world.migrating = self._world.destination_exists

        await self._calls.host(self.name, "start_source", effect)

    async def await_source(self, session_id: str) -> SourceOutcome:
        def effect() -> SourceOutcome:
            self._world.complete()
            completed = self._world.completed
            stopped_ns = 0 if completed and self._world.was_running else None
            return SourceOutcome(
                completed, not completed, self._world.was_running, None if completed else "cut", stopped_ns, {}
            )

        outcome: SourceOutcome = await self._calls.host(self.name, "await_source", effect)
        return outcome

    async def keep_destination(self, session_id: str) -> None:
        def effect() -> None:
            self._world.kept = True

        await self._calls.host(self.name, "keep_destination", effect)

    async def resume_destination(self, session_id: str) -> int:
        await self._calls.host(self.name, "resume_destination", self._world.run_destination)
        return 0

    async def fail(self, session_id: str, reason: str) -> None:
        await self._calls.host(self.name, "fail", self._world.stop_migrating)

    async def cancel_source(self, session_id: str) -> None:
        await self._calls.host(self.name, "cancel_source", self._world.stop_migrating)

    async def resume_source(self, session_id: str) -> str:
        await self._calls.host(self.name, "resume_source", self._world.run_source)
        return "running"

    async def finish_source(self, session_id: str) -> MigrationProgress:
        await self._calls.host(self.name, "finish_source")
        return MigrationProgress(ShardCounters(pages=7), None)

    async def finish_destination(self, session_id: str) -> MigrationProgress:
        await self._calls.host(self.name, "finish_destination")
        return MigrationProgress(ShardCounters(), None)

    async def cleanup_destination(self, cleanup: Cleanup) -> None:
        await self._calls.host(self.name, "cleanup_destination", self._world.remove_destination)

    async def recover_source(self, vm: str, qmp: str, *, paused: bool) -> str:
        def effect() -> str:
            self._world.stop_migrating()
            if self._world.completed and not self._world.source_runs and not paused:
                self._world.run_source()
            return "running"

        return str(await self._calls.host(self.name, "recover_source", effect))

    async def recover_destination(self, vm: str, qmp: str) -> str:
        await self._calls.host(self.name, "recover_destination", self._world.run_destination)
        return "running"

    async def progress(self, session_ids: Sequence[str]) -> dict[str, MigrationProgress]:
        await self._calls.host(self.name, "progress")
        return {}


class FakeRecorder:
    """The journal's entries of one migration."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self._world = calls.world
        self.destination: Mapping[str, Any] = {}

    def begun(self, session: str, destination: Mapping[str, Any]) -> None:
        self.destination = destination
        self._calls.journal("begun", lambda: self._set("begun", True))

    def paused(self) -> None:
        self._calls.journal("paused", lambda: self._set("paused", True))

    def handed_over(self) -> None:
        self._calls.journal("handed_over", lambda: self._set("handed_over", True))

    def taken_back(self) -> None:
        if self._world.destination_exists:
            self._world.broken.append("a guest was taken back while the destination exists")
        self._calls.journal("taken_back", lambda: self._set("handed_over", False))

    def finished(self, state: str, error: str | None) -> None:
        self._calls.journal("finished", lambda: self._set("finished", True))

    def _set(self, name: str, value: bool) -> None:
        setattr(self._world, name, value)
