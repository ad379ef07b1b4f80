"""More migrations at one host than the calls that Ray lets an actor have under way by itself: all are heard."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.errors import ExitCode
from tests.fleet.kuaka_command import KuakaCommand, nothing_survives, wait_nothing_runs

pytestmark = [pytest.mark.ray, pytest.mark.long, pytest.mark.timeout(240)]

IMAGES = 1100
ALL_AT_ONCE = dict.fromkeys(
    (
        "parallelMigrationsPerCluster",
        "parallelOutboundMigrationsPerNode",
        "parallelInboundMigrationsPerNode",
    ),
    IMAGES,
)
#: An agent where all calls for images wait until a sign of life is heard while they do.
ALL_WAIT = f"""
import asyncio
from pipeline.errors import SpecError
from pipeline.fleet import agent, agent_handle
class Waiting(agent.AgentShell):
    waits = 0
    heard = asyncio.Event()
    async def inspect_image(self, path):
        self.waits += 1
        await self.heard.wait()
        raise SpecError("heard")
    async def clock_ns(self):
        if self.waits == {IMAGES}:
            self.heard.set()
        return await super().clock_ns()
remote = agent_handle.ray.remote
def waiting(*what, **options):
    return remote(*(Waiting if shell is agent.AgentShell else shell for shell in what), **options)
agent_handle.ray.remote = waiting
"""


@pytest.fixture(autouse=True)
def _tidy(home: Path) -> Iterator[None]:
    with nothing_survives(home):
        yield


def test_a_thousand_waits_at_one_agent_do_not_keep_the_controller_from_being_heard(home: Path) -> None:
    machines = [
        {
            "name": f"vm{number}",
            "kind": "image",
            "source": {"host": "a", "path": f"/from/{number}"},
            "destination": {"host": "b", "path": f"/to/{number}"},
        }
        for number in range(IMAGES)
    ]
    body = {"hosts": [{"name": "a"}, {"name": "b"}], "virtualMachines": machines, **ALL_AT_ONCE}
    spec = home / "fleet.yaml"
    spec.write_text(json.dumps({"apiVersion": "kuaka/v1", "kind": "Fleet", "metadata": {"name": "many"}, "spec": body}))
    command = KuakaCommand(home, "migrate", str(spec), "-o", "json", before=ALL_WAIT)
    assert command.end(90) == ExitCode.SPEC_REJECTED, command.stderr
    assert {migration["error"] for migration in command.migrations} == {"heard"}
    wait_nothing_runs(home)
