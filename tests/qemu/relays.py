"""Relays that do to a migration what must not happen, between the gateways or in front of the source's."""

import contextlib
import itertools
import random
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.qemu.multifd import FLAG_SYNC, INIT_BYTES, MAGIC, PACKET_HEAD_BYTES
from pipeline.wire.handshake import PREAMBLE_BYTES, Role

_CHUNK_BYTES = 1 << 16
_SHUT_OK = bytes.fromhex("0001000400000000")
_PAGE_BYTES = 4096


def _read(sock: socket.socket, size: int) -> bytes:
    """Exactly `size` bytes; nothing at the end of the stream."""
    data = b""
    while len(data) < size:
        more = sock.recv(size - len(data))
        if not more:
            return b""
        data += more
    return data


def _start(target: Callable[..., None], *arguments: object) -> None:
    threading.Thread(target=target, args=arguments, daemon=True).start()


def _pump(here: socket.socket, there: socket.socket, look: Callable[[bytes], bool] = lambda data: True) -> None:
    """Copy until the end, or until `look` says no."""
    with contextlib.suppress(OSError):
        while (data := here.recv(_CHUNK_BYTES)) and look(data):
            there.sendall(data)
    with contextlib.suppress(OSError):
        there.shutdown(socket.SHUT_WR)


class LinkRelay:
    """Between the gateways: can cut or stall all links, and swallow the destination QEMU's last word and cut then."""

    def __init__(self, *, swallow_shut: bool = False) -> None:
        self._swallow_shut = swallow_shut
        self._sockets: list[socket.socket] = []
        self.swallowed = threading.Event()
        self._flowing = threading.Event()
        self._flowing.set()

    def __call__(self, port: int) -> int:
        """Relay to `port`; returns the port to go to instead."""
        listener = socket.create_server(("127.0.0.1", 0))
        self._sockets.append(listener)
        _start(self._accept, listener, port)
        listening: int = listener.getsockname()[1]
        return listening

    def stall(self) -> None:
        """Take bytes no further; connections stay."""
        self._flowing.clear()

    def cut(self) -> None:
        """Cut everything."""
        self._flowing.set()
        for sock in self._sockets:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()

    def _accept(self, listener: socket.socket, port: int) -> None:
        while True:
            try:
                near, _address = listener.accept()
            except OSError:
                return
            _start(self._relay, near, port)

    def _relay(self, near: socket.socket, port: int) -> None:
        far = socket.create_connection(("127.0.0.1", port))
        self._sockets += [near, far]
        preamble = _read(near, PREAMBLE_BYTES)
        far.sendall(preamble)
        watches = self._swallow_shut and preamble[6] == Role.RETURN
        _start(_pump, far, near, self._not_the_end if watches else self._flows)
        _pump(near, far, self._flows)

    def _flows(self, data: bytes) -> bool:
        return self._flowing.wait()

    def _not_the_end(self, data: bytes) -> bool:
        if _SHUT_OK not in data:
            return True
        self.swallowed.set()
        self.cut()
        return False


class ReorderingRelay:
    """In front of the source gateway: holds back every fifth data packet until 25 more have passed, SYNCs or not.

    What is held when the channel ends stays where it is: the destination may have closed its end.
    """

    def __init__(self, path: Path, gateway: Path, seed: int = 0) -> None:
        self.path = path
        self._gateway = gateway
        self._random = random.Random(seed)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen(32)
        self.crossed_syncs = 0
        _start(self._accept)

    def close(self) -> None:
        """Take no more connections."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _address = self._listener.accept()
            except OSError:
                return
            _start(self._relay, near)

    def _relay(self, near: socket.socket) -> None:
        far = socket.socket(socket.AF_UNIX)
        far.connect(str(self._gateway))
        _start(_pump, far, near)
        magic = near.recv(4, socket.MSG_PEEK | socket.MSG_WAITALL)
        if magic == MAGIC.to_bytes(4, "big"):
            with contextlib.suppress(OSError):
                self._reorder(near, far)
            with contextlib.suppress(OSError):
                far.shutdown(socket.SHUT_WR)
        else:
            _pump(near, far)

    def _reorder(self, near: socket.socket, far: socket.socket) -> None:
        far.sendall(_read(near, INIT_BYTES))
        held: deque[tuple[int, int, bytes]] = deque()
        passed = syncs = 0
        while head := _read(near, PACKET_HEAD_BYTES):
            flags, normal_pages = struct.unpack_from(">8xI4xI", head)
            packet = head + (_read(near, normal_pages * _PAGE_BYTES) if normal_pages else b"")
            if normal_pages and not flags & FLAG_SYNC and self._random.random() < 0.2:
                held.append((passed + 25, syncs, packet))
                continue
            far.sendall(packet)
            passed += 1
            syncs += bool(flags & FLAG_SYNC)
            while held and held[0][0] <= passed:
                _due, syncs_then, late = held.popleft()
                far.sendall(late)
                self.crossed_syncs += syncs > syncs_then


@contextmanager
def closing_port() -> Iterator[int]:
    """A port where every connection ends a moment after it began, each after another one."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with contextlib.suppress(OSError):
                for number in itertools.count():
                    connection, _address = listener.accept()
                    time.sleep(number % 7 * 0.005)
                    connection.close()

        _start(serve)
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
