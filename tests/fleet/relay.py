"""A relay between two gateways that can cut its links, stall them, or keep one message from arriving."""

import contextlib
import socket
import struct
import threading

from pipeline.wire.handshake import PREAMBLE_BYTES, Role, parse_preamble

#: MIG_RP_MSG_SHUT, four bytes, no error: the last thing a destination QEMU says.
SHUT = b"\x00\x01\x00\x04\x00\x00\x00\x00"
_CHUNK_BYTES = 1 << 16


class Relay:
    """Listens at `port` and passes every link on to `to_port`."""

    def __init__(self, to_port: int, *, swallow_shut: bool = False) -> None:
        self._to_port = to_port
        self._swallow_shut = swallow_shut
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._flowing = threading.Event()
        self._flowing.set()
        self._lock = threading.Lock()
        self._ends: list[socket.socket] = []
        #: Set when the SHUT was swallowed and its link cut.
        self.swallowed = threading.Event()
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """End every link with a reset."""
        with self._lock:
            ends = list(self._ends)
        for end in ends:
            _reset(end)

    def stall(self) -> None:
        """Pass nothing on any more; the connections stay."""
        self._flowing.clear()

    def close(self) -> None:
        """End everything."""
        self._listener.close()
        self._flowing.set()
        self.cut()

    def _accept(self) -> None:
        while True:
            try:
                arriving, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(arriving,), daemon=True).start()

    def _serve(self, arriving: socket.socket) -> None:
        preamble = arriving.recv(PREAMBLE_BYTES, socket.MSG_WAITALL)
        leaving = socket.create_connection(("127.0.0.1", self._to_port))
        leaving.sendall(preamble)
        with self._lock:
            self._ends += (arriving, leaving)
        watched = self._swallow_shut and parse_preamble(preamble).role is Role.RETURN
        threading.Thread(target=self._pump, args=(arriving, leaving, False), daemon=True).start()
        self._pump(leaving, arriving, watched)

    def _pump(self, source: socket.socket, sink: socket.socket, watched: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(_CHUNK_BYTES):
                self._flowing.wait()
                if watched and SHUT in data:
                    _reset(source)
                    _reset(sink)
                    self.swallowed.set()
                    return
                sink.sendall(data)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)


def _reset(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        # Wakes a thread that reads; the reset itself goes out with the close.
        sock.shutdown(socket.SHUT_RD)
    sock.close()
