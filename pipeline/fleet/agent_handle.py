"""The handle by which a controller calls an agent: calls into calls, and exceptions of Ray into ours.

Actors are detached and named after the run that made them, because Ray would kill them with whoever created them; they
end themselves when their controller has gone, and the run that made them ends them otherwise. Page bytes never pass
through here.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Self

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError

from pipeline.codecs.codec import CodecId
from pipeline.errors import KuakaError, MigrationError, one_line
from pipeline.fleet.agent import AgentShell
from pipeline.fleet.handle import HostHandle
from pipeline.fleet.orders import (
    Cleanup,
    DestinationOrder,
    DestinationReady,
    ImageOutcome,
    ImageSourceOrder,
    ImageTargetOrder,
    MigrationProgress,
    SourceOrder,
)
from pipeline.fleet.places import HostPlace
from pipeline.fleet.spec_fields import MAX_VIRTUAL_MACHINES
from pipeline.fleet.worker_shell import WorkerShell
from pipeline.memory.image_source import ImageFacts
from pipeline.qemu.qmp import QemuFacts
from pipeline.qemu.source_vm import SourceOutcome

NAMESPACE = "kuaka"
_MAX_PROBLEM_CHARACTERS = 200
#: Calls of one agent under way: each migration has one that waits for its end, and none may keep the controller's sign
#: of life waiting. Ray's default is 1000.
_MAX_CALLS = 4 * MAX_VIRTUAL_MACHINES
#: An agent whose start has failed ends within this time, or is killed.
_GIVE_UP_S = 1.0
#: A fraction of `host.ORPHAN_S`.
_ALIVE_PERIOD_S = 2.0


class AgentHandle(HostHandle):
    """An agent actor as a `HostHandle`; an actor that has died is a `MigrationError` that names its host."""

    def __init__(self, name: str, actor: Any, workers: Sequence[Any], directory: str) -> None:
        self._name = name
        self._actor = actor
        self._workers = workers
        self._directory = directory

    @classmethod
    async def create(cls, run: str, place: HostPlace, workers: int, options: dict[str, Any]) -> Self:
        """Start an agent and its workers; `options` are Ray's, for where. Raises `KuakaError`, and none is left."""
        common = {**options, "num_cpus": 0, "lifetime": "detached", "namespace": NAMESPACE, "max_restarts": 0}
        name = place.name
        agent: Any = ray.remote(AgentShell)
        worker: Any = ray.remote(WorkerShell)
        actor = agent.options(name=f"{run}/agent/{name}", max_concurrency=_MAX_CALLS, **common).remote(place, run)
        shells = [worker.options(name=f"{run}/worker/{name}/{n}", **common).remote() for n in range(workers)]
        handle = cls(name, actor, shells, "")
        try:
            handle._directory = await handle._call(actor.where.remote())
            paths = [f"{handle._directory}/worker-{index}" for index in range(workers)]
            # On a busy machine its workers may take longer to start than it waits for a word.
            heard = asyncio.create_task(handle.keep_alive())
            try:
                await asyncio.gather(
                    *(handle._call(shell.start.remote(path)) for shell, path in zip(shells, paths, strict=True))
                )
            finally:
                heard.cancel()
            await handle._call(actor.start.remote(paths))
        except BaseException:
            # In order where it has begun: its directory goes, too.
            await handle.end(_GIVE_UP_S if handle._directory else 0, kill=True)
            raise
        return handle

    @property
    def name(self) -> str:
        """See `HostHandle`."""
        return self._name

    @property
    def directory(self) -> str:
        """See `HostHandle`."""
        return self._directory

    async def keep_alive(self) -> None:
        """Run for ever: an agent whose controller says nothing takes it for dead and ends itself."""
        while True:
            # One that has died fails its migrations by itself.
            with contextlib.suppress(KuakaError):
                await self.clock_ns()
            await asyncio.sleep(_ALIVE_PERIOD_S)

    async def clock_ns(self) -> int:
        """See `Host`."""
        return int(await self._call(self._actor.clock_ns.remote()))

    async def inspect_source(self, vm: str, qmp: str, session_id: str) -> QemuFacts:
        """See `Host`."""
        facts: QemuFacts = await self._call(self._actor.inspect_source.remote(vm, qmp, session_id))
        return facts

    async def takes_tickets(self, codec: CodecId) -> bool:
        """See `Host`."""
        return bool(await self._call(self._actor.takes_tickets.remote(codec)))

    async def prepare_destination(self, order: DestinationOrder) -> DestinationReady:
        """See `Host`."""
        ready: DestinationReady = await self._call(self._actor.prepare_destination.remote(order))
        return ready

    async def start_source(self, order: SourceOrder, facts: QemuFacts) -> None:
        """See `Host`."""
        await self._call(self._actor.start_source.remote(order, facts))

    async def await_source(self, session_id: str) -> SourceOutcome:
        """See `Host`."""
        outcome: SourceOutcome = await self._call(self._actor.await_source.remote(session_id))
        return outcome

    async def keep_destination(self, session_id: str) -> None:
        """See `Host`."""
        await self._call(self._actor.keep_destination.remote(session_id))

    async def resume_destination(self, session_id: str) -> int:
        """See `Host`."""
        return int(await self._call(self._actor.resume_destination.remote(session_id)))

    async def progress(self, session_ids: Sequence[str]) -> dict[str, MigrationProgress]:
        """See `Host`."""
        progress: dict[str, MigrationProgress] = await self._call(self._actor.progress.remote(session_ids))
        return progress

    async def set_rate(self, session_id: str, rate_bytes_s: int | None) -> None:
        """See `Host`."""
        await self._call(self._actor.set_rate.remote(session_id, rate_bytes_s))

    async def raise_weight(self, session_id: str, factor: int) -> None:
        """See `Host`."""
        await self._call(self._actor.raise_weight.remote(session_id, factor))

    async def auto_converge(self, session_id: str) -> None:
        """See `Host`."""
        await self._call(self._actor.auto_converge.remote(session_id))

    async def fail(self, session_id: str, reason: str) -> None:
        """See `Host`."""
        await self._call(self._actor.fail.remote(session_id, reason))

    async def cancel_source(self, session_id: str) -> None:
        """See `Host`."""
        await self._call(self._actor.cancel_source.remote(session_id))

    async def resume_source(self, session_id: str) -> str:
        """See `Host`."""
        return str(await self._call(self._actor.resume_source.remote(session_id)))

    async def finish_source(self, session_id: str) -> MigrationProgress:
        """See `Host`."""
        progress: MigrationProgress = await self._call(self._actor.finish_source.remote(session_id))
        return progress

    async def finish_destination(self, session_id: str) -> MigrationProgress:
        """See `Host`."""
        progress: MigrationProgress = await self._call(self._actor.finish_destination.remote(session_id))
        return progress

    async def cleanup_destination(self, cleanup: Cleanup) -> None:
        """See `Host`."""
        await self._call(self._actor.cleanup_destination.remote(cleanup))

    async def inspect_image(self, path: str) -> ImageFacts:
        """See `Host`."""
        facts: ImageFacts = await self._call(self._actor.inspect_image.remote(path))
        return facts

    async def prepare_image(self, order: ImageTargetOrder) -> tuple[str, int]:
        """See `Host`."""
        place: tuple[str, int] = await self._call(self._actor.prepare_image.remote(order))
        return place

    async def start_image(self, order: ImageSourceOrder) -> None:
        """See `Host`."""
        await self._call(self._actor.start_image.remote(order))

    async def await_image(self, session_id: str) -> ImageOutcome:
        """See `Host`."""
        outcome: ImageOutcome = await self._call(self._actor.await_image.remote(session_id))
        return outcome

    async def commit_image(self, session_id: str, digest: bytes, mode: int) -> None:
        """See `Host`."""
        await self._call(self._actor.commit_image.remote(session_id, digest, mode))

    async def abort_image(self, session_id: str) -> None:
        """See `Host`."""
        await self._call(self._actor.abort_image.remote(session_id))

    async def recover_source(self, vm: str, qmp: str, *, paused: bool) -> str:
        """See `Host`."""
        return str(await self._call(self._actor.recover_source.remote(vm, qmp, paused=paused)))

    async def recover_destination(self, vm: str, qmp: str) -> str:
        """See `Host`."""
        return str(await self._call(self._actor.recover_destination.remote(vm, qmp)))

    async def remove_partial(self, path: str, session: str) -> bool:
        """See `Host`."""
        return bool(await self._call(self._actor.remove_partial.remote(path, session)))

    async def end(self, timeout_s: float, *, kill: bool) -> None:
        """Stop the agent in order if it answers, then have its processes ended by Ray if `kill`."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._call(self._actor.stop.remote())
        except (KuakaError, TimeoutError):
            # Nothing in order is left to be done; the processes end below.
            pass
        finally:
            if kill:
                for actor in (self._actor, *self._workers):
                    kill_actor(actor)

    async def _call(self, reference: Awaitable[Any]) -> Any:
        try:
            return await reference
        except RayTaskError as error:
            if isinstance(error.cause, KuakaError):
                raise error.cause from None
            # A mistake of ours, or a host out of disk or memory: one migration's failure, not the command's.
            problem = f"{type(error.cause).__name__}: {one_line(str(error.cause), _MAX_PROBLEM_CHARACTERS)}"
            raise MigrationError(f"host {self._name} failed: {problem}") from None
        except RayActorError:
            raise MigrationError(f"a kuaka process on host {self._name} has died") from None
        except RayError as error:
            raise MigrationError(f"host {self._name} cannot be reached: {type(error).__name__}") from None


def kill_actor(actor: Any) -> None:
    """End an actor's process, if Ray still can."""
    _unless_gone(lambda: ray.kill(actor, no_restart=True))


def _unless_gone(call: Callable[[], None]) -> None:
    try:
        call()
    except (RayError, ValueError):
        return
