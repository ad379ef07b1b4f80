"""A source QEMU's multifd channel that is not wanted any more: read to its end instead of being cut.

QEMU's migration thread waits at each SYNC until every channel has sent it, and nobody wakes it for a channel that ended
in between: cut while channels are being set up, a QEMU 7.2 may stay in `cancelling` for ever (migration/multifd.c:
multifd_send_sync_main, multifd_send_thread). So only the main channel is cut. QEMU sees that between two rounds and
ends its channels itself; until then whatever it sends is thrown away.
"""

import contextlib
import threading

from pipeline.errors import LinkError
from pipeline.wire.sockets import Transport

#: A QEMU whose main channel was cut has ended its channels by then, or they are cut, too.
LINGER_S = 3.0
_AT_ONCE_BYTES = 1 << 20


class Drained:
    """One such channel: `abort` says that it is not wanted, `close` waits for its end and releases it."""

    def __init__(self, qemu: Transport, linger_s: float = LINGER_S) -> None:
        self._qemu = qemu
        self._cut = threading.Timer(linger_s, qemu.abort)
        self._cut.daemon = True
        self._once = threading.Lock()

    def abort(self) -> None:
        """From now on it has `linger_s` to end; from any thread, any number of times."""
        if self._once.acquire(blocking=False):
            self._cut.start()

    def close(self) -> None:
        """Release it; one that was aborted is read to its end first."""
        if self._once.locked():
            with contextlib.suppress(LinkError):
                while self._qemu.read_some(_AT_ONCE_BYTES):
                    pass
            self._cut.cancel()
        self._qemu.close()
