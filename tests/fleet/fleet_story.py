"""A story: fleets, what users ask when, controllers that die one after the other, and what must be true at the end."""

import asyncio
import contextlib
import sqlite3
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from pipeline.fleet.controller import Controller
from pipeline.fleet.controller_settings import ControllerSettings
from pipeline.fleet.events import Event
from pipeline.fleet.fleet_order import ReadFleet, VmOrder, strictest
from pipeline.fleet.fleets import CHANGED, FINISHED, SUBMITTED, FleetJournal
from pipeline.fleet.journal import Journal
from pipeline.fleet.journal_file import Execute, JournalFile, Result, Values
from pipeline.fleet.journal_schema import set_up
from pipeline.fleet.lifecycle import FINAL, TRANSITIONS, UNDER_WAY, State
from pipeline.fleet.owner import Owner
from pipeline.fleet.plan.limits import Limits
from pipeline.fleet.plan.requests import Request
from pipeline.fleet.results import MigrationResult, Status
from tests.fleet.fleet_agents import Agents
from tests.fleet.fleet_specs import AttemptMaker, read_fleet
from tests.fleet.fleet_world import SECOND_NS, World
from tests.fleet.virtual_loop import Crash, VirtualLoop

#: A user's call, so many seconds after the story begins.
Wish = tuple[float, Callable[[Controller], object]]
#: When a controller dies: at the n-th point ("before or after a call or a write") or in the n-th turn of its loop.
CrashPlan = tuple[str, int]
SETTINGS = ControllerSettings(settle_tries=8)
_LAST_TURN = 200_000
_STATUSES = {
    State.SUCCEEDED: Status.COMPLETED,
    State.FAILED: Status.FAILED,
    State.CANCELLED: Status.CANCELLED,
}
_EDGES = {(before, after) for (before, _), (after, _) in TRANSITIONS.items()}


class DyingFile(JournalFile):
    """A journal whose process may die before and after every change."""

    def __init__(self, connection: sqlite3.Connection, point: Callable[[str], None]) -> None:
        super().__init__(connection, Path("journal"))
        self._point = point

    def change(self, statement: str, values: Values) -> int:
        return self._between(statement, lambda: super(DyingFile, self).change(statement, values))

    def rows(self, statement: str, values: Values) -> list[Values]:
        if statement.startswith("SELECT"):
            return super().rows(statement, values)
        return self._between(statement, lambda: super(DyingFile, self).rows(statement, values))

    def transaction(self, work: Callable[[Execute], Result]) -> Result:
        return self._between("transaction", lambda: super(DyingFile, self).transaction(work))

    def close(self) -> None:
        """Others use the connection after this one."""

    def _between(self, name: str, write: Callable[[], Result]) -> Result:
        self._point(f"journal: {name[:30]}")
        result = write()
        self._point(f"journal: {name[:30]} done")
        return result


@dataclass
class Story:
    """Controllers die as `crashes` says, the last one lives. `gap_s` passes between two."""

    fleets: Sequence[tuple[str, dict[str, Any]]]
    crashes: Sequence[CrashPlan] = ()
    wishes: Sequence[Wish] = ()
    gap_s: float = 1.0
    maker: Callable[[Journal], AttemptMaker] = AttemptMaker
    settings: ControllerSettings = SETTINGS
    #: Whether machines may end Failed: only where the story makes them fail.
    may_fail: bool = False
    #: Fleets that wishes submit.
    later: Sequence[tuple[str, dict[str, Any]]] = ()
    #: Hosts that do not answer.
    agents_away: frozenset[str] | set[str] = frozenset()

    now_s: float = 0.0
    points: int = 0
    turns: int = 0
    #: Points and turns of every life.
    lives: list[tuple[int, int]] = field(default_factory=list)
    fulfilled: set[int] = field(default_factory=set)
    #: Results that were recorded before a crash.
    seen: dict[str, MigrationResult] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        set_up(self.connection, Path("journal"))
        self.loop: VirtualLoop | None = None
        self.world = World(lambda: int((self.loop.time() if self.loop else self.now_s) * SECOND_NS))
        self.world.handed_over = self._handed_over
        self.agents = Agents(self.world)
        self._all = dict([*self.fleets, *self.later])
        for order in orders_of(self._all).values():
            with self.world.guest(order.vm):
                pass

    def tell(self) -> "Story":
        """Let it happen; what broke a rule is in `world.broken`."""
        for crash in self.crashes:
            if self._live(crash):
                break
        else:
            self._live(None)
        self._check()
        return self

    def events(self) -> list[Event]:
        return all_events(self.fleet_journal(0))

    def states(self) -> dict[str, State]:
        fleets = self.fleet_journal(0)
        records = [fleets.fleet(fleet_id) for fleet_id in fleets.fleet_ids()]
        return {each.vm: each.state for record in records if record for each in record.migrations}

    def results(self) -> dict[str, MigrationResult]:
        fleets = self.fleet_journal(0)
        records = [fleets.fleet(fleet_id) for fleet_id in fleets.fleet_ids()]
        return {
            f"{record.id}/{each.vm}": each.result
            for record in records
            if record
            for each in record.migrations
            if each.state in FINAL and each.result is not None
        }

    def fleet_journal(self, number: int) -> FleetJournal:
        return FleetJournal(Journal(self.connection, Path("journal"), Owner(number, number, "boot")))

    def _handed_over(self, session: str) -> bool:
        row = self.connection.execute("SELECT handed_over FROM migration WHERE session = ?", (session,)).fetchone()
        return row is not None and bool(row[0])

    def _live(self, crash: CrashPlan | None) -> bool:
        """One controller's life; whether it did all there was to do."""
        number = len(self.lives) + 1
        kind, at = crash or ("turn", _LAST_TURN)
        self.loop = loop = VirtualLoop(self.now_s, at if kind == "turn" else None)
        dead = points = 0

        def point(name: str) -> None:
            nonlocal dead, points
            points += 1
            dead |= kind == "point" and points == at
            if dead:
                raise Crash

        journal = Journal(
            self.connection, Path("journal"), Owner(number, number, "boot"), lambda: int(loop.time() * SECOND_NS)
        )
        journal.file = DyingFile(self.connection, point)
        self.world.point = point
        self.agents = Agents(self.world)
        self.agents.away |= self.agents_away
        controller = Controller(
            journal,
            self.agents,
            read_fleet,
            self.maker(journal),
            settings=self.settings,
            is_alive=lambda owner: owner.pid == number,
            monotonic_ns=lambda: int(loop.time() * SECOND_NS),
        )
        ended = False
        with contextlib.suppress(Crash):
            loop.live(self._use(controller))
            ended = True
        dead = 1
        self.lives.append((points, loop.turns))
        self.now_s = loop.time() + self.gap_s
        self.loop = None
        assert ended or crash is not None, f"does not end: {self.states()}, {self.events()[-5:]}"
        self._look_at_results()
        return ended

    async def _use(self, controller: Controller) -> None:
        controller.adopt()
        running = asyncio.create_task(controller.run())
        for fleet_id, spec in self.fleets:
            controller.submit(fleet_id, spec)
        user = asyncio.create_task(self._wish(controller))
        idle = asyncio.create_task(controller.idle())
        await asyncio.wait((running, user), return_when=asyncio.FIRST_COMPLETED)
        await asyncio.wait((running, idle), return_when=asyncio.FIRST_COMPLETED)
        for task in (running, user):
            if task.done():
                task.result()
        controller.stop()
        await running

    async def _wish(self, controller: Controller) -> None:
        for number, (at_s, wish) in enumerate(self.wishes):
            if number not in self.fulfilled:
                await asyncio.sleep(max(0.0, at_s - asyncio.get_running_loop().time()))
                wish(controller)
                self.fulfilled.add(number)

    def _look_at_results(self) -> None:
        found = self.results()
        for name, result in self.seen.items():
            if found.get(name) != result:
                self.world.breaks(f"{name}: its result was {result}, and is {found.get(name)}")
        self.seen = found

    def _check(self) -> None:
        breaks = self.world.breaks
        states, results = self.states(), self.results()
        for vm, state in states.items():
            with self.world.guest(vm) as guest:
                moved = state is State.SUCCEEDED
                if (guest.source_runs, guest.destination_runs) != (not moved, moved):
                    breaks(f"{vm} is {state}, at its source {guest.source_runs}, moved {guest.destination_runs}")
                if not moved and guest.destination is not None:
                    breaks(f"{vm} is {state} and its destination is left behind")
            if state is State.FAILED and not self.may_fail:
                breaks(f"{vm} failed without need")
        ended = {name: result.status for name, result in results.items()}
        wanted = {name: _STATUSES.get(states[order.vm]) for name, order in orders_of(self._all).items()}
        if ended != wanted:
            breaks(f"results {ended}, not {wanted}")
        if self.connection.execute("SELECT count(*) FROM migration WHERE finished = 0").fetchone() != (0,):
            breaks("something is left to be put right")
        if self.connection.execute("SELECT count(*) FROM run WHERE finished = 0").fetchone() != (0,):
            breaks("a run was not finished")
        check_events(self.events(), self._all, breaks)


def all_events(fleets: FleetJournal) -> list[Event]:
    """Asked for until there are no more."""
    events: list[Event] = []
    while more := fleets.events(None, events[-1].sequence if events else 0):
        events.extend(more)
    return events


def orders_of(fleets: Mapping[str, dict[str, Any]], read: ReadFleet = read_fleet) -> dict[str, VmOrder]:
    """All machines by fleet/vm."""
    return {f"{name}/{order.vm}": order for name, spec in fleets.items() for order in read(name, spec).vms}


def check_events(
    events: Sequence[Event],
    fleets: Mapping[str, dict[str, Any]],
    breaks: Callable[[str], None],
    read: ReadFleet = read_fleet,
) -> None:
    """Whether the log tells of lives by the table, within the limits, that end once, as the user wanted it."""
    orders = orders_of(fleets, read)
    limits = strictest(read(name, spec).limits for name, spec in fleets.items())
    lives: dict[str, list[State]] = {name: [State.PENDING] for name in orders}
    unwanted: set[str] = set()
    held: set[str] = set()
    for event in events:
        prefix = f"{event.fleet}/{event.vm}"
        names = {name for name in orders if name == prefix or (not event.vm and name.startswith(prefix))}
        match event.state, event.reason:
            case "Changed", "cancelled by the user":
                unwanted |= names
            case "Changed", "paused by the user":
                held |= names
            case "Changed", "resumed by the user":
                held -= names
        if event.state in (CHANGED, SUBMITTED, FINISHED):
            continue
        (name,) = names
        if event.state == State.PREPARING and name in unwanted:
            breaks(f"{name} was begun though it had been cancelled")
        if event.state == State.ADMITTED and name in held:
            breaks(f"{name} was begun though it was paused")
        if lives[name][-1] != event.state:
            lives[name].append(State(event.state))
        check_limits([orders[each].request for each, life in lives.items() if life[-1] in UNDER_WAY], limits, breaks)
    for name, life in lives.items():
        if any(edge not in _EDGES for edge in pairwise(life)) or sum(state in FINAL for state in life) != 1:
            breaks(f"{name} lived {life}")


def check_limits(under_way: Sequence[Request], limits: Limits, breaks: Callable[[str], None]) -> None:
    """Whether all of these may run at the same time; counted in the plainest way."""
    if len(under_way) > limits.cluster:
        breaks(f"{len(under_way)} in the cluster")
    for host, count in Counter(request.source for request in under_way).items():
        if count > limits.outbound_of(host):
            breaks(f"{count} outbound on {host}")
    for host, count in Counter(request.destination for request in under_way).items():
        if count > limits.inbound_of(host):
            breaks(f"{count} inbound on {host}")
