"""`kuaka migrate --address`: on a cluster that was there before and stays, with agents that outlive their command."""

import os
import secrets
import signal
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


def actors(cluster: tuple[str, Path]) -> list[psutil.Process]:
    """Processes of agents and workers."""
    return processes(cluster[1], "ray::AgentShell", "ray::WorkerShell")


def wait_no_actors(cluster: tuple[str, Path], timeout_s: float = 10) -> None:
    wait_until(lambda: not actors(cluster), "no agent and no worker is left", timeout_s)
    assert list((cluster[1] / "run").iterdir()) == []


def test_agents_of_a_killed_command_are_ended_by_the_next_and_the_guest_moves(
    cluster: tuple[str, Path], guest: LivePair
) -> None:
    killed = start(cluster, guest, bandwidthPerMigration="4MB")
    guest.wait_moving(MIB)
    os.kill(killed.pid, signal.SIGKILL)
    assert killed.end() == -signal.SIGKILL
    assert actors(cluster)
    assert guest.source_runs_on()
    again = start(cluster, guest)
    assert again.end() == ExitCode.OK, again.stderr
    assert "kuaka: vm1: a migration that was not brought to its end: the guest is running at the source" in again.said
    assert guest.compared().wrong_pages == 0
    guest.kill_destination()
    wait_no_actors(cluster)


@pytest.mark.long
def test_agents_without_a_command_put_things_right_and_end(cluster: tuple[str, Path], guest: LivePair) -> None:
    killed = start(cluster, guest, bandwidthPerMigration="4MB")
    guest.wait_moving(MIB)
    os.kill(killed.pid, signal.SIGKILL)
    assert killed.end() == -signal.SIGKILL
    wait_no_actors(cluster, ORPHANS_END_S)
    assert guest.destination_pid is None
    assert guest.source_runs_on()
    again = start(cluster, guest)
    assert again.end() == ExitCode.OK, again.stderr
    assert guest.compared().wrong_pages == 0
    guest.kill_destination()
    wait_no_actors(cluster)


@pytest.mark.long
def test_an_unknown_node_is_named_and_nothing_is_left(cluster: tuple[str, Path], guest: LivePair) -> None:
    command = start(cluster, guest, hosts=[{"name": "a"}, {"name": "b", "node": "10.9.9.9"}])
    assert command.end() == ExitCode.USAGE
    assert command.said[-1].startswith("kuaka: host b: the Ray cluster has no node '10.9.9.9', it has 127.0.0.1 (")
    assert "Traceback" not in command.stderr
    wait_no_actors(cluster)


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
