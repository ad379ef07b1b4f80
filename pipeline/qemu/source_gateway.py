"""The gateway a source QEMU migrates into: `migrate unix:PATH`.

QEMU opens its main channel and N multifd channels in no order that could be relied on, so every connection is
classified by its first bytes. Multifd connections are handed to workers, our copy closed; the main channel is
forwarded here. Two links carry it, one each way, opened before anything else so that the destination knows the
session.

Refused, with what to set instead: TLS of QEMU's own, multifd compression (by the worker, at the first packet), a stream
without return-path, postcopy together with multifd, COLO.
"""

import os
import socket
import threading
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from pipeline.codecs.codec import codec_for
from pipeline.control import listen_unix, peer_uid
from pipeline.errors import KuakaError, MigrationError, WireError
from pipeline.jobs import MultifdSourceJob
from pipeline.qemu.main_channel import HeadState, MainChannelHead
from pipeline.qemu.main_stream import CHUNK_BYTES, StreamSink, forward
from pipeline.qemu.multifd import INIT_BYTES, MAGIC, parse_init
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
_SHORTEST_MAGIC_BYTES = 4


class SourceGateway:
    """Serves one migration of one source QEMU; `session` says how it went."""

    def __init__(
        self,
        socket_path: Path,
        terms: LinkTerms,
        session: Session,
        pool: WorkerPool,
        socket_uid: int | None = None,
    ) -> None:
        """`terms` are the main link's; `socket_uid` is the user QEMU runs as, if not ours. Raises `KuakaError`."""
        self.session = session
        self.socket_path = socket_path
        self._terms = terms
        self._pool = pool
        self._allowed_uids: Collection[int] = {0, os.getuid()} | ({socket_uid} if socket_uid is not None else set())
        self._listener = listen_unix(socket_path, socket.SOCK_STREAM, terms.channels + 2, socket_uid)
        self._lock = threading.Lock()
        self._links: tuple[LinkSender, LinkReceiver] | None = None
        self._main_seen = False
        self._channels_seen: set[int] = set()
        self._head = MainChannelHead()
        self._held_back = b""
        session.hold(self)
        threading.Thread(target=self._accept, name="source gateway", daemon=True).start()

    def abort(self) -> None:
        """Stop listening; called by the session when it fails."""
        self.close()

    def close(self) -> None:
        """Stop listening and remove the socket."""
        self.socket_path.unlink(missing_ok=True)
        try:
            self._listener.shutdown(socket.SHUT_RDWR)
        except OSError:
            return
        finally:
            self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                sock, _address = self._listener.accept()
            except OSError:
                return
            if peer_uid(sock) not in self._allowed_uids:
                sock.close()
                continue
            threading.Thread(target=self._classify, args=(sock,), name="source connection", daemon=True).start()

    def _classify(self, sock: socket.socket) -> None:
        qemu = SocketTransport(sock, "the source QEMU's connection")
        self.session.hold(qemu)
        try:
            magic = sock.recv(_SHORTEST_MAGIC_BYTES, socket.MSG_PEEK | socket.MSG_WAITALL)
            if magic == b"QEVM":
                self._serve_main(qemu)
            elif magic == _MULTIFD_MAGIC:
                self._hand_over(sock)
            elif magic[:1] == bytes([_TLS_HANDSHAKE]):
                raise MigrationError(
                    "the source QEMU encrypts its migration stream: unset tls-creds, kuaka encrypts between the hosts"
                )
            elif magic:
                raise MigrationError(
                    f"a connection to {self.socket_path} starts with {magic.hex()}: not a QEMU migration"
                )
        except OSError as error:
            self.session.fail(f"the source QEMU's connection broke: {error.strerror}")
        except KuakaError as error:
            self.session.fail(str(error))
        finally:
            qemu.close()

    def _hand_over(self, sock: socket.socket) -> None:
        data = bytearray(INIT_BYTES)
        if sock.recv_into(data, 0, socket.MSG_WAITALL) != INIT_BYTES:
            raise WireError("the source QEMU ended a multifd channel inside its init")
        channel = parse_init(data, self._terms.channels).channel
        with self._lock:
            if channel in self._channels_seen:
                raise WireError(f"the source QEMU opened multifd channel {channel} twice")
            self._channels_seen.add(channel)
        self._refuse_postcopy()
        self._open_links()
        terms = replace(self._terms, role=Role.CHANNEL, channel=channel)
        part = f"channel {channel}"
        self.session.start_part(part)
        job = MultifdSourceJob(terms, data.hex())
        counters = self._pool.submit(job, sock.detach(), lambda error: self.session.end_part(part, error))
        self.session.count(counters)

    def _serve_main(self, qemu: SocketTransport) -> None:
        with self._lock:
            if self._main_seen:
                raise MigrationError("the source QEMU opened a second main channel")
            self._main_seen = True
        sender, receiver = self._open_links()
        self.session.start_part("main")
        self.session.start_part("return path")
        returning = threading.Thread(target=self._serve_return, args=(qemu, receiver), name="return path", daemon=True)
        returning.start()
        error: str | None = None
        counters = ShardCounters()
        self.session.count(counters)
        try:
            forward(qemu, sender, self._inspect)
            counters.wire_bytes = sender.wire_bytes
            self.session.complete()
        except KuakaError as failure:
            error = str(failure)
        finally:
            sender.close()
            self.session.end_part("main", error)
        returning.join()

    def _serve_return(self, qemu: SocketTransport, link: LinkReceiver) -> None:
        error: str | None = None
        try:
            receive_all(link, StreamSink(lambda: qemu), ShardCounters())
        except KuakaError as failure:
            error = str(failure)
        finally:
            link.close()
            self.session.end_part("return path", error)

    def _inspect(self, data: bytes) -> bytes:
        """Hold the head of the stream back until it has said whether it can be carried."""
        if self._head.state is HeadState.DONE:
            return data
        self._held_back += data
        if self._head.feed(data) is HeadState.READING:
            return b""
        if not self._head.return_path:
            raise MigrationError(
                "the source QEMU migrates without return-path: set the capability return-path on both QEMUs,"
                " without it the source cannot know whether the destination has everything"
            )
        if self._head.colo:
            raise MigrationError(
                "the source QEMU migrates with COLO: kuaka does not carry it, unset the capability x-colo"
            )
        self._refuse_postcopy()
        data, self._held_back = self._held_back, b""
        return data

    def _refuse_postcopy(self) -> None:
        if self._head.postcopy and self._channels_seen:
            raise MigrationError(
                "the source QEMU has postcopy-ram and multifd on together: unset one of the capabilities"
            )

    def _open_links(self) -> tuple[LinkSender, LinkReceiver]:
        with self._lock:
            if self._links is None:
                terms = self._terms
                sending = open_link(replace(terms, role=Role.MAIN, channel=0))
                self.session.hold(sending)
                returning = open_link(replace(terms, role=Role.RETURN, channel=0))
                self.session.hold(returning)
                window = Window(2 * CHUNK_BYTES, terms.downtime_limit_ns)
                self._links = (
                    LinkSender(sending, window, terms.peer, stall_timeout_s=terms.stall_timeout_s, pacer=terms.pacer()),
                    LinkReceiver(returning, codec_for(terms.codec), terms.peer),
                )
            return self._links
