"""`kuaka migrate --address` on a cluster of two Ray nodes: each host's agent and workers run on the node of its spec.

Both nodes are on this machine, at two loopback addresses (any but 127.0.0.1, which Ray replaces). A node's actors
inherit the environment of its raylet, so that each node has a runtime directory of its own.
"""

import os
import secrets
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipeline.errors import ExitCode
from pipeline.wire.certs import make_certificates
from tests.demo.running_guest import wait_until
from tests.fleet.kuaka_command import KuakaCommand, nothing_survives, processes, wait_nothing_runs
from tests.fleet.live_pair import MIB, LivePair

pytestmark = [pytest.mark.qemu, pytest.mark.ray, pytest.mark.timeout(240)]

_ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Node:
    """A Ray node: its spec host, its address and its own directory."""

    name: str
    address: str
    home: Path

    def processes(self, word: str) -> int:
        """How many of its processes are called so."""
        return len(processes(self.home, word))


@pytest.fixture
def nodes(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Node, Node, str]]:
    """Two nodes, the first with the head, and the head's address."""
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(16))
    a, b = (Node(name, f"127.0.0.{number}", home / name) for name, number in (("a", 2), ("b", 3)))
    with socket.create_server((a.address, 0)) as chosen:
        head = f"{a.address}:{chosen.getsockname()[1]}"
    port = head.rpartition(":")[2]
    started = []
    try:
        started.append(start_raylet(a, "--head", f"--port={port}", "--include-dashboard=false", f"--temp-dir={home}/r"))
        started.append(start_raylet(b, f"--address={head}"))
        yield a, b, head
    finally:
        for process in reversed(started):
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        for node in (a, b):
            with nothing_survives(node.home):
                pass


def start_raylet(node: Node, *arguments: str) -> "subprocess.Popen[bytes]":
    for name in ("", "run", "state"):
        (node.home / name).mkdir(mode=0o700)
    log = node.home / "raylet.log"
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "ray.scripts.scripts", "start", "--block", f"--node-ip-address={node.address}"),
            *("--num-cpus=1", "--object-store-memory=80000000", "--min-worker-port=0", "--max-worker-port=0"),
            *("--disable-usage-stats", *arguments),
        ],
        env={**os.environ, "KUAKA_RUNTIME": str(node.home / "run"), "PYTHONPATH": str(_ROOT)},
        cwd=_ROOT,
        stdin=subprocess.DEVNULL,
        stdout=log.open("wb"),
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    wait_until(lambda: process.poll() is not None or "Ray runtime started" in log.read_text(), "a node runs", 60)
    assert process.poll() is None, log.read_text()
    return process


def test_agents_run_on_their_nodes_and_a_guest_moves_between_them_over_tls(
    home: Path, pair: LivePair, nodes: tuple[Node, Node, str]
) -> None:
    a, b, head = nodes
    make_certificates(home / "certs", [f"{node.name}={node.address}" for node in (a, b)], 1, overwrite=False)
    hosts = [
        {
            "name": node.name,
            "node": node.address,
            "address": node.address,
            "tls": {
                "ca": f"{home}/certs/ca.pem",
                "certificate": f"{home}/certs/{node.name}.pem",
                "key": f"{home}/certs/{node.name}.key",
            },
        }
        for node in (a, b)
    ]
    command = KuakaCommand(
        home,
        *("migrate", str(pair.spec(hosts=hosts, bandwidthPerMigration="20MB"))),
        *("-o", "json", "--address", head, "--workers", "2"),
    )
    with nothing_survives(home):
        pair.wait_moving(MIB)
        for node in (a, b):
            assert (node.processes("ray::AgentShell"), node.processes("ray::WorkerShell")) == (1, 2)
        assert [path.name for path in (a.home / "run").glob("agent-*/*/*")] == ["outgoing"]
        assert [path.name for path in (b.home / "run").glob("agent-*/*/*")] == ["incoming"]
        assert command.end(120) == ExitCode.OK, command.stderr
        assert pair.compared().wrong_pages == 0
        assert not pair.source.qmp("query-status")["running"]
        pair.kill_destination()
        for node in (a, b):
            wait_until(lambda node=node: not node.processes("Shell"), "no agent and no worker is left", 10)
            assert not list((node.home / "run").iterdir())
        wait_nothing_runs(home)
