"""The Ray cluster under a command: joined where an address is given, else a local one, sized for a hypervisor.

A hypervisor's memory is full by design and its CPUs belong to guests: few CPUs, the smallest object store, no memory
monitor (it would kill workers at 95 %), token authentication left on. A local cluster ends with the command; Ray
leaves processes behind when its head was killed, so those that were ours are ended by pid (never `ray stop`).
"""

import asyncio
import contextlib
import io
import logging
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

import psutil
import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipeline.errors import KuakaError, UsageError
from pipeline.fleet.agent_handle import NAMESPACE, AgentHandle, kill_actor
from pipeline.fleet.directories import metrics_directory
from pipeline.fleet.owner import Owner, owner_of_run
from pipeline.fleet.places import HostPlace
from scheduler.actor import ACTOR_NAME as SCHEDULER_NAME
from scheduler.actor import NAMESPACE as SCHEDULER_NAMESPACE
from scheduler.actor import find_or_start
from scheduler.metrics_server import remove_stale
from scheduler.service import ServiceStatistics

#: The least that Ray takes.
_OBJECT_STORE_BYTES = 76 << 20
_LOCAL_CPUS = 1
#: The cluster is asked this often, and taken for dead after so many failures in a row.
_PROBE_S = 0.3
_PROBE_FAILURES = 3
_END_TIMEOUT_S = 2.0
#: Part of the path of every program that becomes a Ray process.
_RAY_WORKERS = "/ray/_private/workers/"
_REACH_TIMEOUT_S = 5.0
#: A scheduler that has to be started is there within this time.
_SCHEDULER_TIMEOUT_S = 15.0
_LAST_PORT = 65_535
_REPLACE_TIMEOUT_S = 10.0


class _Silence(io.TextIOBase):
    """Where Ray's remarks about processes that died go: it prints them on stdout, which is for results."""

    def write(self, text: str, /) -> int:
        return len(text)


@contextlib.contextmanager
def ray_cluster(address: str | None) -> Iterator[None]:
    """Join the cluster at `address` or start a local one; raises `UsageError` or `KuakaError`."""
    before = set(psutil.Process().children(recursive=True))
    if address is not None:
        _check_reachable(address)
    try:
        if address is not None:
            ray.init(address=address, namespace=NAMESPACE, log_to_driver=False, logging_level=logging.ERROR)
        else:
            ray.init(
                # Not one that runs here, or that $RAY_ADDRESS names.
                address="local",
                namespace=NAMESPACE,
                num_cpus=_LOCAL_CPUS,
                object_store_memory=_OBJECT_STORE_BYTES,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
    except ConnectionError as error:
        raise UsageError(f"no Ray cluster answers at {address}: {_first_line(error)}") from None
    # A node that does not come up in time is a plain Exception of Ray's.
    except Exception as error:
        raise KuakaError(f"Ray cannot start: {_first_line(error)}") from None
    except KeyboardInterrupt:
        # Half started, Ray leaves what its raylet has started by then, and may crash when it is told to shut down.
        _kill(_new_children(before))
        raise
    ours = _new_children(before)
    with contextlib.redirect_stdout(_Silence()):
        try:
            yield
        finally:
            _shut_down(ours if address is None else [])
            if address is None and (announced := metrics_directory()) is not None:
                # The scheduler ended with the cluster, without a word.
                remove_stale(announced)


async def start_agents(run: str, places: list[HostPlace], workers: int) -> dict[str, AgentHandle]:
    """An agent with its warm workers for every host. Raises `KuakaError`; what was started is ended then."""
    creating = [asyncio.create_task(AgentHandle.create(run, place, workers, _placement(place))) for place in places]
    try:
        handles = await asyncio.gather(*creating)
    except BaseException:
        done = await asyncio.gather(*creating, return_exceptions=True)
        await end_agents([handle for handle in done if isinstance(handle, AgentHandle)])
        raise
    return {handle.name: handle for handle in handles}


async def share_accelerators(tenant: str, weight: int | None) -> None:
    """Let the cluster's scheduler know of a run, whose agents will ask it, or (None) that it is over.

    It is one actor for all runs and stays when they end. Without it the CPU does the work, so nothing is raised.
    """
    with contextlib.suppress(RayError, TimeoutError):
        await _tell(find_or_start(metrics_directory()), tenant, weight)


async def tell_scheduler(tenant: str, weight: int | None) -> bool:
    """The same for a fleet of a controller, whose agents start a scheduler where they have something to share.

    False where there is none yet, or it does not answer: tell it again.
    """
    try:
        actor = await asyncio.to_thread(ray.get_actor, SCHEDULER_NAME, namespace=SCHEDULER_NAMESPACE)
        await _tell(actor, tenant, weight)
    except (ValueError, RayError, TimeoutError):
        return False
    return True


async def _tell(actor: Any, tenant: str, weight: int | None) -> None:
    call = actor.remove_tenant.remote(tenant) if weight is None else actor.set_tenant.remote(tenant, weight)
    async with asyncio.timeout(_END_TIMEOUT_S if weight is None else _SCHEDULER_TIMEOUT_S):
        await call


def ask_scheduler() -> Future[ServiceStatistics] | None:
    """What the cluster's scheduler has seen, once its answer has come; None where there is no scheduler."""
    try:
        actor: Any = ray.get_actor(SCHEDULER_NAME, namespace=SCHEDULER_NAMESPACE)
        answer: Future[ServiceStatistics] = actor.statistics.remote().future()
    except (ValueError, RayError):
        return None
    return answer


async def end_agents(handles: list[AgentHandle], *, kill: bool = True) -> None:
    """End agents and workers. Not `kill`: without Ray's help, where it has none to give; they end themselves, later."""
    await asyncio.gather(*(handle.end(_END_TIMEOUT_S, kill=kill) for handle in handles))


async def replaced(run: str, places: list[HostPlace], handles: Mapping[str, AgentHandle]) -> dict[str, AgentHandle]:
    """`handles` with a new agent, without workers, for each that has died; one that cannot be replaced is left out.

    `run` names the new agents; what is left of the old ones is ended.
    """
    heard = await asyncio.gather(*(answers(handle) for handle in handles.values()))
    alive = {name: handle for (name, handle), answer in zip(handles.items(), heard, strict=True) if answer}
    # They move nothing, so they have no use for accelerators.
    dead = [replace(place, devices=None) for place in places if place.name not in alive]
    await end_agents([handles[place.name] for place in dead])
    try:
        async with asyncio.timeout(_REPLACE_TIMEOUT_S):
            return {**alive, **await start_agents(run, dead, 0)}
    except (KuakaError, TimeoutError):
        return alive


async def answers(handle: AgentHandle) -> bool:
    """Whether an agent is there."""
    try:
        async with asyncio.timeout(_END_TIMEOUT_S):
            await handle.clock_ns()
    except (KuakaError, TimeoutError):
        return False
    return True


def end_dead_runs(me: Owner, is_alive: Callable[[Owner], bool]) -> bool:
    """End the actors of commands of this machine that have died: they hold guests that a sweep must reach.

    Returns whether there were any; Ray takes a moment to end them.
    """
    dead = [
        name
        for name in ray.util.list_named_actors()
        if (owner := owner_of_run(name, me)) is not None and not is_alive(owner)
    ]
    for name in dead:
        with contextlib.suppress(ValueError):
            kill_actor(ray.get_actor(name, namespace=NAMESPACE))
    return bool(dead)


async def keep_alive(handles: Iterable[AgentHandle]) -> None:
    """Run for ever: see `AgentHandle`."""
    await asyncio.gather(*(handle.keep_alive() for handle in handles))


async def watch_cluster() -> None:
    """Run for ever; raises `KuakaError` when Ray's head, or its part on this machine, has gone.

    Ray itself would wait for minutes, or for as long as its health checks take.
    """
    context = ray.get_runtime_context()
    host, _, port = context.gcs_address.rpartition(":")
    here = next(node for node in _nodes() if node["NodeID"] == context.get_node_id())
    await asyncio.gather(
        _probe("the head of the Ray cluster", host, int(port)),
        _probe("Ray's raylet on this machine", here["NodeManagerAddress"], int(here["NodeManagerPort"])),
    )


async def _probe(name: str, host: str, port: int) -> None:
    failures = 0
    while failures < _PROBE_FAILURES:
        await asyncio.sleep(_PROBE_S)
        try:
            async with asyncio.timeout(_PROBE_S):
                _reader, writer = await asyncio.open_connection(host, port)
            writer.close()
            failures = 0
        except (OSError, TimeoutError):
            failures += 1
    raise KuakaError(f"{name} at {host}:{port} has gone")


def _nodes() -> list[dict[str, Any]]:
    """The cluster's nodes, dead ones too, as Ray describes them."""
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return nodes


def _placement(place: HostPlace) -> dict[str, object]:
    """Ray options that put an actor on the host's node. Raises `UsageError`."""
    node = place.node
    if node is None:
        return {
            "scheduling_strategy": NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        }
    nodes = _nodes()
    for known in nodes:
        if known["Alive"] and node in (known["NodeID"], known["NodeManagerAddress"], known["NodeManagerHostname"]):
            return {"scheduling_strategy": NodeAffinitySchedulingStrategy(known["NodeID"], soft=False)}
    names = ", ".join(f"{known['NodeManagerAddress']} ({known['NodeID'][:8]})" for known in nodes if known["Alive"])
    raise UsageError(
        f"host {place.name}: the Ray cluster has no node {node!r}, it has {names}: correct the spec's node, or name the"
        " cluster with --address"
    )


def _check_reachable(address: str) -> None:
    """Raise `UsageError` for what is no address, or for one where nobody listens: Ray itself would try for minutes."""
    if address == "auto":
        return
    host, _, port = address.rpartition(":")
    if not host or "/" in host or not port.isdecimal() or int(port) > _LAST_PORT:
        raise UsageError(f"--address {address}: give the HOST:PORT of the Ray cluster's head, or auto")
    try:
        socket.create_connection((host.strip("[]"), int(port)), _REACH_TIMEOUT_S).close()
    except OSError as error:
        raise UsageError(
            f"no Ray cluster answers at {address}: {error.strerror or error}: give the HOST:PORT of its head"
        ) from None


def _shut_down(ours: list[psutil.Process]) -> None:
    children = [process for process in psutil.Process().children(recursive=True) if process in ours or _is_ray(process)]
    head_alive = any(_lives(process) and process.name() == "gcs_server" for process in ours)
    if head_alive or not ours:
        ray.shutdown()
    _kill({*ours, *children} if ours else ())


def _kill(processes: Iterable[psutil.Process]) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def _new_children(before: set[psutil.Process]) -> list[psutil.Process]:
    return [process for process in psutil.Process().children(recursive=True) if process not in before]


def _lives(process: psutil.Process) -> bool:
    # A child that was killed is a zombie until it is waited for, which Ray does only at the very end.
    return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)


def _is_ray(process: psutil.Process) -> bool:
    """Whether Ray started it; one that is just starting does not have its name yet."""
    try:
        return process.name().startswith("ray::") or any(_RAY_WORKERS in word for word in process.cmdline())
    except psutil.Error:
        return False


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
