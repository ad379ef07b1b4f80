"""QEMU's main channel, forwarded byte for byte, one direction per link.

Forward: what QEMU writes becomes BYTES frames; its end of stream becomes END. Backward: BYTES are written to QEMU,
END closes QEMU's reading side and leaves the other direction open (half-close). A link that is cut never looks like
an END.
"""

from collections.abc import Callable

from pipeline.errors import KuakaError, LinkCut, WireError
from pipeline.memory.pages import PageBatch
from pipeline.qemu.stream_checks import StreamWatch
from pipeline.session import Session
from pipeline.wire.frames import FrameKind
from pipeline.wire.links import LinkReceiver, LinkSender
from pipeline.wire.sockets import SocketTransport, poll_readable

#: Most bytes of the main channel in one frame.
CHUNK_BYTES = 128 << 10
_IDLE_CHECK_S = 1.0


def forward(qemu: SocketTransport, link: LinkSender, watch: StreamWatch) -> None:
    """Send what QEMU writes until its end of stream; raises `LinkError`, or what `watch` objects to."""
    while True:
        ready = poll_readable((qemu, link.transport), _IDLE_CHECK_S)
        if link.transport in ready:
            link.take_acknowledgements()
        if qemu in ready:
            data = _read(qemu)
            if not data:
                watch.ending()
                link.finish()
                return
            if data := watch.passing(data):
                link.send_plain(FrameKind.BYTES, data)
        watch.idle()
        link.check_stall()


def _read(qemu: SocketTransport) -> bytes:
    try:
        return qemu.read_some(CHUNK_BYTES)
    except LinkCut:
        # A QEMU that has died: an end like any other, `watch` knows whether it was time.
        return b""


def farewell(link: LinkReceiver, session: Session, error: KuakaError | str | None) -> None:
    """Before a receiving link is closed: where all that was seen is a cut, tell the other end the session's reason."""
    if isinstance(error, LinkCut):
        session.note_cut(error)
        link.part(session.await_error())


class Parting:
    """Makes a session that fails end a receiving link with its reason, so that it reaches the other end's user, too."""

    def __init__(self, link: LinkReceiver, session: Session) -> None:
        self._link = link
        self._session = session

    def abort(self) -> None:
        """See `Cuttable`."""
        self._link.give_up(self._session.error or "the migration was given up")


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

    def place(self, batch: PageBatch, tag: int, checksum: int) -> None:
        """The main channel carries bytes only."""
        raise WireError("pages arrived on the main channel")

    def barrier(self, tag: int) -> None:
        """The main channel carries bytes only."""
        raise WireError("a barrier arrived on the main channel")

    def extent(self, offset_bytes: int, digest: memoryview) -> None:
        """The main channel carries bytes only."""
        raise WireError("an image's extent arrived on the main channel")
