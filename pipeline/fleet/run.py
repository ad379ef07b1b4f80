"""A run: every migration of a spec at the same time, watched until the last has ended.

The run polls the hosts for progress and ends everything when the cluster's head has gone.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, Protocol

from pipeline.errors import ExitCode, KuakaError
from pipeline.fleet.handle import HostHandle
from pipeline.fleet.orders import MigrationProgress
from pipeline.fleet.results import MigrationResult, Status

_PROGRESS_PERIOD_S = 0.25
#: A host that takes longer has nothing to say this time.
_PROGRESS_TIMEOUT_S = 1.0
#: Given to the hosts to put things back when the head has gone.
GIVE_UP_S = 2.5

#: Called with the progress of every live session, by VM.
OnProgress = Callable[[Mapping[str, MigrationProgress]], None]
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


class FleetRun:
    """The migrations of one command."""

    def __init__(
        self, attempts: Sequence[Attempt], on_progress: OnProgress, watch: Watch, give_up_s: float = GIVE_UP_S
    ) -> None:
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
        tasks = [asyncio.create_task(attempt.run(), name=attempt.vm) for attempt in self._attempts]
        polling = asyncio.create_task(self._poll())
        watching = asyncio.create_task(self._watch())
        pending: set[asyncio.Task[Any]] = {*tasks}
        reason: str | None = None
        deadline_s: float | None = None
        while pending:
            left_s = None if deadline_s is None else max(0.0, deadline_s - time.monotonic())
            try:
                done, _ = await asyncio.wait((*pending, watching), timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
            except asyncio.CancelledError:
                for task in pending:
                    task.cancel()
                continue
            pending -= done
            if deadline_s is not None and not done:
                break
            if watching in done:
                self.cluster_lost = True
                reason = str(watching.exception())
                deadline_s = time.monotonic() + self._give_up_s
                watching = asyncio.create_task(_never())
                for task in pending:
                    task.cancel(reason)
        self.abandoned = bool(pending)
        polling.cancel()
        watching.cancel()
        return [
            task.result() if task.done() else _unanswered(attempt, reason)
            for attempt, task in zip(self._attempts, tasks, strict=True)
        ]

    async def _poll(self) -> None:
        names = {attempt.session: attempt.vm for attempt in self._attempts}
        sources: dict[str, tuple[HostHandle, list[str]]] = {}
        for attempt in self._attempts:
            sources.setdefault(attempt.source.name, (attempt.source, []))[1].append(attempt.session)
        while True:
            found: dict[str, MigrationProgress] = {}
            for host, sessions in sources.values():
                # A host that has died fails its migrations by itself; here it just has nothing to say.
                with contextlib.suppress(KuakaError, TimeoutError):
                    async with asyncio.timeout(_PROGRESS_TIMEOUT_S):
                        found.update(await host.progress(sessions))
            self._on_progress({names[session]: progress for session, progress in found.items()})
            await asyncio.sleep(_PROGRESS_PERIOD_S)


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
