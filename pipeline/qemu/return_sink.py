"""The return path into the source QEMU: every byte as it came, but SWITCHOVER_ACK only when it is let go.

A source QEMU with the capability switchover-ack copies memory round after round, its guest running, until the ACK is
there. So to hold the message back is to hold the stop back, and nothing else: the other messages (PONG, the final SHUT)
do not wait for it and mean the same before it and after it.

Bytes go on as whole messages, so that one that is let go from another thread never lands inside another.
"""

import threading
from collections.abc import Callable

from pipeline.qemu.main_stream import StreamSink
from pipeline.qemu.return_path import ReturnPath
from pipeline.wire.sockets import SocketTransport


class ReturnSink(StreamSink):
    """Writes the return path; `let_switch_over` may be called from any thread, the rest from one."""

    def __init__(self, open_qemu: Callable[[], SocketTransport], path: ReturnPath, *, holds: bool) -> None:
        """`holds`: keep SWITCHOVER_ACK back until told otherwise."""
        super().__init__(open_qemu)
        self._path = path
        self._holds = holds
        self._held = b""
        self._lock = threading.Lock()

    def verbatim(self, payload: memoryview) -> None:
        """Write the messages that these bytes complete. Raises `WireError` for what is none."""
        with self._lock:
            going = b""
            for message in self._path.feed(bytes(payload)):
                if self._holds and message.is_switchover_ack:
                    self._held = message.encoded
                else:
                    going += message.encoded
            self._write(going)

    def finish(self) -> None:
        """The destination has ended its direction; half a message goes on as it is, QEMU judges it."""
        with self._lock:
            self._write(self._path.rest)
            super().finish()

    def let_switch_over(self) -> None:
        """Send the ACK on, now or when it comes. Raises `LinkError` when QEMU has gone."""
        with self._lock:
            self._holds = False
            held, self._held = self._held, b""
            self._write(held)

    def _write(self, data: bytes) -> None:
        if data:
            super().verbatim(memoryview(data))
