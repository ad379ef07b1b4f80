"""A run: the migrations of one command, each begun when the limits allow it, watched until the last has ended.

The run polls the hosts for progress, gives up what takes too long, and ends everything when the cluster's head has
gone. Every migration is tried once; who wants more has a controller.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Protocol

from pipeline.errors import ExitCode, KuakaError
from pipeline.fleet.handle import HostHandle
from pipeline.fleet.orders import MigrationProgress
from pipeline.fleet.outcomes import cancelled_result
from pipeline.fleet.results import MigrationResult, Status
from pipeline.fleet.timeouts import Timeouts

_PROGRESS_PERIOD_S = 0.25
#: A host that takes longer has nothing to say this time.
_PROGRESS_TIMEOUT_S = 1.0
#: Given to the hosts to put things back when the head has gone.
GIVE_UP_S = 2.5

#: Called with the progress of every live session, by VM.
OnProgress = Callable[[Mapping[str, MigrationProgress]], None]
#: Which of the machines that wait may begin, in order, while others run; by name.
MayBegin = Callable[[Sequence[str], Sequence[str]], Sequence[str]]
#: Runs for ever; raises `KuakaError` when the cluster cannot be relied on any more.
Watch = Callable[[], Coroutine[Any, Any, None]]


class Attempt(Protocol):
    """One migration to be run."""

    vm: str
    kind: str
    session: str
    source: HostHandle
    destination: HostHandle

    async def run(self) -> MigrationResult:
        """Run it; every failure, cancellation included, is in the result."""


@dataclass(slots=True)
class _Begun:
    """An attempt that was begun, and when it was last seen to move."""

    attempt: Attempt
    task: "asyncio.Task[MigrationResult]"
    began_ns: int
    moved_ns: int
    pages: int = 0


class FleetRun:
    """The migrations of one command."""

    def __init__(
        self,
        attempts: Sequence[Attempt],
        on_progress: OnProgress,
        watch: Watch,
        may_begin: MayBegin = lambda waiting, running: waiting,
        timeouts: Mapping[str, Timeouts] = MappingProxyType({}),
        give_up_s: float = GIVE_UP_S,
    ) -> None:
        """`timeouts` by machine; one that is not named has all the time."""
        self._waiting = {attempt.vm: attempt for attempt in attempts}
        self._begun: dict[str, _Begun] = {}
        self._may_begin = may_begin
        self._timeouts = timeouts
        self._attempts = attempts
        self._on_progress = on_progress
        self._watch = watch
        self._give_up_s = give_up_s
        #: Whether the cluster was lost: nothing new can be started on it.
        self.cluster_lost = False
        #: Whether `run` gave up waiting for a migration that does not answer; the process should end without
        #: asyncio's manners.
        self.abandoned = False

    async def run(self) -> list[MigrationResult]:
        """Run all; results in the attempts' order. Cancellation cancels every migration and still returns results."""
        polling = asyncio.create_task(self._poll())
        watching = asyncio.create_task(self._watch())
        pending: set[asyncio.Task[Any]] = set(self._begin())
        reason: str | None = None
        deadline_s: float | None = None
        while pending:
            left_s = None if deadline_s is None else max(0.0, deadline_s - time.monotonic())
            try:
                done, _ = await asyncio.wait((*pending, watching), timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
            except asyncio.CancelledError:
                self._waiting.clear()
                for task in pending:
                    task.cancel()
                continue
            pending -= done
            pending.update(self._begin())
            if deadline_s is not None and not done:
                break
            if watching in done:
                self.cluster_lost = True
                reason = str(watching.exception())
                deadline_s = time.monotonic() + self._give_up_s
                self._waiting.clear()
                watching = asyncio.create_task(_never())
                for task in pending:
                    task.cancel(reason)
        self.abandoned = bool(pending)
        polling.cancel()
        watching.cancel()
        return [self._result(attempt, reason) for attempt in self._attempts]

    def _begin(self) -> "list[asyncio.Task[MigrationResult]]":
        """Begin what may begin now."""
        running = [vm for vm, begun in self._begun.items() if not begun.task.done()]
        tasks = []
        for vm in self._may_begin(list(self._waiting), running) if self._waiting else ():
            attempt = self._waiting.pop(vm)
            task = asyncio.create_task(attempt.run(), name=vm)
            now_ns = time.monotonic_ns()
            self._begun[vm] = _Begun(attempt, task, now_ns, now_ns)
            tasks.append(task)
        return tasks

    def _result(self, attempt: Attempt, reason: str | None) -> MigrationResult:
        begun = self._begun.get(attempt.vm)
        if begun is not None:
            return begun.task.result() if begun.task.done() else _unanswered(attempt, reason)
        if not self.cluster_lost and attempt.vm not in self._waiting:
            return cancelled_result(attempt.vm, attempt.kind)
        why = reason if self.cluster_lost else "the limits leave no room for it, see kuaka plan"
        return MigrationResult(
            attempt.vm, attempt.kind, Status.FAILED, error=f"it has not begun: {why}", exit_code=ExitCode.FAILED
        )

    async def _poll(self) -> None:
        while True:
            sources: dict[str, list[_Begun]] = {}
            for begun in self._begun.values():
                if not begun.task.done():
                    sources.setdefault(begun.attempt.source.name, []).append(begun)
            found: dict[str, MigrationProgress] = {}
            for runs in sources.values():
                # A host that has died fails its migrations by itself; here it just has nothing to say.
                with contextlib.suppress(KuakaError, TimeoutError):
                    async with asyncio.timeout(_PROGRESS_TIMEOUT_S):
                        heard = await runs[0].attempt.source.progress([begun.attempt.session for begun in runs])
                    sessions = {begun.attempt.session: begun for begun in runs}
                    found.update((sessions[session].attempt.vm, progress) for session, progress in heard.items())
            self._on_progress(found)
            self._give_up_what_is_overdue(found)
            await asyncio.sleep(_PROGRESS_PERIOD_S)

    def _give_up_what_is_overdue(self, found: Mapping[str, MigrationProgress]) -> None:
        now_ns = time.monotonic_ns()
        for vm, progress in found.items():
            begun, timeouts = self._begun[vm], self._timeouts.get(vm)
            if progress.counters.pages > begun.pages:
                begun.pages, begun.moved_ns = progress.counters.pages, now_ns
            if timeouts is None:
                continue
            overdue = timeouts.overdue(
                elapsed_ns=now_ns - begun.began_ns,
                silent_ns=now_ns - begun.moved_ns,
                memory_bytes=progress.total_bytes,
            )
            if overdue is not None:
                begun.task.cancel(overdue)
                # Once is enough: what it does then has a limit of its own.
                begun.moved_ns = begun.began_ns = now_ns


def _unanswered(attempt: Attempt, reason: str | None) -> MigrationResult:
    return MigrationResult(
        attempt.vm,
        attempt.kind,
        Status.FAILED,
        error=f"{reason}; its hosts do not answer any more: the next kuaka command here cleans up",
        exit_code=ExitCode.FAILED,
    )


async def _never() -> None:
    await asyncio.Event().wait()
