"""QEMU's main channel, forwarded byte for byte, one direction per link.

Forward: what QEMU writes becomes BYTES frames; its end of stream becomes END. Backward: BYTES are written to QEMU,
END closes QEMU's reading side and leaves the other direction open (half-close). A link that is cut never looks like
an END.
"""

from collections.abc import Callable

from pipeline.errors import WireError
from pipeline.memory.pages import PageBatch
from pipeline.wire.frames import FrameKind
from pipeline.wire.links import LinkSender
from pipeline.wire.sockets import SocketTransport, poll_readable

#: Most bytes of the main channel in one frame.
CHUNK_BYTES = 128 << 10
_IDLE_CHECK_S = 1.0

#: Looks at the bytes before they are forwarded and returns those that may go now; raises `WireError` to refuse the
#: stream.
Inspect = Callable[[bytes], bytes]


def forward(qemu: SocketTransport, link: LinkSender, inspect: Inspect | None = None) -> None:
    """Send what QEMU writes until its end of stream; raises `LinkError` or `WireError`."""
    while True:
        ready = poll_readable((qemu, link.transport), _IDLE_CHECK_S)
        if link.transport in ready:
            link.take_acknowledgements()
        if qemu in ready:
            data = qemu.read_some(CHUNK_BYTES)
            if not data:
                link.finish()
                return
            if inspect is not None:
                data = inspect(data)
            if data:
                link.send_plain(FrameKind.BYTES, data)
        link.check_stall()


class StreamSink:
    """Writes one direction of the main channel into QEMU."""

    def __init__(self, open_qemu: Callable[[], SocketTransport]) -> None:
        self._open_qemu = open_qemu
        self._qemu: SocketTransport | None = None

    def verbatim(self, payload: memoryview) -> None:
        """Write the bytes; the first ones open QEMU's side."""
        if self._qemu is None:
            self._qemu = self._open_qemu()
        self._qemu.write((payload,))

    def finish(self) -> None:
        """The stream ended well: QEMU reads an end of file. A QEMU that has closed already does not mind."""
        if self._qemu is not None:
            self._qemu.shutdown_write()

    def place(self, batch: PageBatch, tag: int) -> None:
        """The main channel carries bytes only."""
        raise WireError("pages arrived on the main channel")

    def barrier(self, tag: int) -> None:
        """The main channel carries bytes only."""
        raise WireError("a barrier arrived on the main channel")

    def extent(self, offset_bytes: int, digest: memoryview) -> None:
        """The main channel carries bytes only."""
        raise WireError("an image's extent arrived on the main channel")
