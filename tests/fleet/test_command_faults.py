"""`kuaka migrate` with its processes killed, itself included: the guest runs once, and the next command tidies up."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from pipeline.errors import ExitCode
from tests.fleet.kuaka_command import KuakaCommand, nothing_survives, processes, wait_nothing_runs
from tests.fleet.live_pair import LIMIT_S, MIB, LivePair

pytestmark = [pytest.mark.qemu, pytest.mark.ray, pytest.mark.timeout(240)]

#: A migration at this rate does not end while a test looks.
SLOW = "4MB"
long = pytest.mark.long


@pytest.fixture(autouse=True)
def _tidy(home: Path) -> Iterator[None]:
    with nothing_survives(home):
        yield


def source_agent(home: Path, command: KuakaCommand) -> None:
    _agent(home, "outgoing").kill()


def destination_agent(home: Path, command: KuakaCommand) -> None:
    _agent(home, "incoming").kill()


def _agent(home: Path, socket_name: str) -> psutil.Process:
    """The agent whose directory has a session with that socket; the directory is open as long as the agent lives."""
    (path,) = home.glob(f"**/agent-*/*/{socket_name}")
    directory = path.parent.parent
    (agent,) = (
        process
        for process in processes(home, "ray::AgentShell")
        if any(_target(link) == directory for link in Path(f"/proc/{process.pid}/fd").iterdir())
    )
    return agent


def _target(link: Path) -> Path | None:
    try:
        return link.readlink()
    except OSError:
        # A descriptor that was closed meanwhile.
        return None


def a_worker(home: Path, command: KuakaCommand) -> None:
    processes(home, "ray::WorkerShell")[0].kill()


def whole_head(home: Path, command: KuakaCommand) -> None:
    for process in processes(home, "gcs/gcs_server", "raylet/raylet "):
        process.kill()


def gcs_server(home: Path, command: KuakaCommand) -> None:
    (server,) = processes(home, "gcs/gcs_server")
    server.kill()


def raylet(home: Path, command: KuakaCommand) -> None:
    (server,) = processes(home, "raylet/raylet ")
    server.kill()


def interrupt(home: Path, command: KuakaCommand) -> None:
    # As a terminal does: to the whole group, and impatient users do it twice.
    os.killpg(command.pid, signal.SIGINT)
    time.sleep(0.1)
    os.killpg(command.pid, signal.SIGINT)


def terminate(home: Path, command: KuakaCommand) -> None:
    os.kill(command.pid, signal.SIGTERM)


def kill(home: Path, command: KuakaCommand) -> None:
    os.kill(command.pid, signal.SIGKILL)


def start(pair: LivePair, *, before: str = "", **settings: object) -> KuakaCommand:
    return KuakaCommand(pair.home, "migrate", str(pair.spec(**settings)), "-o", "json", before=before)


def migrate_again(pair: LivePair) -> KuakaCommand:
    """The same migration without a fault: it succeeds, after whatever was left has been put right."""
    command = start(pair)
    assert command.end(90) == ExitCode.OK, command.stderr
    assert pair.compared().wrong_pages == 0
    assert not pair.source.qmp("query-status")["running"]
    pair.kill_destination()
    wait_nothing_runs(pair.home)
    assert pair.left_behind() == []
    return command


@pytest.mark.parametrize(
    ("fault", "code", "status"),
    [
        pytest.param(source_agent, ExitCode.FAILED, "failed", marks=long),
        pytest.param(destination_agent, ExitCode.FAILED, "failed"),
        pytest.param(a_worker, ExitCode.FAILED, "failed", marks=long),
        pytest.param(interrupt, ExitCode.INTERRUPTED, "cancelled"),
        pytest.param(terminate, ExitCode.INTERRUPTED, "cancelled", marks=long),
    ],
)
def test_what_is_killed_under_way_fails_the_migration_soon_and_leaves_nothing(
    pair: LivePair, fault: Callable[[Path, KuakaCommand], None], code: ExitCode, status: str
) -> None:
    command = start(pair, bandwidthPerMigration=SLOW)
    pair.wait_moving(MIB)
    began_s = time.monotonic()
    fault(pair.home, command)
    assert command.end() == code, command.stderr
    assert time.monotonic() - began_s < LIMIT_S
    assert [migration["status"] for migration in command.migrations] == [status]
    assert "Traceback" not in command.stderr
    assert pair.source_runs_on()
    wait_nothing_runs(pair.home)
    assert pair.left_behind() == []
    migrate_again(pair)


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        pytest.param(whole_head, ExitCode.FAILED),
        pytest.param(gcs_server, ExitCode.FAILED, marks=long),
        pytest.param(raylet, ExitCode.FAILED, marks=long),
        pytest.param(kill, -signal.SIGKILL, marks=long),
    ],
)
def test_what_takes_the_cluster_along_ends_soon_and_the_next_command_tidies_up(
    pair: LivePair, fault: Callable[[Path, KuakaCommand], None], code: int
) -> None:
    command = start(pair, bandwidthPerMigration=SLOW)
    pair.wait_moving(MIB)
    began_s = time.monotonic()
    fault(pair.home, command)
    assert command.end() == code, command.stderr
    assert time.monotonic() - began_s < LIMIT_S
    if code == ExitCode.FAILED:
        assert "has gone" in command.migrations[0]["error"]
        assert "Traceback" not in command.stderr
    assert pair.source_runs_on()
    migrate_again(pair)


AT_RECORD = """
from pipeline.fleet.recorder import Recorder
record = Recorder.handed_over
def handed_over(self):
    {0}
    import os, signal
    os.kill(os.getpid(), signal.SIGKILL)
Recorder.handed_over = handed_over
"""
AT_RESUME = """
from pipeline.fleet.agent_handle import AgentHandle
resume = AgentHandle.resume_destination
async def resume_destination(self, session_id):
    await resume(self, session_id)
    import os, signal
    os.kill(os.getpid(), signal.SIGKILL)
AgentHandle.resume_destination = resume_destination
"""


@pytest.mark.parametrize(
    ("moment", "moved"),
    [
        pytest.param(AT_RECORD.format("pass"), False, id="completed and not recorded"),
        pytest.param(AT_RECORD.format("record(self)"), True, id="recorded and not resumed"),
        pytest.param(AT_RESUME, True, id="resumed", marks=long),
    ],
)
def test_a_command_killed_around_the_hand_over_leaves_one_guest_to_the_next(
    pair: LivePair, moment: str, moved: bool
) -> None:
    command = start(pair, before=moment)
    assert command.end() == -signal.SIGKILL, command.stderr
    assert not pair.source.qmp("query-status")["running"]
    # Any command will do; this one's own guest is not there.
    sweeper = start(pair, vm={"name": "vm2", "source": {"host": "a", "qmp": "/nowhere"}})
    assert sweeper.end(90) == ExitCode.SPEC_REJECTED
    assert sweeper.migrations[0]["error"] == (
        "vm2 (source): no QMP socket answers at /nowhere: No such file or directory;"
        " start QEMU with -qmp unix:PATH,server=on,wait=off"
    )
    where = "was handed over and is running at the destination" if moved else "is running at the source"
    assert f"kuaka: vm1: a migration that was not brought to its end: the guest {where}" in sweeper.said
    if moved:
        assert pair.compared().wrong_pages == 0
        assert not pair.source.qmp("query-status")["running"]
    else:
        assert pair.source_runs_on()
        assert pair.destination_pid is None


@long
def test_a_command_out_of_time_ends_with_its_own_code(pair: LivePair) -> None:
    command = start(pair, bandwidthPerMigration=SLOW, timeoutSeconds=2.0)
    assert command.end() == ExitCode.DEADLINE
    assert command.migrations[0]["error"] == "not finished within 2 s"
    assert pair.source_runs_on()
    wait_nothing_runs(pair.home)
    assert pair.left_behind() == []
