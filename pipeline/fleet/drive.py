"""One admitted migration brought to the end of its attempt: hosts, attempt, whatever it left put right, outcome.

The order of records is what survives a crash at any point:

    session recorded (Preparing) -> the attempt records itself -> ... hand-over recorded ... -> its end recorded
      -> the result recorded with Verifying -> Succeeded

Whoever finds the session without an end puts right what it left (`sweep.bring_to_end`) before anything else is done to
that machine: there is no other attempt while one may still have a guest somewhere.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from pipeline.errors import KuakaError
from pipeline.fleet.attempt_order import AttemptOrder, MakeAttempt
from pipeline.fleet.cases import Case, Running
from pipeline.fleet.controller_settings import ControllerSettings
from pipeline.fleet.fleet_hosts import FleetHost, Hosts
from pipeline.fleet.fleets import FleetJournal
from pipeline.fleet.journal import Journal, Migration
from pipeline.fleet.lifecycle import TRANSITIONS, State, Trigger
from pipeline.fleet.outcomes import Ended, Outcome, cancelled_result, decide, failed_result
from pipeline.fleet.results import MigrationResult, Status
from pipeline.fleet.run import Attempt
from pipeline.fleet.sweep import bring_to_end
from pipeline.logs import log_about

_log = logging.getLogger(__name__)


class Driver:
    """Drives any number of migrations; a coroutine of it that raises has met a journal that cannot be used."""

    def __init__(
        self,
        fleets: FleetJournal,
        hosts: Hosts,
        make_attempt: MakeAttempt,
        settings: ControllerSettings,
        monotonic_ns: Callable[[], int],
    ) -> None:
        self._fleets = fleets
        self._journal: Journal = fleets.journal
        self._hosts = hosts
        self._make_attempt = make_attempt
        self._settings = settings
        self._monotonic_ns = monotonic_ns
        #: Nothing is begun any more.
        self.stopping = False

    async def attempt(self, case: Case) -> None:
        """Make an attempt for an admitted migration."""
        log_about(fleet=case.fleet.id, vm=case.order.vm)
        try:
            source = await self._host(case.fleet.spec, case.order.request.source)
            destination = await self._host(case.fleet.spec, case.order.request.destination)
            attempt = self._attempt_of(self._order(case, source, destination))
        except KuakaError as error:
            result = failed_result(case.order.vm, case.order.kind, str(error), error.exit_code)
            self._conclude(case, result, None)
            return
        if case.cancelled or self.stopping:
            self._conclude(case, cancelled_result(case.order.vm, case.order.kind), None)
            return
        case.waiting = ""
        log_about(migration=attempt.session)
        case.record = self._fleets.move(case.record, Trigger.PREPARE, session=attempt.session)
        result = await self._run(case, attempt)
        await self._end(case, result)

    async def recover(self, case: Case) -> None:
        """Bring to its end what a dead controller had under way."""
        log_about(fleet=case.fleet.id, vm=case.order.vm, migration=case.record.session or "")
        case.waiting = "its controller died: what it left is being put right"
        await self._end(case, case.record.result)

    async def put_right(self, spec: Mapping[str, Any], entry: Migration) -> str:
        """One try to bring what an attempt left to its end; what it came to. Raises `KuakaError`."""
        names = {entry.source["host"], entry.destination["host"]}
        hosts = {name: await self._host(spec, name) for name in sorted(names)}
        try:
            async with asyncio.timeout(self._settings.settle_s):
                swept = await bring_to_end(entry, hosts)
        except TimeoutError:
            raise KuakaError(f"not put right within {self._settings.settle_s:g} s") from None
        except KuakaError:
            raise
        except Exception as error:
            # A bug in the sweep of one machine is no reason to end what moves all others.
            _log.exception("%s: its sweep broke off", entry.vm)
            raise KuakaError(f"its sweep broke off: {error!r}") from error
        self._journal.finish_migration(entry.id, swept.status, f"swept: {swept.state}")
        return swept.state

    async def put_right_once(self, spec: Mapping[str, Any], entry: Migration) -> None:
        """The same for what an earlier controller could not put right, and has reported as failed."""
        try:
            _log.warning("%s: in doubt before, now %s", entry.vm, await self.put_right(spec, entry))
        except KuakaError as error:
            _log.warning("%s: still in doubt: %s", entry.vm, error)

    async def _run(self, case: Case, attempt: Attempt) -> MigrationResult:
        now_ns = self._monotonic_ns()
        task = asyncio.create_task(attempt.run(), name=case.id)
        case.running = Running(attempt, task, now_ns, now_ns, now_ns, now_ns, case.rate_bytes_s)
        await asyncio.wait((task,))
        case.running = None
        if task.cancelled():
            return replace(cancelled_result(case.order.vm, case.order.kind), error="cancelled before it began")
        if (error := task.exception()) is not None:
            _log.error("%s: its attempt broke off", case.id, exc_info=error)
            return failed_result(case.order.vm, case.order.kind, f"the attempt broke off: {error!r}")
        return task.result()

    async def _end(self, case: Case, result: MigrationResult | None) -> None:
        entry = await self._settle(case, result)
        self._conclude(case, result, entry)

    async def _settle(self, case: Case, result: MigrationResult | None) -> Migration | None:
        """Put right what the attempt left, trying as long as it takes; its entry, unfinished if it took too long."""
        tries = 0
        while (entry := self._entry(case)) is not None and not entry.finished:
            if result is not None and result.status is Status.COMPLETED:
                # It could not be recorded at its time; if it cannot be now, either, the next controller adopts it.
                with contextlib.suppress(KuakaError):
                    self._journal.finish_migration(entry.id, result.status, None)
                return entry
            try:
                await self.put_right(case.fleet.spec, entry)
            except KuakaError as error:
                tries += 1
                case.waiting = f"in doubt: {error}"
                if tries == 1:
                    self._fleets.tell(case.record.fleet, case.order.vm, case.record.state, case.waiting)
                if tries >= self._settings.settle_tries:
                    return entry
                await asyncio.sleep(self._settings.settle_delay_s(tries))
        return entry

    def _entry(self, case: Case) -> Migration | None:
        session = case.record.session
        return None if session is None else self._journal.of_session(session)

    def _conclude(self, case: Case, result: MigrationResult | None, entry: Migration | None) -> None:
        order = case.order
        ended = Ended(order.vm, order.kind, result, entry, case.cancelled, case.record.failures)
        outcome = decide(ended, order.rules, case.id)
        case.waiting = ""
        if result is not None and result.status is Status.COMPLETED and case.record.state is not State.VERIFYING:
            case.record = self._fleets.move(case.record, Trigger.VERIFY, result=result)
        case.record = self._fleets.move(case.record, outcome.trigger, outcome.reason, **self._changes(case, outcome))

    def _changes(self, case: Case, outcome: Outcome) -> dict[str, Any]:
        record = case.record
        changes: dict[str, Any] = {"result": outcome.result, "failures": record.failures + outcome.failed}
        if outcome.trigger in (Trigger.RETRY, Trigger.RECOVER):
            changes["attempt"] = record.attempt + 1
            changes["not_before_ns"] = self._journal.clock() + outcome.wait_ns if outcome.wait_ns else 0
        return changes

    def _order(self, case: Case, source: FleetHost, destination: FleetHost) -> AttemptOrder:
        fleet = case.fleet
        if fleet.run is None:
            fleet.run = self._journal.begin_run()
        attempt = case.record.attempt

        def reached(trigger: Trigger) -> None:
            if case.record.attempt == attempt and (case.record.state, trigger) in TRANSITIONS:
                try:
                    case.record = self._fleets.move(case.record, trigger)
                except KuakaError as error:
                    # It has happened; what counts is in the journal under its session.
                    _log.warning("%s: %s", case.id, error)

        return AttemptOrder(
            fleet.id,
            fleet.spec,
            case.order.vm,
            attempt,
            fleet.run,
            source,
            destination,
            case.rate_bytes_s,
            reached,
        )

    def _attempt_of(self, order: AttemptOrder) -> Attempt:
        try:
            return self._make_attempt(order)
        except KuakaError:
            raise
        except Exception as error:
            # Nor is one in the making of an attempt.
            _log.exception("%s/%s: no attempt could be made", order.fleet, order.vm)
            raise KuakaError(f"no attempt could be made: {error!r}") from error

    async def _host(self, spec: Mapping[str, Any], name: str) -> FleetHost:
        try:
            async with asyncio.timeout(self._settings.host_s):
                return await self._hosts.host(spec, name)
        except TimeoutError:
            raise KuakaError(f"host {name} did not answer within {self._settings.host_s:g} s") from None
