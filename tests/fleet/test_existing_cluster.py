"""`kuaka migrate --address`: on a cluster that was there before and stays. Its controller has the fleet."""

import json
import os
import re
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from pipeline.errors import ExitCode
from tests.demo.running_guest import wait_until
from tests.fleet.kuaka_command import KuakaCommand, processes
from tests.fleet.live_pair import MIB, LivePair

pytestmark = [pytest.mark.qemu, pytest.mark.ray, pytest.mark.timeout(240)]

_ROOT = Path(__file__).parents[2]
#: `host.ORPHAN_S`, and what it takes to put things right.
ORPHANS_END_S = 30
#: After the last fleet a controller keeps its agents for a while.
IDLE_AGENTS_END_S = 45
END_CONTROLLER = "import ray; ray.init('{}'); ray.kill(ray.get_actor('controller', namespace='kuaka'), no_restart=True)"


@pytest.fixture
def guest(cluster: tuple[str, Path]) -> Iterator[LivePair]:
    """A guest in the cluster's directory, whose agents take theirs from the raylet's environment."""
    home = cluster[1] / secrets.token_hex(2)
    home.mkdir()
    pair = LivePair(home)
    yield pair
    pair.close()


def start(cluster: tuple[str, Path], pair: LivePair, **settings: object) -> KuakaCommand:
    address, home = cluster
    return KuakaCommand(home, "migrate", str(pair.spec(**settings)), "-o", "json", "--address", address)


def done(cluster: tuple[str, Path], *words: str, code: ExitCode = ExitCode.OK) -> KuakaCommand:
    """A command that ended with this code."""
    command = KuakaCommand(cluster[1], *words, "--address", cluster[0])
    assert command.end(120) == code, command.stderr
    return command


def fleet_of(command: KuakaCommand) -> str:
    """The id of the fleet that a command that has ended handed over."""
    found = re.match("kuaka: fleet (.+) is submitted", command.said[0])
    assert found is not None, command.stderr
    return found[1]


def actors(cluster: tuple[str, Path]) -> list[psutil.Process]:
    """Processes of agents and workers."""
    return processes(cluster[1], "ray::AgentShell", "ray::WorkerShell")


def wait_no_actors(cluster: tuple[str, Path], timeout_s: float = 10) -> None:
    wait_until(lambda: not actors(cluster), "no agent and no worker is left", timeout_s)
    assert list((cluster[1] / "run").iterdir()) == []


def test_the_fleet_of_a_killed_command_goes_on_and_the_same_command_again_waits_for_it(
    cluster: tuple[str, Path], guest: LivePair
) -> None:
    killed = start(cluster, guest, bandwidthPerMigration="4MB")
    guest.wait_moving(MIB)
    os.kill(killed.pid, signal.SIGKILL)
    assert killed.end() == -signal.SIGKILL
    assert guest.source_runs_on()
    again = start(cluster, guest, bandwidthPerMigration="4MB")
    fleet = fleet_of(killed)
    done(cluster, "set-bandwidth", fleet, "none")
    assert again.end(120) == ExitCode.OK, again.stderr
    assert f"kuaka: fleet {fleet} was submitted before" in again.said[0]
    assert guest.compared().wrong_pages == 0
    guest.kill_destination()


@pytest.mark.long
def test_interrupted_it_leaves_the_fleet_and_terminated_it_cancels(cluster: tuple[str, Path], guest: LivePair) -> None:
    left = start(cluster, guest, bandwidthPerMigration="4MB")
    guest.wait_moving(MIB)
    os.kill(left.pid, signal.SIGINT)
    assert left.end() == ExitCode.INTERRUPTED
    assert f"goes on: kuaka attach {fleet_of(left)}" in left.said[-2]
    done(cluster, "cancel", fleet_of(left))
    done(cluster, "attach", fleet_of(left), code=ExitCode.INTERRUPTED)
    assert guest.source_runs_on()
    given_up = start(cluster, guest, bandwidthPerMigration="4MB")
    guest.wait_moving(MIB)
    os.kill(given_up.pid, signal.SIGTERM)
    assert given_up.end() == ExitCode.INTERRUPTED, given_up.stderr
    (migration,) = given_up.migrations
    assert migration["status"] == "cancelled"
    assert guest.destination_pid is None
    assert guest.source_runs_on()


@pytest.mark.long
def test_agents_without_a_controller_put_things_right_and_end(cluster: tuple[str, Path], guest: LivePair) -> None:
    alone = start(cluster, guest, bandwidthPerMigration="4MB")
    guest.wait_moving(MIB)
    subprocess.run([sys.executable, "-c", END_CONTROLLER.format(cluster[0])], check=True, capture_output=True)
    os.kill(alone.pid, signal.SIGKILL)
    wait_no_actors(cluster, ORPHANS_END_S)
    assert guest.destination_pid is None
    assert guest.source_runs_on()
    # The next controller goes on with the fleet, and this command waits for it.
    again = start(cluster, guest, bandwidthPerMigration="4MB")
    guest.wait_moving(MIB)
    fleets = json.loads(done(cluster, "status", "-o", "json").stdout)["fleets"]
    (fleet,) = (fleet["fleet"] for fleet in fleets if fleet["state"] == "Active")
    done(cluster, "set-bandwidth", fleet, "none")
    assert again.end(120) == ExitCode.OK, again.stderr
    assert guest.compared().wrong_pages == 0
    guest.kill_destination()
    wait_no_actors(cluster, IDLE_AGENTS_END_S)


@pytest.mark.long
def test_an_unknown_node_is_named_and_the_guest_stays(cluster: tuple[str, Path], guest: LivePair) -> None:
    command = start(cluster, guest, hosts=[{"name": "a"}, {"name": "b", "node": "10.9.9.9"}])
    assert command.end(120) == ExitCode.USAGE, command.stderr
    (migration,) = command.migrations
    assert migration["error"].startswith("host b: the Ray cluster has no node '10.9.9.9', it has 127.0.0.1 (")
    assert "Traceback" not in command.stderr
    assert guest.source_runs_on()


@pytest.mark.parametrize(
    ("address", "said"),
    [
        (
            "127.0.0.1:1",
            "kuaka: no Ray cluster answers at 127.0.0.1:1: Connection refused: give the HOST:PORT of its head",
        ),
        ("head", "kuaka: --address head: give the HOST:PORT of the Ray cluster's head, or auto"),
    ],
)
def test_an_address_without_a_cluster_is_refused_at_once(home: Path, address: str, said: str) -> None:
    path = home / "spec.yaml"
    path.write_text(
        "{apiVersion: kuaka/v1, kind: Fleet, metadata: {name: t}, spec: {hosts: [{name: a}, {name: b}],"
        " virtualMachines: [{name: i, kind: image, source: {host: a, path: /a}, destination: {host: b, path: /b}}]}}"
    )
    began_s = time.monotonic()
    command = KuakaCommand(home, "migrate", str(path), "--address", address)
    assert command.end() == ExitCode.USAGE
    assert time.monotonic() - began_s < 20
    assert command.said == [said]
