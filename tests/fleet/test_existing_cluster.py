"""`kuaka migrate --address`: on a cluster that was there before and stays, with agents that outlive their command."""

import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from pipeline.errors import ExitCode
from tests.demo.running_guest import wait_until
from tests.fleet.kuaka_command import KuakaCommand, nothing_survives, processes
from tests.fleet.live_pair import MIB, LivePair, short_directory

pytestmark = [pytest.mark.qemu, pytest.mark.ray, pytest.mark.timeout(240)]

_ROOT = Path(__file__).parents[2]
#: `host.ORPHAN_S`, and what it takes to put things right.
ORPHANS_END_S = 30


@pytest.fixture(scope="module")
def cluster() -> Iterator[tuple[str, Path]]:
    """Address and directory of a Ray head on loopback that asks for a token."""
    with (
        short_directory() as home,
        socket.create_server(("127.0.0.1", 0)) as chosen,
        pytest.MonkeyPatch.context() as set_,
    ):
        address = f"127.0.0.1:{chosen.getsockname()[1]}"
        chosen.close()
        set_.setenv("RAY_AUTH_MODE", "token")
        set_.setenv("RAY_AUTH_TOKEN", secrets.token_hex(16))
        # What makes Ray take 127.0.0.1 for an address, here and in the commands.
        set_.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
        places = {"KUAKA_STATE": str(home / "state"), "KUAKA_RUNTIME": str(home / "run"), "PYTHONPATH": str(_ROOT)}
        head = subprocess.Popen(
            [
                *(sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block"),
                *("--node-ip-address=127.0.0.1", f"--port={address.rpartition(':')[2]}", "--num-cpus=1"),
                *("--object-store-memory=80000000", "--include-dashboard=false", "--disable-usage-stats"),
                f"--temp-dir={home}/ray",
            ],
            env={**os.environ, **places},
            cwd=_ROOT,
            stdin=subprocess.DEVNULL,
            stdout=(home / "head.log").open("wb"),
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            wait_until(lambda: "Ray runtime started" in (home / "head.log").read_text(), "the head runs", 60)
            yield address, home
        finally:
            os.killpg(head.pid, signal.SIGKILL)
            head.wait()
            with nothing_survives(home):
                pass


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
