"""An agent hears from its controller while its workers start: on a busy machine that takes longer than it waits."""

import asyncio
from typing import Any

import pytest

from pipeline.fleet import agent_handle
from pipeline.fleet.agent_handle import AgentHandle
from pipeline.fleet.places import HostPlace


class Actors:
    """What `ray.remote` gives: classes whose actors answer in their own time; every call is noted when it is made."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.workers_start = asyncio.Event()

    def of(self, kind: type) -> "Actors":
        return self

    def options(self, **options: Any) -> "Actors":
        return self

    def remote(self, *arguments: Any) -> "Actors":
        return self

    def __getattr__(self, name: str) -> Any:
        return Method(self, name)


class Method:
    def __init__(self, actors: Actors, name: str) -> None:
        self._actors = actors
        self._name = name

    async def remote(self, *arguments: Any) -> Any:
        actors = self._actors
        actors.calls.append(self._name)
        if self._name == "start" and isinstance(arguments[0], str):
            await actors.workers_start.wait()
        if self._name == "clock_ns" and actors.calls.count("clock_ns") == 3:
            actors.workers_start.set()
        return 1 if self._name == "clock_ns" else "/run/agent"


def test_an_agent_is_asked_again_and_again_until_its_workers_have_started(monkeypatch: pytest.MonkeyPatch) -> None:
    async def create() -> list[str]:
        actors = Actors()
        monkeypatch.setattr(agent_handle.ray, "remote", actors.of)
        monkeypatch.setattr(agent_handle, "_ALIVE_PERIOD_S", 0.001)
        async with asyncio.timeout(10):
            await AgentHandle.create("run", HostPlace("a", "127.0.0.1", None, None, None), 2, {})
        made = list(actors.calls)
        await asyncio.sleep(0.02)
        assert actors.calls == made, "nobody asks for an agent that somebody else looks after"
        return made

    made = asyncio.run(create())
    assert made[0] == "where"
    assert made.count("clock_ns") == 3
    assert made[-1] == "start"
