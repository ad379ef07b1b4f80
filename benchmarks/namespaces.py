"""Network namespaces: a loopback of the benchmark's own, and two hosts joined by a link of a given rate.

Namespaces here have no name: descriptors hold them, so they go with the process however it ends. A namespace belongs
to the thread that entered it; what that thread opens or starts while inside (sockets, threads, processes) stays
inside. So one process can be on both hosts.
"""

import ctypes
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_CLONE_NEWNET = 0x4000_0000
_libc = ctypes.CDLL(None, use_errno=True)
_HERE = Path("/proc/thread-self/ns/net")


class NamespaceError(Exception):
    """Namespaces cannot be made here, for a reason that the message gives."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where one side of a migration runs: an address and the namespace it is in (None: the process's own)."""

    address: str
    interface: str
    namespace: int | None = None

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Be there, on this thread."""
        if self.namespace is None:
            yield
            return
        before = os.open(_HERE, os.O_RDONLY | os.O_CLOEXEC)
        try:
            _check(_libc.setns(self.namespace, _CLONE_NEWNET), "enter a network namespace")
            yield
        finally:
            _libc.setns(before, _CLONE_NEWNET)
            os.close(before)

    def received_bytes(self) -> int:
        """Bytes that the interface has received."""
        with self.entered():
            for line in Path("/proc/thread-self/net/dev").read_text().splitlines():
                name, _, counters = line.partition(":")
                if name.strip() == self.interface:
                    return int(counters.split()[0])
        raise RuntimeError(f"no interface {self.interface}")


LOOPBACK = Place("127.0.0.1", "lo")


def private_loopback() -> None:
    """Give this process a loopback that nobody else uses; before it has threads. Raises `NamespaceError`."""
    _check(_libc.unshare(_CLONE_NEWNET), "make a network namespace")
    ip("link", "set", "lo", "up")


@contextmanager
def linked_places(rate_bits_s: int, burst_bytes: int) -> Iterator[tuple[Place, Place]]:
    """Two namespaces joined by veth, each end capped by a token bucket. Raises `NamespaceError`."""
    near, far = new_namespace(), new_namespace()
    try:
        a, b = Place("10.99.0.1", "a0", near), Place("10.99.0.2", "b0", far)
        with a.entered():
            peer = f"/proc/{os.getpid()}/fd/{far}"
            ip("link", "add", "a0", "type", "veth", "peer", "name", "b0", "netns", peer)
        for place in (a, b):
            with place.entered():
                ip("link", "set", "lo", "up")
                ip("address", "add", f"{place.address}/24", "dev", place.interface)
                ip("link", "set", place.interface, "up")
                cap(place.interface, rate_bits_s, burst_bytes)
        yield a, b
    finally:
        os.close(near)
        os.close(far)


def cap(interface: str, rate_bits_s: int, burst_bytes: int) -> None:
    """Cap what leaves by an interface of the thread's namespace by a token bucket. Raises `NamespaceError`."""
    _run(
        *("tc", "qdisc", "add", "dev", interface, "root", "tbf"),
        *("rate", f"{rate_bits_s}bit", "burst", str(burst_bytes), "latency", "20ms"),
    )


def new_namespace() -> int:
    """A descriptor that holds one. Raises `NamespaceError`."""
    before = os.open(_HERE, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _check(_libc.unshare(_CLONE_NEWNET), "make a network namespace")
        return os.open(_HERE, os.O_RDONLY | os.O_CLOEXEC)
    finally:
        _libc.setns(before, _CLONE_NEWNET)
        os.close(before)


def ip(*arguments: str) -> None:
    """`ip ARGUMENTS` in the thread's namespace. Raises `NamespaceError`."""
    _run("ip", *arguments)


def _run(*command: str) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise NamespaceError(f"{command[0]} is not installed") from None
    if done.returncode:
        raise NamespaceError(f"{' '.join(command)}: {done.stderr.strip() or done.returncode}")


def _check(status: int, what: str) -> None:
    if status:
        raise NamespaceError(f"cannot {what}: {os.strerror(ctypes.get_errno())} (it takes root)")
