"""Blocking byte transports under a link: plain TCP or unix sockets, and TLS over them.

Plain sockets read whole buffers in one call (MSG_WAITALL) and write many buffers in one (sendmsg): a 512 KiB packet
costs two system calls, not a Python loop. Time limits are the kernel's (SO_SNDTIMEO), because Python's own would
make the socket non-blocking and MSG_WAITALL with it ineffective. `abort` may be called from any thread: it wakes
whoever is blocked.
"""

import contextlib
import os
import select
import socket
import ssl
import struct
import time
from collections.abc import Sequence
from typing import Protocol

from typing_extensions import Buffer

from pipeline.errors import LinkCut, LinkError
from pipeline.memory.pages import as_bytes
from pipeline.wire.tls_errors import tls_problem

_TCP_ESTABLISHED = 1
_CLOSE_POLL_S = 0.01
#: Most buffers sendmsg takes at once (IOV_MAX).
_MAX_IOV = 1024


class Transport(Protocol):
    """A connected stream of bytes."""

    def read_exact(self, *views: memoryview) -> bool:
        """Fill every view; False if the stream ended before the first byte. Raises `LinkError` if it ended inside."""

    def read_some(self, limit: int) -> bytes:
        """Up to `limit` bytes, at least one; empty when the stream has ended."""

    def read_available(self, limit: int) -> bytes | None:
        """Like `read_some`, but None where it would have to wait."""

    def write(self, parts: Sequence[Buffer]) -> None:
        """Write every byte of `parts`; raises `LinkError`."""

    def readable(self) -> bool:
        """Whether a read would find something (or the end) now."""

    def fileno(self) -> int:
        """The descriptor to poll, -1 once closed."""

    def set_read_timeout(self, timeout_s: float) -> None:
        """Make a read that gets nothing for `timeout_s` fail; 0 takes the limit away."""

    def stop_reading(self) -> None:
        """Let blocked and later reads find the end of the stream, from any thread; writes go on."""

    def await_close(self, timeout_s: float) -> None:
        """Wait until the other end has closed: a close here could take from it what it has not read yet."""

    def abort(self) -> None:
        """End the stream in both directions, waking blocked threads; the descriptor stays until `close`."""

    def close(self) -> None:
        """Release the descriptor."""


class SocketTransport:
    """A plain socket."""

    def __init__(self, sock: socket.socket, name: str, write_timeout_s: float | None = None) -> None:
        sock.settimeout(None)
        if write_timeout_s is not None:
            set_timeout(sock, socket.SO_SNDTIMEO, write_timeout_s)
        if sock.family in (socket.AF_INET, socket.AF_INET6):
            _set_up_tcp(sock)
        self._sock = sock
        self.name = name

    def read_exact(self, *views: memoryview) -> bool:
        """See `Transport`."""
        left = [view for view in views if len(view)]
        begun = False
        try:
            while left:
                count = self._sock.recvmsg_into(left, 0, socket.MSG_WAITALL)[0]
                if not count:
                    if begun:
                        raise LinkCut(f"{self.name} ended in the middle of a message")
                    return False
                begun = True
                left = remaining(left, count)
        except OSError as error:
            raise self._unreadable(error) from None
        return True

    def read_some(self, limit: int) -> bytes:
        """See `Transport`."""
        try:
            return self._sock.recv(limit)
        except OSError as error:
            raise self._unreadable(error) from None

    def read_available(self, limit: int) -> bytes | None:
        """See `Transport`."""
        try:
            return self._sock.recv(limit, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return None
        except OSError as error:
            raise self._unreadable(error) from None

    def write(self, parts: Sequence[Buffer]) -> None:
        """See `Transport`."""
        views = [as_bytes(part) for part in parts]
        try:
            while views:
                sent = self._sock.sendmsg(views[:_MAX_IOV])
                views = remaining(views, sent)
        except BlockingIOError:
            raise LinkError(f"{self.name} stalled: nothing could be written within the stall timeout") from None
        except OSError as error:
            raise LinkCut(f"{self.name} broke: {os.strerror(error.errno or 0)}") from None

    def readable(self) -> bool:
        """See `Transport`."""
        return bool(poll_readable((self,), 0))

    def fileno(self) -> int:
        """See `Transport`."""
        return self._sock.fileno()

    def set_read_timeout(self, timeout_s: float) -> None:
        """See `Transport`."""
        set_timeout(self._sock, socket.SO_RCVTIMEO, timeout_s)

    def shutdown_write(self) -> None:
        """Say that no more will be written; the other direction stays."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_WR)

    def stop_reading(self) -> None:
        """See `Transport`."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RD)

    def await_close(self, timeout_s: float) -> None:
        """See `Transport`."""
        _await_close(self._sock, timeout_s)

    def abort(self) -> None:
        """See `Transport`."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """See `Transport`."""
        self._sock.close()

    def _unreadable(self, error: OSError) -> LinkError:
        if isinstance(error, BlockingIOError):
            return LinkError(f"{self.name} stalled: nothing arrived within the time limit")
        return LinkCut(f"{self.name} broke: {os.strerror(error.errno or 0)}")


class TlsTransport:
    """TLS 1.3 over a TCP socket; used by one thread at a time, but for `abort`.

    Its time limits are Python's: a TLS object of a blocking socket starts over when the kernel's limit interrupts it.
    """

    def __init__(self, sock: ssl.SSLSocket, name: str, write_timeout_s: float | None = None) -> None:
        self._sock = sock
        self.name = name
        self._write_timeout_s = write_timeout_s
        self._read_timeout_s: float | None = None
        _set_up_tcp(sock)

    def read_exact(self, *views: memoryview) -> bool:
        """See `Transport`."""
        begun = False
        try:
            self._sock.settimeout(self._read_timeout_s)
            for view in views:
                while len(view):
                    count = self._sock.recv_into(view)
                    if not count:
                        if begun:
                            raise LinkCut(f"{self.name} ended in the middle of a message")
                        return False
                    begun = True
                    view = view[count:]
        except (OSError, ValueError) as error:
            raise self._broken(error) from None
        return True

    def read_some(self, limit: int) -> bytes:
        """See `Transport`."""
        try:
            self._sock.settimeout(self._read_timeout_s)
            return self._sock.recv(limit)
        except (OSError, ValueError) as error:
            raise self._broken(error) from None

    def read_available(self, limit: int) -> bytes | None:
        """See `Transport`."""
        return self.read_some(limit) if self.readable() else None

    def write(self, parts: Sequence[Buffer]) -> None:
        """See `Transport`."""
        try:
            self._sock.settimeout(self._write_timeout_s)
            for view in map(as_bytes, parts):
                # Not sendall: its one limit is for all of them, ours for the next byte.
                while len(view):
                    view = view[self._sock.send(view) :]
        except (OSError, ValueError) as error:
            raise self._broken(error) from None

    def readable(self) -> bool:
        """See `Transport`."""
        return self._sock.pending() > 0 or bool(poll_readable((self,), 0))

    def fileno(self) -> int:
        """See `Transport`."""
        return self._sock.fileno()

    def set_read_timeout(self, timeout_s: float) -> None:
        """See `Transport`."""
        self._read_timeout_s = timeout_s or None

    def stop_reading(self) -> None:
        """See `Transport`."""
        with contextlib.suppress(OSError):
            socket.socket.shutdown(self._sock, socket.SHUT_RD)

    def await_close(self, timeout_s: float) -> None:
        """See `Transport`."""
        _await_close(self._sock, timeout_s)

    def abort(self) -> None:
        """See `Transport`."""
        with contextlib.suppress(OSError):
            # The socket under the TLS object: a TLS shutdown would wait for the peer.
            socket.socket.shutdown(self._sock, socket.SHUT_RDWR)

    def close(self) -> None:
        """See `Transport`."""
        self._sock.close()

    def _broken(self, error: OSError | ValueError) -> LinkError:
        if isinstance(error, TimeoutError):
            return LinkError(f"{self.name} stalled: nothing moved within the time limit")
        return LinkCut(f"{self.name} broke: {tls_problem(error)}")


def remaining(views: list[memoryview], sent: int) -> list[memoryview]:
    """What is left of `views` after their first `sent` bytes."""
    for index, view in enumerate(views):
        if sent < len(view):
            return [view[sent:], *views[index + 1 :]]
        sent -= len(view)
    return []


def poll_readable(transports: Sequence[Transport], timeout_s: float | None) -> list[Transport]:
    """Those of `transports` with something to read, or ended, within the timeout (None: for ever)."""
    poll = select.poll()
    by_descriptor = {transport.fileno(): transport for transport in transports}
    for descriptor in by_descriptor:
        if descriptor < 0:
            raise LinkError("a connection was closed while in use")
        poll.register(descriptor, select.POLLIN)
    events = poll.poll(None if timeout_s is None else max(0, int(timeout_s * 1000)))
    return [by_descriptor[descriptor] for descriptor, _ in events]


def _await_close(sock: socket.socket, timeout_s: float) -> None:
    # By the kernel's state, not by reading: reads may have been stopped.
    deadline = time.monotonic() + timeout_s
    with contextlib.suppress(OSError):
        while sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == _TCP_ESTABLISHED:
            if time.monotonic() > deadline:
                return
            time.sleep(_CLOSE_POLL_S)


def _set_up_tcp(sock: socket.socket) -> None:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    # Who only reads learns so that the other host has gone without a word: after 5 + 5 x 2 s, the links' stall timeout.
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 5)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 2)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 5)


class InputOrEnd:
    """Waits for input of one transport, and is woken by the end of another, but not by the input of that."""

    def __init__(self, reads: Transport, ends: Transport) -> None:
        self._descriptor = reads.fileno()
        self._poll = select.poll()
        self._poll.register(self._descriptor, select.POLLIN)
        self._poll.register(ends.fileno(), select.POLLRDHUP)

    def wait(self, timeout_s: float) -> bool:
        """Whether there is input (or its end); False when the other has ended, or after the timeout."""
        return any(descriptor == self._descriptor for descriptor, _ in self._poll.poll(timeout_s * 1000))


def set_timeout(sock: socket.socket, option: int, timeout_s: float) -> None:
    """Make a read (SO_RCVTIMEO) or write (SO_SNDTIMEO) that moves no byte for `timeout_s` fail (EAGAIN); 0: never."""
    seconds = int(timeout_s)
    sock.setsockopt(socket.SOL_SOCKET, option, struct.pack("ll", seconds, int((timeout_s - seconds) * 1e6)))
