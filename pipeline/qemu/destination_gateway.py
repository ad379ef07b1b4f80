"""The gateway in front of a destination QEMU that waits at `migrate-incoming unix:PATH`.

QEMU up to 7.2 takes its first connection for the main channel, later ones peek at the first bytes and block their main
loop until some are there. So the main channel is connected when its first bytes have arrived, and multifd channels
wait for that. What the source's user should know goes back over the main link, and the source's reason to give up
comes over the return link.
"""

import contextlib
import socket
import threading
from dataclasses import replace
from pathlib import Path

from pipeline.codecs.codec import CodecId
from pipeline.codecs.table import codec_for
from pipeline.errors import KuakaError, LinkCut, WireError
from pipeline.jobs import MultifdSinkJob
from pipeline.qemu.destination_socket import connect_destination
from pipeline.qemu.main_stream import CHUNK_BYTES, Parting, StreamSink, farewell, forward
from pipeline.qemu.stream_checks import ReturnWatch
from pipeline.session import Session
from pipeline.shard import ShardCounters, receive_all
from pipeline.wire.handshake import Hello, Preamble, Role
from pipeline.wire.links import LinkReceiver, LinkSender
from pipeline.wire.opening import LinkTerms, accept_link
from pipeline.wire.sockets import SocketTransport, Transport
from pipeline.wire.window import Window
from pipeline.worker_pool import WorkerPool

#: How often the return link is looked at before there is anything to send over it.
_FAREWELL_CHECK_S = 0.1


class DestinationGateway:
    """Serves one migration into one destination QEMU; `route` gets the session's links as they arrive."""

    def __init__(
        self, qemu_socket: Path, terms: LinkTerms, session: Session, pool: WorkerPool, *, native_zero: bool
    ) -> None:
        """`native_zero`: QEMU is 9.0 or newer and takes zero pages as such."""
        self.session = session
        self._qemu_socket = qemu_socket
        self._terms = terms
        self._pool = pool
        self._native_zero = native_zero
        self._watch: ReturnWatch | None = None
        self._qemu: SocketTransport | None = None
        #: Set once QEMU's main channel is connected, or the session has failed.
        self._decided = threading.Event()
        self._lock = threading.Lock()
        self._arrived: set[tuple[Role, int]] = set()
        session.hold(self)

    @property
    def channels_seen(self) -> int:
        """How many multifd channels have come; none means that nothing is accelerated."""
        with self._lock:
            return sum(role is Role.CHANNEL for role, _channel in self._arrived)

    def abort(self) -> None:
        """Wake links that wait for the main channel; called by the session when it fails."""
        self._decided.set()

    def close(self) -> None:
        """Release QEMU's main channel, once the session has ended."""
        if self._qemu is not None:
            self._qemu.close()

    def route(self, sock: socket.socket, preamble: Preamble) -> None:
        """Serve one link, on the calling thread while it is ours. Raises `KuakaError` for one that does not belong."""
        if preamble.role is Role.MAIN:
            self._register(preamble)
            try:
                transport, hello = accept_link(sock, preamble, replace(self._terms, role=Role.MAIN, channel=0))
            except KuakaError as error:
                self.session.fail(str(error))
                return
            self._serve_main(transport, hello)
        elif preamble.role is Role.RETURN:
            self._register(preamble)
            self._serve_return(sock, preamble)
        elif preamble.role is Role.CHANNEL and preamble.channel < self._terms.channels:
            self._register(preamble)
            self._hand_over(sock, preamble)
        else:
            raise WireError(f"link {preamble.role.name} {preamble.channel} does not belong to a QEMU migration")

    def serve_accepted_main(self, transport: Transport, hello: Hello) -> None:
        """Serve the main link that someone else has accepted, on the calling thread."""
        self._register(Preamble(Role.MAIN, 0, bytes.fromhex(hello.session)))
        self._serve_main(transport, hello)

    def _register(self, preamble: Preamble) -> None:
        with self._lock:
            if (preamble.role, preamble.channel) in self._arrived:
                raise WireError(f"link {preamble.role.name} {preamble.channel} arrived twice")
            self._arrived.add((preamble.role, preamble.channel))

    def _serve_main(self, transport: Transport, hello: Hello) -> None:
        self.session.start_part("main")
        error: KuakaError | str | None = "the main channel's thread ended unexpectedly"
        link = LinkReceiver(transport, codec_for(CodecId(hello.codec)), self._terms.peer)
        self.session.hold(Parting(link, self.session))
        try:
            receive_all(link, StreamSink(self._open_qemu), ShardCounters())
            self.session.complete()
            error = None
        except KuakaError as failure:
            error = failure
        finally:
            farewell(link, self.session, error)
            link.close()
            self.session.end_part("main", error)

    def _serve_return(self, sock: socket.socket, preamble: Preamble) -> None:
        self.session.start_part("return path")
        error: KuakaError | str | None = "the return path's thread ended unexpectedly"
        try:
            terms = replace(self._terms, role=Role.RETURN, channel=0)
            transport, _hello = accept_link(sock, preamble, terms)
            with contextlib.closing(transport):
                self.session.hold(transport)
                window = Window(2 * CHUNK_BYTES, terms.downtime_limit_ns)
                sender = LinkSender(transport, window, terms.peer, stall_timeout_s=terms.stall_timeout_s)
                while not self._decided.wait(_FAREWELL_CHECK_S):
                    sender.take_acknowledgements()
                qemu, watch = self._await_qemu()
                forward(qemu, sender, watch)
            error = None
        except KuakaError as failure:
            error = failure
        finally:
            self.session.end_part("return path", error)

    def _hand_over(self, sock: socket.socket, preamble: Preamble) -> None:
        part = f"channel {preamble.channel}"
        self.session.start_part(part)
        with contextlib.closing(sock):
            try:
                _qemu, watch = self._await_qemu()
                watch.channel_opened()
                terms = replace(self._terms, role=Role.CHANNEL, channel=preamble.channel)
                job = MultifdSinkJob(terms, str(self._qemu_socket), self._native_zero)
                counters = self._pool.submit(job, sock.detach(), lambda error: self.session.end_part(part, error))
                self.session.count(counters)
            except KuakaError as error:
                self.session.end_part(part, error)

    def _open_qemu(self) -> SocketTransport:
        self._qemu = connect_destination(self._qemu_socket, "the destination QEMU's main channel")
        self._watch = ReturnWatch()
        self.session.hold(self._qemu)
        self._decided.set()
        return self._qemu

    def _await_qemu(self) -> tuple[SocketTransport, ReturnWatch]:
        self._decided.wait()
        if self._qemu is None or self._watch is None:
            raise LinkCut("the session ended before its main channel arrived")
        return self._qemu, self._watch
