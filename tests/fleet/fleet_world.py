"""A naive model of many guests on many hosts, which real `GuestMigration`s, sweeps and controllers act on.

A `World` says what is true, whoever knows it: where every guest runs, what is at its destination, how far its memory
has travelled. It outlives controllers and their agents, watches the rules that must hold at any moment and notes what
was broken. `Point`s are the moments at which whoever acts may die: before and after every call of a host.
"""

import asyncio
import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline.codecs.codec import CodecId
from pipeline.errors import KuakaError, MigrationError, SpecError
from pipeline.fleet.attempt_order import AttemptOrder
from pipeline.fleet.backoff import Backoff
from pipeline.fleet.convergence import ConvergenceRules
from pipeline.fleet.fleet_order import FleetOrder, MigrationRules, VmOrder
from pipeline.fleet.journal import Journal
from pipeline.fleet.migration import GuestMigration, QemuMigration
from pipeline.fleet.orders import (
    Cleanup,
    DestinationOrder,
    DestinationReady,
    MigrationProgress,
    SourceOrder,
    TransferTerms,
    new_session,
)
from pipeline.fleet.plan.limits import Limits
from pipeline.fleet.plan.requests import Request
from pipeline.fleet.reporting_recorder import ReportingRecorder
from pipeline.fleet.run import Attempt
from pipeline.fleet.timeouts import Timeouts
from pipeline.memory.pages import PAGE_BYTES
from pipeline.qemu.qmp import QemuFacts
from pipeline.qemu.source_vm import SourceOutcome
from pipeline.shard import ShardCounters
from tests.fleet.no_images import NoImages

SECOND_NS = 10**9
MEMORY_BYTES = 1 << 30
#: Wire and memory bytes are the same here: a guest's memory takes so long at full speed.
MEMORY_S = 4.0
FULL_BYTES_S = int(MEMORY_BYTES / MEMORY_S)
FACTS = QemuFacts((10, 0, 0), "uuid", "pc-i440fx-10.0", MEMORY_BYTES, "running", {}, {}, ())
#: Within the patience of tests; memory is sent more than twice only by guests that do not converge.
RULES = MigrationRules(
    most_failures=3,
    backoff=Backoff(2 * SECOND_NS, 60 * SECOND_NS),
    timeouts=Timeouts(150 * SECOND_NS, 20 * SECOND_NS),
    convergence=ConvergenceRules(allow_auto_converge=True, patience_ns=2 * SECOND_NS),
)


@dataclass(slots=True)
class Guest:
    """What is true of one guest. Plain values: it may live in a file."""

    vm: str
    source_runs: bool = True
    #: The session that its memory travels in, and since when.
    migrating: str | None = None
    since_ns: int = 0
    sent_bytes: int = 0
    rate_bytes_s: int = FULL_BYTES_S
    #: Bytes that must have been sent before it converges.
    needed_bytes: int = MEMORY_BYTES
    #: What it did not converge with is slowed down.
    throttled: bool = False
    destination: str | None = None
    loaded: bool = False
    destination_runs: bool = False
    sessions: list[str] = field(default_factory=list)
    #: Cut the stream of so many attempts.
    cuts: int = 0
    #: An attempt's memory stops moving behind its first byte.
    stuck: bool = False

    def advance(self, now_ns: int) -> None:
        """What happened since the last look, without anybody's doing."""
        if self.migrating is None:
            return
        if not self.stuck:
            self.sent_bytes += (now_ns - self.since_ns) * self.rate_bytes_s // SECOND_NS
        self.since_ns = now_ns
        if self.cuts and self.sent_bytes >= MEMORY_BYTES // 2:
            self.cuts -= 1
            self.migrating = None
        elif self.sent_bytes >= self.needed_bytes or (self.throttled and self.sent_bytes >= MEMORY_BYTES):
            self.migrating, self.source_runs, self.loaded = None, False, True

    def left_s(self) -> float:
        """Until there is something to see."""
        needed = MEMORY_BYTES // 2 if self.cuts else self.needed_bytes
        if self.stuck:
            return 1000.0
        return max(0.001, (needed - self.sent_bytes) / self.rate_bytes_s)


class World:
    """See the module. `point` is called wherever whoever acts may die."""

    def __init__(self, now_ns: Callable[[], int]) -> None:
        self.now_ns = now_ns
        self.guests: dict[str, Guest] = {}
        self.broken: list[str] = []
        self.point: Callable[[str], None] = lambda name: None
        self.handed_over: Callable[[str], bool] = lambda session: True
        #: How much faster its clock goes than that of whoever waits.
        self.haste = 1
        #: Names of calls that hosts cannot do.
        self.unable: set[str] = set()
        #: How often a call of that name still fails.
        self.failing: dict[str, int] = {}

    @contextlib.contextmanager
    def guest(self, vm: str) -> Iterator[Guest]:
        """Look at a guest and change it."""
        guest = self.guests.setdefault(vm, Guest(vm))
        guest.advance(self.now_ns())
        yield guest
        self.look(guest)

    def names(self) -> list[str]:
        return list(self.guests)

    def breaks(self, text: str) -> None:
        self.broken.append(text)

    def look(self, guest: Guest) -> None:
        if guest.source_runs and guest.destination_runs:
            self.breaks(f"{guest.vm} runs twice")
        if guest.destination_runs and guest.destination is None:
            self.breaks(f"{guest.vm} runs nowhere")


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


def machine(vm: str, source: str, destination: str, **other: Any) -> dict[str, Any]:
    """A machine of a spec as `read_fleet` has it."""
    return {"vm": vm, "source": source, "destination": destination, **other}


def spec_of(*machines: dict[str, Any], cluster: int = 5, outbound: int = 2, inbound: int = 2) -> dict[str, Any]:
    return {"machines": list(machines), "limits": [cluster, outbound, inbound]}


def read_fleet(fleet_id: str, spec: Mapping[str, Any]) -> FleetOrder:
    """A spec of these tests."""
    if "machines" not in spec:
        raise SpecError("no machines")
    return FleetOrder(tuple(_vm_order(fleet_id, **each) for each in spec["machines"]), Limits(*spec["limits"]))


def _vm_order(fleet_id: str, vm: str, source: str, destination: str, **other: Any) -> VmOrder:
    request = Request(
        f"{fleet_id}/{vm}",
        fleet_id,
        source,
        destination,
        other.get("priority", 0),
        1,
        MEMORY_BYTES,
        0,
        other.get("rate"),
    )
    return VmOrder(vm, "qemu", request, frozenset((f"{source}:/{vm}.qmp", f"{destination}:/{vm}.qmp")), RULES)


class AttemptMaker:
    """Makes real guest migrations over the fake hosts, recorded in the real journal."""

    kind: type[GuestMigration] = GuestMigration

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    def __call__(self, order: AttemptOrder) -> Attempt:
        source = {"host": order.source.name, "qmp": f"/{order.vm}.qmp"}
        recorder = ReportingRecorder(self._journal, order.run, order.vm, "qemu", source, order.reached)
        terms = TransferTerms(self.session(order), 4, CodecId.NONE, None, 300, 15.0, order.rate_bytes_s)
        migration = QemuMigration(order.vm, f"/{order.vm}.qmp", f"/{order.vm}.qmp", None, None, None, None, terms)
        return self.kind(migration, order.source, order.destination, recorder)

    def session(self, order: AttemptOrder) -> str:
        return new_session()
