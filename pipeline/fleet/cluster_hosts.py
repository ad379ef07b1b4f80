"""The controller's agents: started on the cluster when a fleet needs them, kept alive, started again when they died.

Agents end themselves when their controller says nothing for a while. They are named after the controller's process, so
one that comes after it ends them before it does anything else: what they still did would be done twice.
"""

import asyncio
import contextlib
import itertools
import time
from collections.abc import Mapping
from typing import Any

from pipeline.errors import KuakaError
from pipeline.fleet.agent_handle import AgentHandle
from pipeline.fleet.cluster import answers, end_agents, end_dead_runs, keep_alive, start_agents
from pipeline.fleet.owner import Owner, is_alive, run_name
from pipeline.fleet.places import HostPlace, device_choice
from pipeline.fleet.spec import Spec, tls_of
from pipeline.fleet.submitted_spec import SubmittedSpecs

#: Ray ends a process that it was told to within this time.
_DEAD_S = 15.0
_DEAD_POLL_S = 0.1


class ClusterHosts:
    """See `fleet_hosts.Hosts`; for one event loop."""

    def __init__(self, owner: Owner, workers: int) -> None:
        self._run = run_name(owner)
        self._owner = owner
        self._workers = workers
        self._agents: dict[HostPlace, tuple[AgentHandle, asyncio.Task[None]]] = {}
        self._turns: dict[HostPlace, asyncio.Lock] = {}
        self._starts = itertools.count(1)
        self._specs = SubmittedSpecs()

    async def begin(self) -> None:
        """See `Hosts`. Raises `KuakaError` when agents of a dead controller do not end."""
        deadline_s = time.monotonic() + _DEAD_S
        while await asyncio.to_thread(end_dead_runs, self._owner, is_alive):
            if time.monotonic() > deadline_s:
                raise KuakaError("agents of a controller that has died do not end: see the cluster's actors")
            await asyncio.sleep(_DEAD_POLL_S)

    async def host(self, spec: Mapping[str, Any], name: str) -> AgentHandle:
        """See `Hosts`. Two fleets that say the same of a host share its agent."""
        place = _place(self._specs.spec(spec), name)
        async with self._turns.setdefault(place, asyncio.Lock()):
            known = self._agents.get(place)
            if known is not None and await answers(known[0]):
                return known[0]
            if known is not None:
                await self._end(place)
            started = await start_agents(f"{self._run}/{next(self._starts)}", [place], self._workers)
            agent = started[place.name]
            self._agents[place] = agent, asyncio.create_task(keep_alive((agent,)))
            return agent

    async def end_all(self) -> None:
        """End the agents: nobody has a use for them."""
        for place in list(self._agents):
            async with self._turns[place]:
                await self._end(place)

    async def _end(self, place: HostPlace) -> None:
        agent, watching = self._agents.pop(place)
        watching.cancel()
        with contextlib.suppress(KuakaError):
            await end_agents([agent])


def _place(spec: Spec, name: str) -> HostPlace:
    host = spec.host(name)
    return HostPlace(host.name, host.address, host.node, tls_of(spec.spec, host), device_choice(host))
