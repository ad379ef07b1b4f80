"""The gateway in front of a destination QEMU that waits at `migrate-incoming unix:PATH`.

QEMU up to 7.2 takes its first connection for the main channel, later ones peek at the first bytes and block their
main loop until some are there. So the main channel is connected when its first bytes have arrived, and multifd
channels wait for that.
"""

import contextlib
import socket
import threading
from dataclasses import replace
from pathlib import Path

from pipeline.codecs.codec import CodecId
from pipeline.codecs.table import codec_for
from pipeline.errors import KuakaError, LinkError, WireError
from pipeline.jobs import MultifdSinkJob
from pipeline.qemu.main_stream import CHUNK_BYTES, StreamSink, forward
from pipeline.session import Session
from pipeline.shard import ShardCounters, receive_all
from pipeline.wire.handshake import Preamble, Role
from pipeline.wire.links import LinkReceiver, LinkSender
from pipeline.wire.opening import LinkTerms, accept_link
from pipeline.wire.sockets import SocketTransport
from pipeline.wire.window import Window
from pipeline.worker_pool import WorkerPool


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
        self._qemu: SocketTransport | None = None
        #: Set once QEMU's main channel is connected, or the session has failed.
        self._decided = threading.Event()
        self._lock = threading.Lock()
        self._arrived: set[tuple[Role, int]] = set()
        session.hold(self)

    def abort(self) -> None:
        """Wake links that wait for the main channel; called by the session when it fails."""
        self._decided.set()

    def close(self) -> None:
        """Release QEMU's main channel, once the session has ended."""
        if self._qemu is not None:
            self._qemu.close()

    def route(self, sock: socket.socket, preamble: Preamble) -> None:
        """Serve one link, on the calling thread while it is ours. Raises `KuakaError` for one that cannot be taken."""
        with self._lock:
            if (preamble.role, preamble.channel) in self._arrived:
                raise WireError(f"link {preamble.role.name} {preamble.channel} arrived twice")
            self._arrived.add((preamble.role, preamble.channel))
        if preamble.role is Role.MAIN:
            self._serve("main", sock, preamble)
        elif preamble.role is Role.RETURN:
            self._serve("return path", sock, preamble)
        elif preamble.role is Role.CHANNEL and preamble.channel < self._terms.channels:
            self._hand_over(sock, preamble)
        else:
            raise WireError(f"link {preamble.role.name} {preamble.channel} does not belong to a QEMU migration")

    def _serve(self, part: str, sock: socket.socket, preamble: Preamble) -> None:
        self.session.start_part(part)
        error: str | None = None
        try:
            terms = replace(self._terms, role=preamble.role, channel=preamble.channel)
            transport, hello = accept_link(sock, preamble, terms)
            with contextlib.closing(transport):
                self.session.hold(transport)
                if preamble.role is Role.MAIN:
                    link = LinkReceiver(transport, codec_for(CodecId(hello.codec)), terms.peer)
                    receive_all(link, StreamSink(self._open_qemu), ShardCounters())
                    self.session.complete()
                else:
                    window = Window(2 * CHUNK_BYTES, terms.downtime_limit_ns)
                    sender = LinkSender(transport, window, terms.peer, stall_timeout_s=terms.stall_timeout_s)
                    forward(self._await_qemu(), sender)
        except KuakaError as failure:
            error = str(failure)
        finally:
            self.session.end_part(part, error)

    def _hand_over(self, sock: socket.socket, preamble: Preamble) -> None:
        part = f"channel {preamble.channel}"
        self.session.start_part(part)
        try:
            self._await_qemu()
            terms = replace(self._terms, role=Role.CHANNEL, channel=preamble.channel)
            job = MultifdSinkJob(terms, str(self._qemu_socket), self._native_zero)
            counters = self._pool.submit(job, sock.detach(), lambda error: self.session.end_part(part, error))
            self.session.count(counters)
        except KuakaError as error:
            self.session.end_part(part, str(error))

    def _open_qemu(self) -> SocketTransport:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.connect(str(self._qemu_socket))
        except OSError as error:
            sock.close()
            raise LinkError(
                f"the destination QEMU does not listen at {self._qemu_socket}: {error.strerror};"
                " start it with -incoming defer and run migrate-incoming first"
            ) from None
        self._qemu = SocketTransport(sock, "the destination QEMU's main channel")
        self.session.hold(self._qemu)
        self._decided.set()
        return self._qemu

    def _await_qemu(self) -> SocketTransport:
        self._decided.wait()
        if self._qemu is None:
            raise LinkError(self.session.error or "the session ended before its main channel arrived")
        return self._qemu
