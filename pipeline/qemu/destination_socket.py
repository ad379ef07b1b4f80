"""Connecting to a destination QEMU that waits at `migrate-incoming unix:PATH`."""

import os
import socket
from pathlib import Path

from pipeline.errors import LinkError
from pipeline.wire.sockets import SocketTransport, set_timeout

#: A QEMU whose backlog stays full for this long does not run its main loop.
_CONNECT_TIMEOUT_S = 5.0


def connect_destination(path: Path, name: str) -> SocketTransport:
    """One more connection to the QEMU at `path`, called `name` in messages; raises `LinkError`."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # The kernel's limit, not Python's: a connect that does not block fails at once when the backlog is full.
        set_timeout(sock, socket.SO_SNDTIMEO, _CONNECT_TIMEOUT_S)
        sock.connect(os.fspath(path))
        set_timeout(sock, socket.SO_SNDTIMEO, 0)
    except BlockingIOError:
        sock.close()
        raise LinkError(f"the destination QEMU takes no connection at {path}: it hangs") from None
    except OSError as error:
        sock.close()
        raise LinkError(
            f"the destination QEMU does not listen at {path}: {error.strerror or error};"
            " start it with -incoming defer and run migrate-incoming unix:PATH first"
        ) from None
    return SocketTransport(sock, name)
