"""The hosts of a fleet's world, as its controllers reach them: every call is a moment at which whoever acts may die."""

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pipeline.errors import KuakaError, MigrationError, SpecError
from pipeline.fleet.orders import (
    Cleanup,
    DestinationOrder,
    DestinationReady,
    MigrationProgress,
    SourceOrder,
)
from pipeline.memory.pages import PAGE_BYTES
from pipeline.qemu.qmp import QemuFacts
from pipeline.qemu.source_vm import SourceOutcome
from pipeline.shard import ShardCounters
from tests.fleet.fleet_world import FULL_BYTES_S, MEMORY_BYTES, Guest, World
from tests.fleet.no_images import NoImages

FACTS = QemuFacts((10, 0, 0), "uuid", "pc-i440fx-10.0", MEMORY_BYTES, "running", {}, {}, ())


class Agent(NoImages):
    """A `FleetHost`."""

    directory = "/run/kuaka/agent"

    def __init__(self, world: World, name: str) -> None:
        self.name = name
        self.alive = True
        self._world = world
        self._vms: dict[str, str] = {}
        self._stirred = asyncio.Event()

    async def _call(self, name: str, effect: Callable[[], Any] = lambda: None) -> Any:
        self._world.point(f"{self.name}.{name}")
        await asyncio.sleep(0.001)
        if not self.alive:
            raise MigrationError(f"a kuaka process on host {self.name} has died")
        if self._world.failing.get(name, 0):
            self._world.failing[name] -= 1
            raise KuakaError(f"{name} failed")
        result = effect()
        self._world.point(f"{self.name}.{name} done")
        return result

    async def clock_ns(self) -> int:
        return self._world.now_ns()

    async def inspect_source(self, vm: str, qmp: str, session_id: str) -> QemuFacts:
        def effect() -> QemuFacts:
            with self._world.guest(vm) as guest:
                guest.sessions.append(session_id)
                if len(set(guest.sessions)) < len(guest.sessions):
                    self._world.breaks(f"{vm}: session {session_id[:8]} was used twice")
                if not guest.source_runs:
                    self._world.breaks(f"{vm}: an attempt was begun on a guest that is not at its source")
                    raise SpecError("not running")
            self._vms[session_id] = vm
            return FACTS

        facts: QemuFacts = await self._call("inspect_source", effect)
        return facts

    async def prepare_destination(self, order: DestinationOrder) -> DestinationReady:
        def effect() -> DestinationReady:
            with self._world.guest(order.vm) as guest:
                if guest.destination is not None:
                    self._world.breaks(f"{order.vm}: a second destination was asked for")
                    raise SpecError("something answers there")
                guest.destination, guest.loaded = order.terms.session, False
            self._vms[order.terms.session] = order.vm
            return DestinationReady("127.0.0.1", 1, FACTS)

        ready: DestinationReady = await self._call("prepare_destination", effect)
        return ready

    async def start_source(self, order: SourceOrder, facts: QemuFacts) -> None:
        def effect() -> None:
            with self._world.guest(order.vm) as guest:
                if guest.destination != order.terms.session:
                    raise MigrationError("nobody listens")
                guest.migrating, guest.since_ns, guest.sent_bytes = order.terms.session, self._world.now_ns(), 0
                guest.rate_bytes_s = min(FULL_BYTES_S, order.terms.rate_bytes_s or FULL_BYTES_S)

        await self._call("start_source", effect)

    async def await_source(self, session_id: str) -> SourceOutcome:
        self._world.point(f"{self.name}.await_source")
        while self.alive:
            with self._world.guest(self._vms[session_id]) as guest:
                if guest.migrating != session_id:
                    done = guest.loaded and guest.destination == session_id
                    return SourceOutcome(done, not done, True, None if done else "the stream was cut", 0, {})
                left_s = guest.left_s()
            self._stirred.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stirred.wait(), left_s / self._world.haste)
        raise MigrationError(f"a kuaka process on host {self.name} has died")

    async def keep_destination(self, session_id: str) -> None:
        await self._call("keep_destination")

    async def resume_destination(self, session_id: str) -> int:
        def effect() -> int:
            vm = self._vms[session_id]
            if not self._world.handed_over(session_id):
                self._world.breaks(f"{vm}: told to run before the hand-over was recorded")
            with self._world.guest(vm) as guest:
                self._run(guest)
            return 0

        return int(await self._call("resume_destination", effect))

    async def recover_destination(self, vm: str, qmp: str) -> str:
        def effect() -> str:
            with self._world.guest(vm) as guest:
                if not self._world.handed_over(guest.destination or ""):
                    self._world.breaks(f"{vm}: recovered at a destination that it was not handed over to")
                self._run(guest)
            return "running"

        return str(await self._call("recover_destination", effect))

    def _run(self, guest: Guest) -> None:
        if guest.destination is None or not guest.loaded:
            raise MigrationError("no guest to run")
        guest.destination_runs = True

    async def progress(self, session_ids: Sequence[str]) -> dict[str, MigrationProgress]:
        def effect() -> dict[str, MigrationProgress]:
            found = {}
            for session in session_ids:
                if session in self._vms:
                    with self._world.guest(self._vms[session]) as guest:
                        pages = guest.sent_bytes // PAGE_BYTES
                    found[session] = MigrationProgress(ShardCounters(pages=pages), None, MEMORY_BYTES)
            return found

        found: dict[str, MigrationProgress] = await self._call("progress", effect)
        return found

    async def fail(self, session_id: str, reason: str) -> None:
        await self._call("fail", lambda: self._cut(session_id))

    async def cancel_source(self, session_id: str) -> None:
        await self._call("cancel_source", lambda: self._cut(session_id))

    def _cut(self, session_id: str) -> None:
        if session_id not in self._vms:
            raise MigrationError("no such session")
        with self._world.guest(self._vms[session_id]) as guest:
            if guest.migrating == session_id:
                guest.migrating = None
        self._stirred.set()

    async def resume_source(self, session_id: str) -> str:
        return await self._source_runs("resume_source", self._vms.get(session_id, ""))

    async def recover_source(self, vm: str, qmp: str, *, paused: bool) -> str:
        return await self._source_runs("recover_source", vm)

    async def _source_runs(self, name: str, vm: str) -> str:
        def effect() -> None:
            with self._world.guest(vm) as guest:
                guest.migrating = None
                if guest.destination is not None:
                    self._world.breaks(f"{vm}: the source was told to run while there is a destination")
                guest.source_runs = True

        await self._call(name, effect)
        return "running"

    async def cleanup_destination(self, cleanup: Cleanup) -> None:
        def effect() -> None:
            with self._world.guest(cleanup.vm) as guest:
                if guest.destination_runs:
                    self._world.breaks(f"{cleanup.vm}: a running guest was removed")
                guest.destination, guest.loaded, guest.destination_runs, guest.migrating = None, False, False, None
            self._stirred.set()

        await self._call("cleanup_destination", effect)

    async def finish_source(self, session_id: str) -> MigrationProgress:
        await self._call("finish_source")
        return MigrationProgress(ShardCounters(pages=7), None)

    async def finish_destination(self, session_id: str) -> MigrationProgress:
        await self._call("finish_destination")
        return MigrationProgress(ShardCounters(), None)

    async def set_rate(self, session_id: str, rate_bytes_s: int | None) -> None:
        def change(guest: Guest) -> None:
            guest.rate_bytes_s = FULL_BYTES_S if rate_bytes_s is None else rate_bytes_s

        await self._steer("set_rate", session_id, change)

    async def raise_weight(self, session_id: str, factor: int) -> None:
        await self._steer("raise_weight", session_id, lambda guest: None)

    async def auto_converge(self, session_id: str) -> None:
        await self._steer("auto_converge", session_id, lambda guest: setattr(guest, "throttled", True))

    async def _steer(self, name: str, session_id: str, change: Callable[[Guest], None]) -> None:
        def effect() -> None:
            if name in self._world.unable:
                raise KuakaError(f"this host cannot {name}")
            with self._world.guest(self._vms[session_id]) as guest:
                change(guest)
            self._stirred.set()

        await self._call(name, effect)

    def die(self) -> None:
        """The agent's process ends: every stream through it is cut, QEMUs live on."""
        self.alive = False
        for session, vm in self._vms.items():
            with self._world.guest(vm) as guest:
                if guest.migrating == session:
                    guest.migrating = None
        self._stirred.set()


class Agents:
    """The agents of one controller."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.agents: dict[str, Agent] = {}
        #: Hosts that do not answer.
        self.away: set[str] = set()

    async def begin(self) -> None:
        """The agents of the controller before die: whatever moved stands still."""
        self._world.point("begin")
        await asyncio.sleep(0.001)
        for vm in self._world.names():
            with self._world.guest(vm) as guest:
                guest.migrating = None

    async def host(self, spec: Mapping[str, Any], name: str) -> Agent:
        self._world.point(f"{name}.host")
        await asyncio.sleep(0.001)
        if name in self.away:
            raise KuakaError(f"host {name} is not there")
        agent = self.agents.get(name)
        if agent is None or not agent.alive:
            agent = self.agents[name] = Agent(self._world, name)
        return agent
