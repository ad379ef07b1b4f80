"""A look at everything that runs, once in a while: how far it is, whether it is overdue, whether it needs help.

The decisions are those of `timeouts` and `convergence`; here they are carried out. A host that cannot do what it is
asked says so, that is told as an event, and the migration goes on without it.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import cast

from pipeline.errors import KuakaError
from pipeline.fleet.cases import Case, Running
from pipeline.fleet.controller_settings import ControllerSettings
from pipeline.fleet.convergence import Course, Help, next_help
from pipeline.fleet.fleet_hosts import FleetHost
from pipeline.fleet.fleets import FleetJournal
from pipeline.fleet.lifecycle import State, Trigger
from pipeline.fleet.orders import MigrationProgress
from pipeline.memory.pages import PAGE_BYTES


class Watch:
    """Looks and steers; raises only for a journal that cannot be used."""

    def __init__(self, fleets: FleetJournal, settings: ControllerSettings, monotonic_ns: Callable[[], int]) -> None:
        self._fleets = fleets
        self._settings = settings
        self._monotonic_ns = monotonic_ns

    async def look(self, cases: Iterable[Case]) -> None:
        """Look at all of these that run, every host at the same time."""
        by_host: dict[int, list[tuple[Case, Running]]] = {}
        for case in cases:
            if (running := case.running) is not None:
                # By the agent: one that was replaced knows nothing of what ran with the one before it.
                by_host.setdefault(id(running.attempt.source), []).append((case, running))
        await asyncio.gather(*(self._look_at(runs) for runs in by_host.values()))

    async def _look_at(self, runs: Sequence[tuple[Case, Running]]) -> None:
        source = runs[0][1].attempt.source
        found: dict[str, MigrationProgress] = {}
        with contextlib.suppress(KuakaError, TimeoutError):
            sessions = [running.attempt.session for _, running in runs]
            async with asyncio.timeout(self._settings.progress_s):
                found = await source.progress(sessions)
        for case, running in runs:
            self._see(case, running, found.get(running.attempt.session))
        await asyncio.gather(*(self._steer(case, running) for case, running in runs))

    def _see(self, case: Case, running: Running, progress: MigrationProgress | None) -> None:
        now_ns = self._monotonic_ns()
        since_ns, running.looked_ns = now_ns - running.looked_ns, now_ns
        if case.paused:
            # It was told to be slow.
            running.began_ns += since_ns
            running.helped_ns += since_ns
        if progress is None:
            return
        running.progress = progress
        case.said_bytes = progress.total_bytes or case.said_bytes
        if progress.counters.pages > running.pages:
            running.pages = progress.counters.pages
            running.moved_ns = now_ns
            if case.running is running and case.record.state is State.PREPARING:
                case.record = self._fleets.move(case.record, Trigger.START)

    async def _steer(self, case: Case, running: Running) -> None:
        if case.running is not running or running.stopped or case.record.state not in _BEFORE_SWITCHOVER:
            return
        await self._set_rate(case, running)
        if (reason := self._overdue(case, running)) is not None:
            running.stop(reason)
        elif (step := self._help(case, running)) is not None:
            await self._give(step, case, running)

    async def _set_rate(self, case: Case, running: Running) -> None:
        rate = self._rate(case)
        if rate == running.rate_bytes_s:
            return
        # One that was refused is not asked for again until another is wanted.
        running.rate_bytes_s = rate
        what = "its bandwidth is not capped any more" if rate is None else f"its bandwidth is capped at {rate} bytes/s"
        if case.paused:
            what = f"paused while it runs: {what}"
        await self._try(case, what, _host(running.attempt.source).set_rate(running.attempt.session, rate))

    def _rate(self, case: Case) -> int | None:
        rate = case.rate_bytes_s
        if not case.paused:
            return rate
        return self._settings.paused_bytes_s if rate is None else min(rate, self._settings.paused_bytes_s)

    def _overdue(self, case: Case, running: Running) -> str | None:
        return case.order.rules.timeouts.overdue(
            elapsed_ns=running.looked_ns - running.began_ns,
            silent_ns=running.looked_ns - running.moved_ns,
            memory_bytes=case.memory_bytes,
        )

    def _help(self, case: Case, running: Running) -> Help | None:
        if case.paused:
            return None
        since_help_ns = running.looked_ns - running.helped_ns
        course = Course(running.pages * PAGE_BYTES, case.memory_bytes, running.tried, since_help_ns)
        return next_help(course, case.order.rules.convergence)

    async def _give(self, step: Help, case: Case, running: Running) -> None:
        running.tried.add(step)
        running.helped_ns = running.looked_ns
        session = running.attempt.session
        if step is Help.GIVE_UP:
            running.stop("it does not converge: its guest changes memory faster than it is sent")
        elif step is Help.AUTO_CONVERGE:
            await self._try(case, f"help: {step}", _host(running.attempt.source).auto_converge(session))
        else:
            for host in (running.attempt.source, running.attempt.destination):
                what = f"help on {host.name}: {step}"
                await self._try(case, what, _host(host).raise_weight(session, self._settings.weight_factor))

    async def _try(self, case: Case, what: str, effect: Awaitable[None]) -> None:
        try:
            async with asyncio.timeout(self._settings.steer_s):
                await effect
        except KuakaError as error:
            what = f"{what}: refused: {error}"
        except TimeoutError:
            what = f"{what}: no answer within {self._settings.steer_s:g} s"
        self._fleets.tell(case.record.fleet, case.order.vm, case.record.state, what)


_BEFORE_SWITCHOVER = frozenset((State.PREPARING, State.RUNNING))


def _host(host: object) -> FleetHost:
    # An attempt has the hosts that it was ordered with, by a narrower name.
    return cast(FleetHost, host)
