"""Who is at the other end of a unix socket: the kernel says, not the peer."""

import os
import socket
import struct

_CREDENTIALS = struct.Struct("3i")


def is_own_user(sock: socket.socket) -> bool:
    """Whether the connected peer runs as our user."""
    _pid, uid, _gid = _CREDENTIALS.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    return bool(uid == os.getuid())
