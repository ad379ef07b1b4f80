"""The one TCP port of a host: every link of every session arrives here and is routed by its preamble.

One port is what an operator opens in a firewall. Each connection gets a thread until its session has taken it, so
that one that says nothing keeps nobody waiting; how many may be undecided at once is bounded.
"""

import contextlib
import ipaddress
import socket
import threading
from collections.abc import Callable

from pipeline.errors import KuakaError, LinkError, UsageError, WireError
from pipeline.wire.handshake import Preamble
from pipeline.wire.opening import read_preamble

_BACKLOG = 512
#: Connections whose preamble has not been read yet.
_MAX_UNDECIDED = 1024

Route = Callable[[socket.socket, Preamble], None]


class LinkPort:
    """A listening socket and its accept loop; `route` takes each connection over, on a thread of its own."""

    def __init__(self, address: str, port: int, route: Route) -> None:
        """Listen at `address`, port 0 for any; raises `UsageError`."""
        try:
            family = socket.AF_INET6 if ipaddress.ip_address(address).version == 6 else socket.AF_INET
        except ValueError:
            family = socket.AF_INET
        try:
            self._listener = socket.create_server((address, port), family=family, backlog=_BACKLOG)
        except OSError as error:
            # The socket module adds the address once more.
            reason = (error.strerror or str(error)).partition(" (while ")[0]
            raise UsageError(
                f"cannot listen at {address}:{port}: {reason}: give an address of this host and a free port"
            ) from None
        self._route = route
        self._undecided = threading.BoundedSemaphore(_MAX_UNDECIDED)
        self.address = address
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, name="link port", daemon=True).start()

    def close(self) -> None:
        """Stop listening; links already routed go on."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                sock, _address = self._listener.accept()
            except OSError:
                return
            self._undecided.acquire()
            threading.Thread(target=self._decide, args=(sock,), name="link arriving", daemon=True).start()

    def _decide(self, sock: socket.socket) -> None:
        try:
            preamble = read_preamble(sock)
        except (LinkError, WireError):
            sock.close()
            return
        finally:
            self._undecided.release()
        try:
            self._route(sock, preamble)
        except KuakaError:
            # The session has recorded why; the opener was told by whoever raised.
            sock.close()
