"""Control messages between a gateway and its workers: JSON over a unix SEQPACKET socket, at most one descriptor each.

SEQPACKET keeps message borders, and SCM_RIGHTS hands a QEMU's connection from the process that accepted it to the one
that serves it. The listening socket is 0600 and the peer's user is checked, so a message comes from kuaka itself.
"""

import array
import contextlib
import json
import os
import socket
import stat
import struct
import threading
from pathlib import Path
from typing import Any

from pipeline.errors import KuakaError

#: An image job with many extents is the longest message there is.
MAX_MESSAGE_BYTES = 1 << 17
_CREDENTIALS = struct.Struct("3i")


class ControlChannel:
    """One end of a control connection; sending is safe from several threads, receiving is for one."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._sending = threading.Lock()

    @classmethod
    def connect(cls, path: Path) -> "ControlChannel":
        """Connect to a worker's control socket; raises `KuakaError`."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            sock.connect(str(path))
        except OSError as error:
            sock.close()
            raise KuakaError(f"worker at {path} does not answer: {error.strerror}") from None
        return cls(sock)

    def send(self, fields: dict[str, Any], descriptor: int | None = None) -> None:
        """Send one message; raises `KuakaError` when the other end has gone."""
        data = json.dumps(fields, separators=(",", ":")).encode()
        if len(data) > MAX_MESSAGE_BYTES:
            raise KuakaError(f"control message of {len(data)} bytes, the limit is {MAX_MESSAGE_BYTES}")
        ancillary = []
        if descriptor is not None:
            ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [descriptor]))]
        try:
            with self._sending:
                self._sock.sendmsg([data], ancillary)
        except OSError as error:
            raise KuakaError(f"worker has gone: {error.strerror}") from None

    def receive(self) -> tuple[dict[str, Any], int | None] | None:
        """The next message and its descriptor, which the caller now owns; None when the other end has gone."""
        try:
            data, descriptors, _flags, _address = socket.recv_fds(self._sock, MAX_MESSAGE_BYTES, 1)
        except OSError:
            return None
        if not data:
            return None
        fields = json.loads(data)
        return fields, descriptors[0] if descriptors else None

    def close(self) -> None:
        """End the connection, waking a blocked `receive`."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        self._sock.close()


def listen_unix(path: Path, kind: socket.SocketKind, backlog: int, owner_uid: int | None = None) -> socket.socket:
    """A listening unix socket of mode 0600, owned by `owner_uid` where given. A dead socket in its place is replaced.

    The socket is made under another name and moved into place, so it never exists with a wider mode. Raises
    `KuakaError`, also for a path where something else is.
    """
    _require_free(path, kind)
    sock = socket.socket(socket.AF_UNIX, kind)
    making = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with contextlib.suppress(FileNotFoundError):
            making.unlink()
        _bind_private(sock, making)
        if owner_uid is not None:
            # Not through a link: the directory may be another user's.
            os.chown(making, owner_uid, -1, follow_symlinks=False)
        sock.listen(backlog)
        making.rename(path)
    except OSError as error:
        sock.close()
        with contextlib.suppress(OSError):
            making.unlink()
        raise KuakaError(
            f"cannot listen at {path}: {error.strerror or error}: its directory must exist and be writable"
        ) from None
    return sock


def _require_free(path: Path, kind: socket.SocketKind) -> None:
    """Raise `KuakaError` unless nothing is at `path`, or a socket that nobody listens at."""
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise KuakaError(f"cannot listen at {path}: there is something that is no socket: name another path")
        with socket.socket(socket.AF_UNIX, kind) as probe:
            probe.setblocking(False)
            probe.connect(str(path))
    except (FileNotFoundError, ConnectionRefusedError):
        return
    except OSError as error:
        # A backlog that is full is a listener's, too.
        if not isinstance(error, BlockingIOError):
            raise KuakaError(f"cannot listen at {path}: {error.strerror or error}") from None
    raise KuakaError(f"cannot listen at {path}: another process does: end it, or name another path")


def _bind_private(sock: socket.socket, path: Path) -> None:
    """Bind with mode 0600 from the first moment. The mask is the process's: other threads can only make less public."""
    mask = os.umask(0o177)
    try:
        sock.bind(str(path))
    finally:
        os.umask(mask)


def peer_uid(sock: socket.socket) -> int:
    """The user at the other end of a unix connection."""
    credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    uid: int = _CREDENTIALS.unpack(credentials)[1]
    return uid
