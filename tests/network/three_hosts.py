"""Three hosts in network namespaces of their own, joined twice by switches: once for links, capped, once for Ray.

                    links0 10.88.0.N ── veth, a token bucket at both ends ──┐
     host a, b, c                                                           switch namespace: two bridges
                    ray0   10.89.0.N ── veth ───────────────────────────────┘

Namespaces have no names and go with the processes in them. What a thread starts while it is on a host stays there.
"""

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.namespaces import NamespaceError, Place, cap, ip, new_namespace
from tests.needs import missing

NAMES = ("a", "b", "c")
LINKS, RAY = "links0", "ray0"
_EVERY_PROTOCOL = 3
_PACKET_BYTES = 1 << 17
_SAMPLE_S = 0.1


@dataclass(frozen=True)
class NetworkHost:
    """A host by its place for links, and its address for Ray."""

    name: str
    links: Place
    ray_address: str

    def sent_bytes(self, interface: str) -> int:
        """Bytes that have left by an interface."""
        with self.links.entered():
            for line in Path("/proc/thread-self/net/dev").read_text().splitlines():
                name, _, counters = line.partition(":")
                if name.strip() == interface:
                    return int(counters.split()[8])
        raise RuntimeError(f"no interface {interface}")

    def has(self, pid: int) -> bool:
        """Whether that process runs in the host's namespace."""
        assert self.links.namespace is not None
        return Path(f"/proc/{pid}/ns/net").stat().st_ino == os.fstat(self.links.namespace).st_ino


@contextmanager
def three_hosts(rate_bytes_s: int, burst_bytes: int) -> Iterator[dict[str, NetworkHost]]:
    """The hosts by name; ends the test as `needs` says where the machine makes no namespaces or lacks `ip` or `tc`."""
    with ExitStack() as ending:
        try:
            hosts = _hosts(ending, rate_bytes_s * 8, burst_bytes)
        except NamespaceError as error:
            missing(f"network namespaces ({error})")
        yield hosts


def _hosts(ending: ExitStack, rate_bits_s: int, burst_bytes: int) -> dict[str, NetworkHost]:
    switch = Place("", "", new_namespace())
    ending.callback(os.close, switch.namespace)
    with switch.entered():
        for bridge in ("links", "ray"):
            ip("link", "add", bridge, "type", "bridge")
            ip("link", "set", bridge, "up")
    hosts = {}
    for number, name in enumerate(NAMES, 1):
        host = NetworkHost(name, Place(f"10.88.0.{number}", LINKS, new_namespace()), f"10.89.0.{number}")
        ending.callback(os.close, host.links.namespace)
        for interface, address, bridge in ((LINKS, host.links.address, "links"), (RAY, host.ray_address, "ray")):
            port = f"{bridge}-{name}"
            with host.links.entered():
                peer = f"/proc/{os.getpid()}/fd/{switch.namespace}"
                ip("link", "add", interface, "type", "veth", "peer", "name", port, "netns", peer)
                ip("address", "add", f"{address}/24", "dev", interface)
                ip("link", "set", interface, "up")
            with switch.entered():
                ip("link", "set", port, "master", bridge)
                ip("link", "set", port, "up")
            for place, end in ((host.links, interface), (switch, port)):
                if bridge == "links":
                    with place.entered():
                        cap(end, rate_bits_s, burst_bytes)
        with host.links.entered():
            ip("link", "set", "lo", "up")
            # By which programs find out what their own address is.
            ip("route", "add", "default", "dev", RAY)
        hosts[name] = host
    return hosts


@dataclass
class Watch:
    """What went by at a host's capped interface."""

    #: Seconds and bytes sent so far, ten times a second.
    samples: list[tuple[float, int]] = field(default_factory=list)
    packets: list[bytes] = field(default_factory=list)

    def fastest_bytes_s(self, window_s: float) -> float:
        """The highest rate over windows that are so long at least."""
        best, first = 0.0, 0
        for at_s, sent in self.samples:
            while first + 1 < len(self.samples) and at_s - self.samples[first + 1][0] >= window_s:
                first += 1
            began_s, before = self.samples[first]
            if at_s - began_s >= window_s:
                best = max(best, (sent - before) / (at_s - began_s))
        return best

    def sent_bytes(self) -> int:
        """All that has left meanwhile."""
        return self.samples[-1][1] - self.samples[0][1]

    def contains(self, needle: bytes) -> bool:
        """Whether that went by in the clear, in one packet."""
        return any(needle in packet for packet in self.packets)


@contextmanager
def watched(host: NetworkHost) -> Iterator[Watch]:
    """Count and keep what the host sends and receives at its capped interface."""
    watch, ended = Watch(), threading.Event()
    with host.links.entered():
        sniffer = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_EVERY_PROTOCOL))
        sniffer.bind((LINKS, 0))
        sniffer.settimeout(_SAMPLE_S)
        sniffer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 25)

    def sample() -> None:
        while not ended.is_set():
            watch.samples.append((time.monotonic(), host.sent_bytes(LINKS)))
            ended.wait(_SAMPLE_S)
        watch.samples.append((time.monotonic(), host.sent_bytes(LINKS)))

    def sniff() -> None:
        while not ended.is_set():
            try:
                watch.packets.append(sniffer.recv(_PACKET_BYTES))
            except TimeoutError:
                continue

    threads = [threading.Thread(target=work) for work in (sample, sniff)]
    for thread in threads:
        thread.start()
    try:
        yield watch
    finally:
        ended.set()
        for thread in threads:
            thread.join()
        sniffer.close()
