"""The main channel over a link: byte for byte, half-closed as QEMU does, and never ended by a cut."""

import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from pipeline.codecs.codec import CodecId
from pipeline.codecs.table import codec_for
from pipeline.errors import LinkCut, LinkError, MigrationError, WireError
from pipeline.qemu.main_stream import CHUNK_BYTES, Parting, StreamSink, farewell, forward
from pipeline.session import Session
from pipeline.shard import ShardCounters, receive_all
from pipeline.wire.links import LinkReceiver, LinkSender
from pipeline.wire.sockets import SocketTransport
from pipeline.wire.window import Window

LIMIT_S = 10.0


class Watch:
    """Lets everything pass; remembers that the end was asked about."""

    def __init__(self, refuses: str = "") -> None:
        self.refuses = refuses
        self.ended = False

    def passing(self, data: bytes) -> bytes:
        return data

    def idle(self) -> None:
        return

    def ending(self) -> None:
        self.ended = True
        if self.refuses:
            raise MigrationError(self.refuses)


class Wire:
    """A QEMU on each side of a link: `qemu_in` is written by a test, `qemu_out` is read by it."""

    def __init__(self) -> None:
        self.qemu_in, near = socket.socketpair()
        self.qemu_out, far = socket.socketpair()
        self.sending, self.receiving = (SocketTransport(sock, "link", LIMIT_S) for sock in tcp_pair())
        self.near, self.far = SocketTransport(near, "near"), SocketTransport(far, "the source QEMU's connection")
        self.sender = LinkSender(self.sending, Window(2 * CHUNK_BYTES, 10**8), "there", stall_timeout_s=LIMIT_S)
        self.receiver = LinkReceiver(self.receiving, codec_for(CodecId.NONE), "here")
        self.pool = ThreadPoolExecutor(3)
        for sock in (self.qemu_in, self.qemu_out):
            sock.settimeout(LIMIT_S)

    def run(self, watch: Watch) -> None:
        self.sent = self.pool.submit(forward, self.near, self.sender, watch)
        self.received = self.pool.submit(receive_all, self.receiver, StreamSink(lambda: self.far), ShardCounters())

    def close(self) -> None:
        for transport in (self.sending, self.receiving, self.near, self.far):
            transport.abort()
        self.pool.shutdown()
        for end in (self.sending, self.receiving, self.near, self.far, self.qemu_in, self.qemu_out):
            end.close()


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = socket.create_connection(listener.getsockname())
        return near, listener.accept()[0]


@pytest.fixture
def wire() -> Iterator[Wire]:
    made = Wire()
    yield made
    made.close()


def test_bytes_pass_unchanged_and_the_end_closes_one_direction_only(wire: Wire) -> None:
    wire.run(watch := Watch())
    data = bytes(range(256)) * 2000
    threading.Thread(target=lambda: (wire.qemu_in.sendall(data), wire.qemu_in.shutdown(socket.SHUT_WR))).start()
    got = b""
    while more := wire.qemu_out.recv(1 << 16):
        got += more
    assert got == data
    wire.sent.result(LIMIT_S)
    wire.received.result(LIMIT_S)
    assert watch.ended
    wire.qemu_out.sendall(b"the other way")
    assert wire.far.read_some(100) == b"the other way"


def test_end_that_is_refused_never_reaches_the_other_side_as_an_end(wire: Wire) -> None:
    wire.run(Watch("not yet"))
    wire.qemu_in.sendall(b"some")
    assert wire.qemu_out.recv(10) == b"some"
    wire.qemu_in.close()
    with pytest.raises(MigrationError, match="not yet"):
        wire.sent.result(LIMIT_S)
    wire.sender.close()
    # The kernel says "reset" for an acknowledgement that crossed with the close.
    with pytest.raises(LinkError, match=r"was cut before the transfer was finished|Connection reset"):
        wire.received.result(LIMIT_S)
    wire.qemu_out.settimeout(0.1)
    with pytest.raises(TimeoutError):
        wire.qemu_out.recv(1)


def test_session_that_fails_says_why_at_the_other_end(wire: Wire) -> None:
    wire.run(Watch())
    session = Session("ab" * 16, lambda _session: None)
    session.hold(Parting(wire.receiver, session))
    session.fail("the disk is full")
    with pytest.raises(LinkCut) as cut:
        wire.received.result(LIMIT_S)
    leaving = wire.pool.submit(farewell, wire.receiver, session, cut.value)
    with pytest.raises(LinkError, match="there gave up: the disk is full"):
        wire.sent.result(LIMIT_S)
    wire.sender.close()
    leaving.result(LIMIT_S)


def test_reason_that_comes_after_the_cut_is_still_told(wire: Wire) -> None:
    wire.run(Watch())
    session = Session("ab" * 16, lambda _session: None)
    session.start_part("main")
    leaving = wire.pool.submit(farewell, wire.receiver, session, LinkCut("was cut"))
    session.fail("the disk is full")
    with pytest.raises(LinkError, match="there gave up: the disk is full"):
        wire.sent.result(LIMIT_S)
    wire.sender.close()
    leaving.result(LIMIT_S)


def test_qemu_that_is_gone_is_an_end_and_not_a_riddle(wire: Wire) -> None:
    wire.run(watch := Watch("the QEMU has gone"))
    wire.near.abort()
    with pytest.raises(MigrationError, match="the QEMU has gone"):
        wire.sent.result(LIMIT_S)
    assert watch.ended


def test_pages_do_not_belong_on_the_main_channel() -> None:
    sink = StreamSink(lambda: pytest.fail("nothing to open"))
    with pytest.raises(WireError):
        sink.barrier(0)
    with pytest.raises(WireError):
        sink.extent(0, memoryview(b""))
    sink.finish()
