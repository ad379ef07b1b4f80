"""The gateway a source QEMU migrates into: `migrate unix:PATH`.

QEMU opens its main channel and N multifd channels in no order that could be relied on, so every connection is
classified by its first bytes. Multifd connections are handed to workers, our copy closed; the main channel is
forwarded here. Two links carry it, one each way, opened before anything else so that the destination knows the
session.

A session that fails is cut at the main channel only. What multifd channels then still come are taken and read to their
end until the gateway is closed, or QEMU might wait for them for ever (see `drained`).

Refused, with what to set instead: TLS of QEMU's own, multifd compression (by the worker, at the first packet), a stream
without return-path, postcopy together with multifd, COLO, more channels than agreed. The destination is told the reason
over the return link, so that its user reads it, too.
"""

import contextlib
import logging
import os
import socket
import threading
import time
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from pipeline.codecs.table import codec_for
from pipeline.control import listen_unix, peer_uid
from pipeline.errors import KuakaError, LinkCut, MigrationError, WireError
from pipeline.jobs import MultifdSourceJob
from pipeline.qemu.drained import Drained
from pipeline.qemu.main_stream import CHUNK_BYTES, Parting, farewell, forward
from pipeline.qemu.multifd import INIT_BYTES, MAGIC, parse_init
from pipeline.qemu.return_sink import ReturnSink
from pipeline.qemu.stream_checks import OutgoingWatch
from pipeline.session import Session
from pipeline.shard import ShardCounters, receive_all
from pipeline.wire.handshake import Role
from pipeline.wire.links import LinkReceiver, LinkSender
from pipeline.wire.opening import LinkTerms, open_link
from pipeline.wire.sockets import SocketTransport
from pipeline.wire.window import Window
from pipeline.worker_pool import WorkerPool

_MULTIFD_MAGIC = MAGIC.to_bytes(4, "big")
_TLS_HANDSHAKE = 0x16
_MAGIC_BYTES = 4
_PEEK_AGAIN_S = 0.02
#: QEMU writes at once on what it opens; a connection that says nothing is a postcopy-preempt channel, or no QEMU's.
_FIRST_BYTES_TIMEOUT_S = 10.0

_log = logging.getLogger(__name__)


class SourceGateway:
    """Serves one migration of one source QEMU; `session` says how it went."""

    def __init__(
        self,
        socket_path: Path,
        terms: LinkTerms,
        session: Session,
        pool: WorkerPool,
        socket_uid: int | None = None,
        *,
        holds_switchover: bool = False,
    ) -> None:
        """`terms` are the main link's; `socket_uid` is the user QEMU runs as, if not ours. Raises `KuakaError`.

        `holds_switchover`: keep SWITCHOVER_ACK from the source QEMU until `let_switch_over`.
        """
        self.session = session
        self.socket_path = socket_path
        self._terms = terms
        self._pool = pool
        self._allowed_uids: Collection[int] = {0, os.getuid()} | ({socket_uid} if socket_uid is not None else set())
        self._watch = OutgoingWatch()
        self._return_sink = ReturnSink(self._await_main, self._watch.returned, holds=holds_switchover)
        self._lock = threading.Lock()
        self._closed = False
        #: Connections that have not said what they are.
        self._undecided: set[SocketTransport] = set()
        self._channels_come = 0
        self._main: SocketTransport | None = None
        #: Set once the main channel is here, or never will be.
        self._main_decided = threading.Event()
        self._links_lock = threading.Lock()
        self._sending: LinkSender | None = None
        self._links_error: KuakaError | None = None
        self._returning: threading.Thread | None = None
        self._listener = listen_unix(socket_path, socket.SOCK_STREAM, terms.channels + 2, socket_uid)
        session.hold(self)
        threading.Thread(target=self._accept, name="source gateway", daemon=True).start()

    @property
    def channels_seen(self) -> int:
        """How many multifd channels the source QEMU has opened; none means that nothing is accelerated."""
        return self._watch.channels_seen

    def await_channels(self, timeout_s: float) -> None:
        """After a failure: wait until QEMU has opened its channels, where it has begun to; it must find us there."""
        deadline = time.monotonic() + timeout_s
        began = self._main is not None or self._channels_come > 0 or bool(self._undecided)
        while began and self._channels_come < self._terms.channels and time.monotonic() < deadline:
            time.sleep(_PEEK_AGAIN_S)

    def let_switch_over(self) -> None:
        """Let the source QEMU stop its guest as soon as it can. Raises `LinkError` when it has gone."""
        self._return_sink.let_switch_over()

    def abort(self) -> None:
        """The session has failed: nobody needs to wait for the main channel."""
        self._main_decided.set()

    def close(self) -> None:
        """Stop listening, remove the socket and let go of what has not become part of the migration."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            undecided = list(self._undecided)
        self._main_decided.set()
        self.socket_path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for qemu in undecided:
            qemu.abort()

    def _accept(self) -> None:
        while True:
            try:
                sock, _address = self._listener.accept()
            except OSError:
                return
            if (uid := peer_uid(sock)) not in self._allowed_uids:
                _log.warning("user %d may not connect to %s: --socket-user names who may", uid, self.socket_path)
                sock.close()
                continue
            qemu = SocketTransport(sock, "the source QEMU's connection")
            with self._lock:
                if self._closed or len(self._undecided) > self._terms.channels + 1:
                    qemu.close()
                    continue
                self._undecided.add(qemu)
            threading.Thread(target=self._serve, args=(sock, qemu), name="source connection", daemon=True).start()

    def _serve(self, sock: socket.socket, qemu: SocketTransport) -> None:
        try:
            magic = self._first_bytes(sock, qemu)
            with self._lock:
                self._undecided.discard(qemu)
            if magic == _MULTIFD_MAGIC:
                self._serve_channel(sock, qemu)
            elif magic == b"QEVM":
                self.session.hold(qemu)
                self._serve_main(qemu)
            elif magic[:1] == bytes([_TLS_HANDSHAKE]):
                raise MigrationError(
                    "the source QEMU encrypts its migration stream: unset tls-creds, kuaka encrypts between the hosts"
                )
            elif magic:
                raise MigrationError(
                    f"a connection to {self.socket_path} starts with {magic.hex()}: not a QEMU migration"
                )
        except KuakaError as error:
            self._refuse(error)
        finally:
            qemu.close()

    def _first_bytes(self, sock: socket.socket, qemu: SocketTransport) -> bytes:
        """Peek at what the connection starts with; nothing where it said nothing."""
        deadline = time.monotonic() + _FIRST_BYTES_TIMEOUT_S
        try:
            qemu.set_read_timeout(_FIRST_BYTES_TIMEOUT_S)
            magic = sock.recv(_MAGIC_BYTES, socket.MSG_PEEK)
            # A peek does not wait for all bytes, and QEMU writes its four at once.
            while 0 < len(magic) < _MAGIC_BYTES and time.monotonic() < deadline and not self._closed:
                time.sleep(_PEEK_AGAIN_S)
                magic = sock.recv(_MAGIC_BYTES, socket.MSG_PEEK)
            qemu.set_read_timeout(0)
        except BlockingIOError:
            magic = b""
            _log.warning(
                "a connection to %s said nothing and was closed: if it was QEMU's, unset postcopy-preempt",
                self.socket_path,
            )
        except OSError:
            magic = b""
        return magic if len(magic) == _MAGIC_BYTES else b""

    def _serve_channel(self, sock: socket.socket, qemu: SocketTransport) -> None:
        self._channels_come += 1
        try:
            if self.session.error is None:
                self._hand_over(sock, qemu)
                return
        except KuakaError as error:
            self._refuse(error)
        unwanted = Drained(qemu)
        unwanted.abort()
        unwanted.close()

    def _hand_over(self, sock: socket.socket, qemu: SocketTransport) -> None:
        data = bytearray(INIT_BYTES)
        if not qemu.read_exact(memoryview(data)):
            raise WireError("the source QEMU ended a multifd channel before its init")
        channel = parse_init(data, self._terms.channels).channel
        self._watch.channel_opened(channel)
        self._open_links()
        terms = replace(self._terms, role=Role.CHANNEL, channel=channel)
        part = f"channel {channel}"
        self.session.start_part(part)
        try:
            job = MultifdSourceJob(terms, data.hex())
            counters = self._pool.submit(job, sock.detach(), lambda error: self.session.end_part(part, error))
        except KuakaError as error:
            self.session.end_part(part, error)
            raise
        self.session.count(counters)

    def _serve_main(self, qemu: SocketTransport) -> None:
        with self._lock:
            if self._main is not None:
                raise MigrationError("the source QEMU opened a second main channel")
            self._main = qemu
        self.session.start_part("main")
        error: KuakaError | str | None = "the main channel's thread ended unexpectedly"
        counters = ShardCounters()
        self.session.count(counters)
        try:
            link = self._open_links()
            self._main_decided.set()
            forward(qemu, link, self._watch)
            counters.wire_bytes = link.wire_bytes
            self.session.complete()
            error = None
        except KuakaError as failure:
            error = failure
        finally:
            self.session.end_part("main", error)
            if self._returning is not None:
                self._returning.join()
            if self._sending is not None:
                self._sending.close()

    def _serve_return(self, link: LinkReceiver) -> None:
        error: KuakaError | str | None = "the return path's thread ended unexpectedly"
        try:
            receive_all(link, self._return_sink, ShardCounters())
            error = None
        except KuakaError as failure:
            error = failure
        finally:
            farewell(link, self.session, error)
            link.close()
            self.session.end_part("return path", error)

    def _await_main(self) -> SocketTransport:
        self._main_decided.wait()
        if self._main is None:
            raise LinkCut("the session ended before the source QEMU's main channel came")
        return self._main

    def _refuse(self, error: KuakaError) -> None:
        """Fail the session, having seen to it that the destination can be told why."""
        if self.session.ended:
            return
        with contextlib.suppress(KuakaError):
            self._open_links()
        self.session.fail(str(error))
        if self._main is None and self._sending is not None:
            self._sending.close()

    def _open_links(self) -> LinkSender:
        with self._links_lock:
            if self._links_error is not None:
                raise self._links_error
            if self._sending is None:
                try:
                    self._sending = self._open_both()
                except KuakaError as error:
                    self._links_error = error
                    raise
            return self._sending

    def _open_both(self) -> LinkSender:
        terms = self._terms
        sending, _ = open_link(replace(terms, role=Role.MAIN, channel=0))
        try:
            back, _ = open_link(replace(terms, role=Role.RETURN, channel=0))
        except BaseException:
            sending.close()
            raise
        returning = LinkReceiver(back, codec_for(terms.codec), terms.peer)
        self.session.start_part("return path")
        self.session.hold(sending)
        self.session.hold(Parting(returning, self.session))
        self._returning = threading.Thread(
            target=self._serve_return, args=(returning,), name="return path", daemon=True
        )
        self._returning.start()
        window = Window(2 * CHUNK_BYTES, terms.downtime_limit_ns)
        return LinkSender(sending, window, terms.peer, stall_timeout_s=terms.stall_timeout_s, pacer=terms.pacer())
