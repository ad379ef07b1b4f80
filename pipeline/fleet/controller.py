"""The controller: every fleet that was submitted, brought to its end under the limits, whatever dies meanwhile.

A plain object on one asyncio loop: `adopt` makes its process the controller and loads what an earlier one left, `run`
does the work until it is cancelled or stopped, and the calls may come at any time in between. Calls are idempotent:
what was asked for already is not done again. What a call returned from is on disk.

It is built to be killed. Nothing that it holds in memory is needed afterwards: a new one over the same journal puts
right what was under way, counts what had been handed over as moved, and goes on with the rest. So anything that it
cannot deal with (a journal that cannot be written, another controller in its place) is raised out of `run`, and then
its process must end without touching anything more.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from collections.abc import Set as AbstractSet
from typing import Any

from pipeline.errors import KuakaError, UsageError
from pipeline.fleet.attempt_order import MakeAttempt
from pipeline.fleet.cases import Case, FleetCase, fleet_case
from pipeline.fleet.controller_settings import ControllerSettings
from pipeline.fleet.drive import Driver
from pipeline.fleet.events import Event
from pipeline.fleet.fleet_hosts import Hosts
from pipeline.fleet.fleet_order import ReadFleet, strictest
from pipeline.fleet.fleet_statistics import FleetFacts, fleet_facts
from pipeline.fleet.fleet_status import Accepted, FleetStatus, results_of, status_of_case, status_of_record
from pipeline.fleet.fleets import CHANGED, CommandKind, FleetJournal, FleetRecord
from pipeline.fleet.journal import Journal, Migration
from pipeline.fleet.lifecycle import TOUCHING, State, Trigger
from pipeline.fleet.outcomes import cancelled_result
from pipeline.fleet.owner import Owner, is_alive
from pipeline.fleet.plan.admission import admit, head_start
from pipeline.fleet.results import MigrationResult
from pipeline.fleet.watch import Watch

_NO_POOLS: AbstractSet[str] = frozenset()
_BEFORE_SWITCHOVER = frozenset((State.ADMITTED, State.PREPARING, State.RUNNING))


class Controller:
    """See the module. Every call raises `UsageError` for a fleet or machine that is not known."""

    def __init__(
        self,
        journal: Journal,
        hosts: Hosts,
        read_fleet: ReadFleet,
        make_attempt: MakeAttempt,
        *,
        settings: ControllerSettings | None = None,
        is_alive: Callable[[Owner], bool] = is_alive,
        stopped_pools: Callable[[], AbstractSet[str]] = lambda: _NO_POOLS,
        monotonic_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._settings = settings or ControllerSettings()
        self._journal = journal
        self._fleets = FleetJournal(journal)
        self._hosts = hosts
        self._read_fleet = read_fleet
        self._is_alive = is_alive
        self._stopped_pools = stopped_pools
        self._driver = Driver(self._fleets, hosts, make_attempt, self._settings, monotonic_ns)
        self._watch = Watch(self._fleets, self._settings, monotonic_ns)
        self._under_way: dict[str, FleetCase] = {}
        self._changed = asyncio.Event()
        self._idle = asyncio.Event()
        #: Runs of dead controllers, until nothing of them is left to be put right.
        self._inherited: set[int] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    # The calls.

    def submit(self, fleet_id: str, spec: Mapping[str, Any]) -> Accepted:
        """Take on a fleet; one that is known by that name and spec is not begun again.

        Raises `SpecError` for a spec that cannot be, `UsageError` for another spec under a known name.
        """
        order = self._read_fleet(fleet_id, spec)
        served = {fleet.id: fleet.charged_bytes for fleet in self._under_way.values()}
        ahead_bytes = head_start(served, self.weights, order.vms[0].request.weight)
        new = self._fleets.submit(fleet_id, spec, [each.vm for each in order.vms], ahead_bytes)
        if new and (record := self._fleets.fleet(fleet_id)) is not None:
            self._under_way[fleet_id] = fleet_case(record, order)
            self._wake()
        return Accepted(fleet_id, new)

    def status(self, fleet_id: str | None = None) -> list[FleetStatus]:
        """One fleet, or all that are kept, in the order of their submission."""
        return [self._status(each) for each in ([fleet_id] if fleet_id is not None else self._fleets.fleet_ids())]

    def results(self, fleet_id: str) -> list[MigrationResult]:
        """The results of a fleet's migrations that have ended, in the order of its spec."""
        return results_of(self._status(fleet_id).migrations)

    def record(self, fleet_id: str) -> FleetRecord:
        """All that is recorded of a fleet but its events, its spec too."""
        record = self._fleets.fleet(fleet_id)
        if record is None:
            raise UsageError(f"fleet {fleet_id} is not known: the status without a name lists those that are")
        return record

    def events(self, fleet_id: str | None = None, after: int = 0) -> list[Event]:
        """What happened after the event of sequence `after`, oldest first, only so many at once."""
        return self._fleets.events(fleet_id, after)

    def last_event(self) -> int:
        """The sequence of the newest event."""
        return self._fleets.last_event()

    def statistics(self) -> list[FleetFacts]:
        """A snapshot of the fleets under way; reads nothing of the journal."""
        return fleet_facts(self._under_way.values())

    @property
    def weights(self) -> dict[str, int]:
        """The fleets under way, and the share of each against the others."""
        return {fleet.id: fleet.weight for fleet in self._under_way.values()}

    @property
    def busy(self) -> bool:
        """Whether a fleet is under way; costs nothing."""
        return bool(self._under_way)

    def cancel(self, fleet_id: str, vm: str | None = None) -> None:
        """Give up a fleet or one machine: the guest stays where it is; behind the hand-over it is too late."""
        self._command(fleet_id, vm, CommandKind.CANCEL, None, "cancelled by the user")

    def pause(self, fleet_id: str, vm: str | None = None) -> None:
        """Hold back what has not begun; what runs is slowed down, where its host can do that: see its events."""
        self._command(fleet_id, vm, CommandKind.PAUSE, None, "paused by the user")

    def resume(self, fleet_id: str, vm: str | None = None) -> None:
        """Take a pause back, the fleet's or the one of that machine."""
        fleet, name = self._known(fleet_id, vm)
        if fleet is not None and (name, CommandKind.PAUSE) in fleet.commands:
            self._fleets.withdraw(fleet.number, name, CommandKind.PAUSE, "resumed by the user")
            del fleet.commands[name, CommandKind.PAUSE]
            self._wake()

    def set_bandwidth(self, fleet_id: str, rate_bytes_s: int | None) -> None:
        """Cap the wire bytes per second of each of a fleet's migrations, those that run too; None lifts the cap."""
        least = self._settings.paused_bytes_s
        if rate_bytes_s is not None and rate_bytes_s < least:
            raise UsageError(f"{rate_bytes_s} bytes/s is too slow: give at least {least}, or pause the fleet")
        what = "lifted" if rate_bytes_s is None else f"set to {rate_bytes_s} bytes/s"
        self._command(fleet_id, None, CommandKind.BANDWIDTH, rate_bytes_s, f"bandwidth {what} by the user")

    # The work.

    def adopt(self) -> None:
        """Become the controller and load what an earlier one left. Raises `KuakaError` while another one lives.

        A fleet whose spec cannot be read any more is left aside and says so; it keeps no other from anything.
        """
        self._fleets.claim(self._is_alive)
        for record in self._fleets.unfinished():
            try:
                order = self._read_fleet(record.id, record.spec)
            except KuakaError as error:
                self._fleets.tell(record.number, "", CHANGED, f"left aside: {error}")
            else:
                self._under_way[record.id] = fleet_case(record, order)

    async def run(self) -> None:
        """Work until `stop` has ended it. Raises what the controller cannot go on with; the process must end then."""
        await self._hosts.begin()
        self._recover()
        watching = asyncio.create_task(self._keep_looking())
        self._tasks.add(watching)
        while not (self._driver.stopping and self._tasks == {watching}):
            self._changed.clear()
            self._carry_out_commands()
            self._finish_fleets()
            if not self._driver.stopping:
                self._admit()
            if not self._under_way:
                self._idle.set()
            waking = asyncio.create_task(self._wait())
            await asyncio.wait((waking, *self._tasks), return_when=asyncio.FIRST_COMPLETED)
            waking.cancel()
            for task in [task for task in self._tasks if task.done()]:
                self._tasks.remove(task)
                task.result()
        watching.cancel()
        self._finish_fleets()

    async def idle(self) -> None:
        """Wait until every fleet has finished."""
        self._wake()
        await self._idle.wait()

    def stop(self) -> None:
        """Let `run` end: what runs is put back where it was, and goes on under the next controller."""
        self._driver.stopping = True
        for case in self._cases():
            if case.running is not None:
                case.running.stop(None)
        self._wake()

    def _recover(self) -> None:
        """Begin to put right what a dead controller had under way. Its agents do nothing any more."""
        left = self._take_over()
        for case in self._cases():
            if case.record.state is State.ADMITTED:
                case.record = self._fleets.move(case.record, Trigger.RECOVER, attempt=case.record.attempt + 1)
            elif case.record.state in TOUCHING:
                left = [entry for entry in left if entry.session != case.record.session]
                self._drive(case.id, self._driver.recover(case))
        for entry in left:
            spec = self._fleets.spec_of_session(entry.session)
            self._drive(entry.vm, self._driver.put_right_once(spec, entry))

    def _take_over(self) -> list[Migration]:
        """Own the runs of dead controllers, those with no session that is not a fleet's; what is unfinished of them."""
        sessions = self._fleets.sessions()
        left: list[Migration] = []
        for run in self._journal.unfinished(self._is_alive):
            if all(entry.session in sessions for entry in run.migrations) and self._journal.take_over(run):
                self._inherited.add(run.id)
                left.extend(run.migrations)
        return left

    def _carry_out_commands(self) -> None:
        for case in self._cases():
            state = case.record.state
            if case.cancelled and state in (State.PENDING, State.PAUSED):
                result = cancelled_result(case.order.vm, case.order.kind)
                case.record = self._fleets.move(case.record, Trigger.CANCEL, result=result)
            elif case.cancelled and state in _BEFORE_SWITCHOVER and case.running is not None:
                case.running.stop(None)
            elif case.paused and state is State.PENDING:
                case.waiting = ""
                case.record = self._fleets.move(case.record, Trigger.PAUSE)
            elif not case.paused and state is State.PAUSED:
                case.record = self._fleets.move(case.record, Trigger.RESUME)

    def _finish_fleets(self) -> None:
        for fleet in [fleet for fleet in self._under_way.values() if fleet.ended]:
            states = [case.record.state for case in fleet.cases.values()]
            counts = {state: states.count(state) for state in (State.SUCCEEDED, State.FAILED, State.CANCELLED)}
            self._fleets.finish(fleet.number, ", ".join(f"{count} {state}" for state, count in counts.items()))
            del self._under_way[fleet.id]
            if fleet.run is not None:
                self._inherited.add(fleet.run)
        for run in list(self._inherited):
            # Refused while something of it is in doubt: it stays ours until this process ends.
            with contextlib.suppress(KuakaError):
                self._journal.finish_run(run)
                self._inherited.remove(run)

    def _admit(self) -> None:
        running = [case for case in self._cases() if case.holds_slot]
        taken = {place: case.id for case in running for place in case.order.endpoints}
        waiting = {case.id: case for case in self._cases() if self._may_begin(case, taken)}
        decision = admit(
            [case.request for case in waiting.values()],
            [case.request for case in running],
            strictest(fleet.order.limits for fleet in self._under_way.values()),
            {fleet.id: fleet.served_bytes for fleet in self._under_way.values()},
            self._stopped_pools(),
        )
        for case_id, reason in decision.waiting.items():
            waiting[case_id].waiting = reason
        for case_id in decision.admitted:
            case = waiting[case_id]
            if not self._may_begin(case, taken):
                # Of two fleets' migrations of one machine the first of this decision has it; decide on the rest again.
                self._changed.set()
                continue
            case.waiting = ""
            case.record = self._fleets.move(case.record, Trigger.ADMIT)
            taken.update(dict.fromkeys(case.order.endpoints, case.id))
            self._drive(case.id, self._driver.attempt(case))

    def _may_begin(self, case: Case, taken: Mapping[str, str]) -> bool:
        """Whether a slot is all that a migration waits for; what else it waits for is noted."""
        if case.record.state is not State.PENDING:
            return False
        users = [taken[place] for place in case.order.endpoints if place in taken]
        left_ns = case.record.not_before_ns - self._journal.clock()
        if users:
            case.waiting = f"its source or destination is in use by {min(users)}"
        elif left_ns > 0:
            case.waiting = f"{case.record.reason}; again in {left_ns // 10**9} s"
        return not users and left_ns <= 0

    def _drive(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        self._tasks.add(asyncio.create_task(work, name=name))

    async def _keep_looking(self) -> None:
        while True:
            await self._watch.look(self._cases())
            await asyncio.sleep(self._settings.look_s)

    async def _wait(self) -> None:
        """Until something changes, or a migration may be tried again."""
        now_ns = self._journal.clock()
        due_ns = [case.record.not_before_ns for case in self._cases() if case.record.state is State.PENDING]
        left_ns = min((due for due in due_ns if due > now_ns), default=None)
        if left_ns is None:
            await self._changed.wait()
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout((left_ns - now_ns) / 1e9):
                await self._changed.wait()

    def _command(self, fleet_id: str, vm: str | None, kind: CommandKind, value: int | None, why: str) -> None:
        fleet, name = self._known(fleet_id, vm)
        if fleet is None or ((name, kind) in fleet.commands and fleet.commands[name, kind] == value):
            return
        self._fleets.command(fleet.number, name, kind, value, why)
        fleet.commands[name, kind] = value
        self._wake()

    def _known(self, fleet_id: str, vm: str | None) -> tuple[FleetCase | None, str]:
        """A fleet that is under way, None for one that has finished; the machine's name, empty for all."""
        fleet = self._under_way.get(fleet_id)
        names = set(fleet.cases) if fleet is not None else {each.vm for each in self._status(fleet_id).migrations}
        if vm is not None and vm not in names:
            raise UsageError(f"fleet {fleet_id} has no machine {vm}: see its status for their names")
        return fleet, vm or ""

    def _status(self, fleet_id: str) -> FleetStatus:
        if (fleet := self._under_way.get(fleet_id)) is not None:
            return status_of_case(fleet)
        return status_of_record(self.record(fleet_id))

    def _cases(self) -> Iterator[Case]:
        for fleet in self._under_way.values():
            yield from fleet.cases.values()

    def _wake(self) -> None:
        self._idle.clear()
        self._changed.set()
