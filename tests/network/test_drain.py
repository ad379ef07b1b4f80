"""A host is drained to two others for real: each in a network namespace, links capped and TLS, Ray on a net of its own.

Source QEMUs, raylets, agents and destination QEMUs are on their hosts. The link is the scarce thing: what migrations
are promised of it never exceeds it, and what they send is at most what it lets through.
"""

import secrets
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipeline.demo.guest import ODD_MEMORY_BYTES, GuestParameters
from pipeline.fleet.lifecycle import UNDER_WAY
from pipeline.fleet.plan.from_spec import limits_of
from pipeline.fleet.read_fleet import read_fleet
from pipeline.fleet.spec import Spec
from tests.fleet.kuaka_command import KuakaCommand, processes
from tests.fleet.live_pair import MIB, LivePair, short_directory
from tests.fleet.plan import naive_admission
from tests.fleet.ray_nodes import Node, raylet
from tests.fleet.real_fleets import (
    Fields,
    Images,
    RealCluster,
    event_problems,
    final_states,
    fleet_fields,
    guest_machine,
    guest_problems,
)
from tests.network.three_hosts import RAY, NetworkHost, three_hosts, watched

pytestmark = [pytest.mark.qemu, pytest.mark.ray, pytest.mark.long, pytest.mark.timeout(300)]

_LINK_BYTES_S = 20_000_000
_BURST_BYTES = 512 << 10
_GUEST = GuestParameters(48 * MIB + ODD_MEMORY_BYTES, dirty_rate_bytes_s=1 * MIB)
_LIMITS = {
    "parallelMigrationsPerCluster": 4,
    "parallelOutboundMigrationsPerNode": 3,
    "parallelInboundMigrationsPerNode": 2,
}


@dataclass(frozen=True)
class Rack:
    """Three hosts with a node of one Ray cluster each; this thread, and what it starts, is on host a."""

    home: Path
    hosts: dict[str, NetworkHost]
    nodes: dict[str, Node]
    cluster: RealCluster

    def spec_hosts(self, *, tls: bool) -> list[dict[str, object]]:
        """As a spec names them."""
        certificates = self.home / "certs"
        return [
            {
                "name": name,
                "node": host.ray_address,
                "address": host.links.address,
                "linkCapacity": _LINK_BYTES_S,
                **(
                    {
                        "tls": {
                            "ca": f"{certificates}/ca.pem",
                            "certificate": f"{certificates}/{name}.pem",
                            "key": f"{certificates}/{name}.key",
                        }
                    }
                    if tls
                    else {}
                ),
            }
            for name, host in self.hosts.items()
        ]


@pytest.fixture(scope="module")
def rack() -> Iterator[Rack]:
    with (
        three_hosts(_LINK_BYTES_S, _BURST_BYTES) as hosts,
        short_directory() as home,
        pytest.MonkeyPatch.context() as set_,
        ExitStack() as ending,
    ):
        set_.setenv("RAY_AUTH_MODE", "token")
        set_.setenv("RAY_AUTH_TOKEN", secrets.token_hex(16))
        nodes = {name: Node(name, host.ray_address, home / name) for name, host in hosts.items()}
        head = f"{hosts['a'].ray_address}:6379"
        for name, node in nodes.items():
            first = ("--head", "--port=6379", "--include-dashboard=false", f"--temp-dir={home}/r")
            with hosts[name].links.entered():
                ending.enter_context(raylet(node, *(first if name == "a" else (f"--address={head}",))))
        ending.enter_context(hosts["a"].links.entered())
        certificates = [word for name, host in hosts.items() for word in ("--host", f"{name}={host.links.address}")]
        assert KuakaCommand(home, "certs", str(home / "certs"), *certificates).end() == 0
        yield Rack(home, hosts, nodes, RealCluster(head, nodes["a"].home))


def link_problems(rack: Rack, fields: Fields, fleet: str) -> list[str]:
    """Limits of the spec, links too, that were exceeded at some event."""
    spec = Spec.model_validate(fields, by_alias=True, by_name=False)
    requests = {order.vm: order.request for order in read_fleet(fleet, fields).vms}
    states: dict[str, str] = {}
    found: set[str] = set()
    for event in rack.cluster.events(fleet):
        if event.vm:
            states[event.vm] = event.state
        running = [requests[vm] for vm, state in states.items() if state in UNDER_WAY]
        found |= naive_admission.excess(running, limits_of(spec))
    return sorted(found)


def test_a_host_is_drained_to_two_others_under_limits_over_its_capped_link(rack: Rack) -> None:
    hosts, cluster = rack.hosts, rack.cluster
    images = Images(rack.home / "i")
    machines = images.add(2, 8 * MIB, "ab") + images.add(2, 8 * MIB, "ac")
    with ExitStack() as ending:
        guests = {}
        for number, destination in enumerate("bcbc"):
            home = rack.home / f"g{number}"
            home.mkdir()
            guests[f"g{number}"] = pair = LivePair(home, _GUEST)
            ending.callback(pair.close)
            machines.append(guest_machine(pair, f"g{number}", f"a{destination}"))
        fields = fleet_fields("drain", machines, rack.spec_hosts(tls=True), codec="none", **_LIMITS)
        ray_before = hosts["a"].sent_bytes(RAY)
        with watched(hosts["a"]) as watch:
            cluster.submit(fields)
            results = cluster.attach("drain")
        ray_bytes = hosts["a"].sent_bytes(RAY) - ray_before
        events = cluster.events("drain")
        states = final_states(events)
        assert set(states.values()) == {"Succeeded"}, [result["error"] for result in results.values()]
        places = {name: process.pid for name, node in rack.nodes.items() for process in processes(node.home, "Shell")}
        assert set(places) == set("abc")
        assert [name for name, pid in places.items() if not hosts[name].has(pid)] == []
        for pair, destination in zip(guests.values(), "bcbc", strict=True):
            assert pair.destination_pid is not None
            assert hosts[destination].has(pair.destination_pid)
        assert guest_problems(guests, states) + images.problems(states) == []
    assert event_problems(events, fields) + link_problems(rack, fields, "drain") == []
    wire_bytes = sum(result["wire_bytes"] for result in results.values())
    assert wire_bytes <= watch.sent_bytes()
    # Heads of packets and acknowledgements, and what the main streams of guests carry besides pages.
    assert watch.sent_bytes() < 1.2 * wire_bytes + 8 * MIB
    assert ray_bytes < wire_bytes / 4
    assert watch.fastest_bytes_s(1.0) <= 1.1 * _LINK_BYTES_S + _BURST_BYTES
    assert not watch.contains(image_bytes(images))
    assert cluster.unfinished() == []
    cluster.wait_nothing_left()


def image_bytes(images: Images) -> bytes:
    """Something of an image that is nowhere else."""
    return Path(images.machines[0]["source"]["path"]).read_bytes()[4096:4160]


def test_what_is_allowed_to_be_plain_is_seen_on_the_link(rack: Rack) -> None:
    """Or the test above could not fail."""
    images = Images(rack.home / "plain", seed=1)
    machines = images.add(1, 8 * MIB, "ab")
    fields = fleet_fields("plain", machines, rack.spec_hosts(tls=False), codec="none", allowPlain=True)
    with watched(rack.hosts["a"]) as watch:
        rack.cluster.submit(fields)
        assert {result["status"] for result in rack.cluster.attach("plain").values()} == {"completed"}
    assert watch.contains(image_bytes(images))
