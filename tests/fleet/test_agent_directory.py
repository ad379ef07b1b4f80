"""Directories of agents: their own while they live, the next one's to remove afterwards."""

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

from pipeline.fleet.agent_directory import AgentDirectory


def test_each_has_its_own_and_removes_it(tmp_path: Path) -> None:
    first, second = AgentDirectory.create(tmp_path), AgentDirectory.create(tmp_path)
    assert first.path != second.path
    assert stat.S_IMODE(first.path.stat().st_mode) == 0o700
    (first.path / "worker-0").touch()
    first.remove()
    assert list(tmp_path.iterdir()) == [second.path]
    second.remove()
    assert list(tmp_path.iterdir()) == []


def test_that_of_a_killed_agent_goes_when_the_next_one_comes_and_nothing_else_does(tmp_path: Path) -> None:
    (tmp_path / "gateway.sock").touch()
    code = (
        "import sys, time; from pathlib import Path; from pipeline.fleet.agent_directory import AgentDirectory\n"
        f"print(AgentDirectory.create(Path({str(tmp_path)!r})).path, flush=True); time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, text=True
    ) as agent:
        assert agent.stdout is not None
        left = Path(agent.stdout.readline().strip())
        (left / "session").mkdir()
        (left / "session" / "incoming").touch()
        alive = AgentDirectory.create(tmp_path)
        assert left.exists()
        os.kill(agent.pid, signal.SIGKILL)
    after = AgentDirectory.create(tmp_path)
    assert set(tmp_path.iterdir()) == {alive.path, after.path, tmp_path / "gateway.sock"}
    alive.remove()
    after.remove()
