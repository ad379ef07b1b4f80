"""QEMUs made of sockets: a source that migrates into a gateway, a destination that says it has loaded everything."""

import contextlib
import socket
import threading
from pathlib import Path

from tests.demo.running_guest import wait_until
from tests.qemu.multifd_packets import PAGE, init, packet
from tests.qemu.test_main_channel import HEADER, command, configuration
from tests.qemu.test_return_path import PONG, SHUT

LIMIT_S = 10.0
HEAD = HEADER + configuration() + command(1) + b"\x01"
SYNC = 0x01


def connect(path: Path) -> socket.socket:
    """A connection with a limit on every wait."""
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(LIMIT_S)
    sock.connect(str(path))
    return sock


def read_all(sock: socket.socket) -> bytes:
    """What comes until the end; a reset is an end."""
    data = b""
    with contextlib.suppress(ConnectionResetError):
        while more := sock.recv(1 << 20):
            data += more
    return data


class FakeSource:
    """A source QEMU's connections; `migrate` plays a whole migration of two packets per channel."""

    def __init__(self, path: Path, channels: int) -> None:
        self.main = connect(path)
        self.main.sendall(HEAD)
        self.channels = [connect(path) for _ in range(channels)]
        for number, channel in enumerate(self.channels):
            channel.sendall(init(channel=number))

    def migrate(self) -> bytes:
        """Send everything, wait for SHUT and close as QEMU does; returns what came back."""
        for number, channel in enumerate(self.channels):
            channel.sendall(packet(normal=(number * PAGE, 64 * PAGE)) + bytes([number + 1]) * PAGE + bytes(PAGE))
            channel.sendall(packet(SYNC))
        self.main.sendall(b"the rest")
        returned = b""
        while SHUT not in returned:
            more = self.main.recv(1 << 16)
            if not more:
                break
            returned += more
        self.close()
        return returned

    def close(self) -> None:
        for sock in (*self.channels, self.main):
            sock.close()


class FakeDestination:
    """Listens like QEMU 7.2, the first connection is main; `received` is what each connection brought, main first."""

    def __init__(self, path: Path, channels: int = 2, *, confirms: bool = True) -> None:
        self._channels = channels
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen(16)
        self._confirms = confirms
        self._readers: list[threading.Thread] = []
        self.received: list[bytes] = []
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()

    def join(self) -> None:
        """Take no more connections, and wait until those there were have ended."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in (self._accepting, *self._readers):
            thread.join(LIMIT_S)
            assert not thread.is_alive()

    def _accept(self) -> None:
        while True:
            try:
                sock, _address = self._listener.accept()
            except OSError:
                return
            sock.settimeout(LIMIT_S)
            self.received.append(b"")
            reader = threading.Thread(target=self._read, args=(sock, len(self.received) - 1), daemon=True)
            self._readers.append(reader)
            reader.start()

    def _read(self, sock: socket.socket, index: int) -> None:
        with sock, contextlib.suppress(OSError):
            if index == 0:
                sock.sendall(PONG)
            while more := sock.recv(1 << 20):
                self.received[index] += more
                if index == 0 and self.received[0].endswith(b"the rest"):
                    if not self._confirms:
                        return
                    wait_until(lambda: len(self.received) > self._channels, "all channels are here", LIMIT_S)
                    sock.sendall(SHUT)
