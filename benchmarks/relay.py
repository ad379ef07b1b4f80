"""A blind relay where the gateways stand: two processes that move bytes and do nothing else.

It is the limit of what a gateway of this shape reaches on a machine. Like the gateways it makes three socket hops of
one, with a thread per channel and direction: unix to TCP at the source, TCP to unix at the destination, the main
channel in both directions. Unlike them it parses nothing, checks nothing, counts nothing and keeps no window.

A read takes what is there, up to a packet's size: waiting for a full buffer would take a relay that knows where packets
end, or a time limit, which was no faster.
"""

import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from benchmarks.measure import Run
from benchmarks.namespaces import LOOPBACK
from benchmarks.pair import Pair

_BUFFER_BYTES = 512 << 10
_BACKLOG = 64
_PORT = 7778


def run_relayed(pair: Pair, folder: Path) -> Run:
    """Migrate a pair over loopback through fresh relays."""
    incoming, outgoing = folder / "incoming", folder / "outgoing"
    pair.destination.execute("migrate-incoming", uri=f"unix:{incoming}")
    link = f"{LOOPBACK.address}:{_PORT}"
    with _relay(link, str(incoming)) as arriving, _relay(str(outgoing), link) as leaving:
        try:
            return pair.run(f"unix:{outgoing}", ((leaving,), (arriving,)))
        finally:
            outgoing.unlink(missing_ok=True)


@contextmanager
def _relay(listen: str, target: str) -> Iterator[int]:
    """A relay process that listens already; its pid."""
    with ExitStack() as stack:
        process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.relay", listen, target],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            # See qemu.py: sessions share CPUs.
            process_group=0,
        )
        stack.callback(process.wait)
        stack.callback(process.kill)
        assert process.stdout is not None
        stack.callback(process.stdout.close)
        if not process.stdout.readline():
            raise RuntimeError("a relay did not start")
        yield process.pid


def _main(listen: str, target: str) -> None:
    """Relay every connection, and its answers, until killed."""
    kind, address = _address(listen)
    with socket.socket(kind) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(_BACKLOG)
        print("listening", flush=True)
        while True:
            near, _from = listener.accept()
            kind, address = _address(target)
            far = socket.socket(kind)
            far.connect(address)
            for one, other in ((near, far), (far, near)):
                threading.Thread(target=_forward, args=(one, other), daemon=True).start()


def _address(text: str) -> tuple[socket.AddressFamily, str | tuple[str, int]]:
    if "/" in text:
        return socket.AF_UNIX, text
    host, _, port = text.rpartition(":")
    return socket.AF_INET, (host, int(port))


def _forward(one: socket.socket, other: socket.socket) -> None:
    buffer = memoryview(bytearray(_BUFFER_BYTES))
    if other.family == socket.AF_INET:
        other.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    while count := one.recv_into(buffer):
        other.sendall(buffer[:count])
    other.shutdown(socket.SHUT_WR)


if __name__ == "__main__":
    _main(*sys.argv[1:])
