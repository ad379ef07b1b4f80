"""`kuaka migrate --address` on a cluster of two Ray nodes: each host's agent and workers run on the node of its spec.

Both nodes are on this machine, at two loopback addresses (any but 127.0.0.1, which Ray replaces).
"""

import secrets
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.errors import ExitCode
from pipeline.wire.certs import make_certificates
from tests.fleet.kuaka_command import KuakaCommand, nothing_survives
from tests.fleet.live_pair import MIB, LivePair
from tests.fleet.ray_nodes import Node, raylet

pytestmark = [pytest.mark.qemu, pytest.mark.ray, pytest.mark.timeout(240)]


@pytest.fixture
def nodes(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Node, Node, str]]:
    """Two nodes, the first with the head, and the head's address."""
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(16))
    a, b = (Node(name, f"127.0.0.{number}", home / name) for name, number in (("a", 2), ("b", 3)))
    with socket.create_server((a.address, 0)) as chosen:
        head = f"{a.address}:{chosen.getsockname()[1]}"
    port = head.rpartition(":")[2]
    first = ("--head", f"--port={port}", "--include-dashboard=false", f"--temp-dir={home}/r")
    with raylet(a, *first), raylet(b, f"--address={head}"):
        yield a, b, head


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
