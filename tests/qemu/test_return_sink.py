"""The return path into a source QEMU: all of it at once, but the ACK only when it is let go, never inside another."""

import socket
import threading
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import LinkError, WireError
from pipeline.qemu.return_path import ReturnPath
from pipeline.qemu.return_sink import ReturnSink
from pipeline.wire.sockets import SocketTransport
from tests.qemu.test_return_path import MESSAGES, PONG, SHUT, SWITCHOVER_ACK


class Qemu:
    """The socket of a source QEMU, and a sink that writes into it."""

    def __init__(self, *, holds: bool = True) -> None:
        near, self._far = socket.socketpair()
        self.path = ReturnPath()
        self.transport = SocketTransport(near, "the source QEMU's connection")
        self.sink = ReturnSink(lambda: self.transport, self.path, holds=holds)

    def feed(self, *pieces: bytes) -> None:
        for piece in pieces:
            self.sink.verbatim(memoryview(piece))

    @property
    def got(self) -> bytes:
        """What has arrived since it was last looked at."""
        try:
            return self._far.recv(1 << 20, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return b""

    def close(self) -> None:
        self.transport.close()
        self._far.close()


@pytest.fixture
def qemu() -> Iterator[Qemu]:
    made = Qemu()
    yield made
    made.close()


def test_ack_waits_until_it_is_let_go_and_nothing_else_does(qemu: Qemu) -> None:
    qemu.feed(SWITCHOVER_ACK + PONG)
    assert qemu.got == PONG
    qemu.feed(PONG)
    assert qemu.got == PONG
    qemu.sink.let_switch_over()
    assert qemu.got == SWITCHOVER_ACK
    qemu.feed(SHUT)
    assert qemu.got == SHUT
    assert qemu.path.confirmed is True


def test_ack_that_comes_after_it_was_let_go_does_not_wait(qemu: Qemu) -> None:
    qemu.sink.let_switch_over()
    assert qemu.got == b""
    qemu.feed(SWITCHOVER_ACK + PONG)
    assert qemu.got == SWITCHOVER_ACK + PONG
    qemu.sink.let_switch_over()
    assert qemu.got == b""


def test_ack_that_is_not_to_be_held_passes() -> None:
    qemu = Qemu(holds=False)
    qemu.feed(SWITCHOVER_ACK + PONG)
    assert qemu.got == SWITCHOVER_ACK + PONG
    qemu.close()


def test_ack_that_is_let_go_inside_another_message_goes_before_it(qemu: Qemu) -> None:
    qemu.feed(SWITCHOVER_ACK, PONG[:5])
    assert qemu.got == b""
    qemu.sink.let_switch_over()
    qemu.feed(PONG[5:])
    assert qemu.got == SWITCHOVER_ACK + PONG


def test_half_a_message_at_the_end_goes_on_as_it_is(qemu: Qemu) -> None:
    qemu.feed(SHUT, PONG[:5])
    assert qemu.got == SHUT
    qemu.sink.finish()
    assert qemu.got == PONG[:5]


def test_what_is_no_message_is_not_written(qemu: Qemu) -> None:
    with pytest.raises(WireError):
        qemu.feed(PONG + b"GET / HTTP/1.1")
    assert qemu.got == b""


def test_letting_go_says_when_qemu_has_gone(qemu: Qemu) -> None:
    qemu.feed(SWITCHOVER_ACK)
    qemu.transport.abort()
    with pytest.raises(LinkError, match="source QEMU"):
        qemu.sink.let_switch_over()


def test_letting_go_while_messages_pass_breaks_none() -> None:
    qemu = Qemu()
    stream = SWITCHOVER_ACK + PONG * 100
    letting = threading.Thread(target=qemu.sink.let_switch_over)
    for at in range(0, len(stream), 3):
        qemu.feed(stream[at : at + 3])
        if at == 300:
            letting.start()
    letting.join()
    got = [message.encoded for message in ReturnPath().feed(qemu.got)]
    assert sorted(got) == sorted([SWITCHOVER_ACK] + [PONG] * 100)
    qemu.close()


@given(MESSAGES, st.integers(1, 40), st.integers(0, 40))
def test_every_message_arrives_once_and_only_the_ack_out_of_order(messages: list[bytes], size: int, when: int) -> None:
    qemu = Qemu()
    messages = [message for at, message in enumerate(messages) if message not in messages[:at] or message[1] != 7]
    stream, got = b"".join(messages), b""
    for number, at in enumerate(range(0, len(stream), size)):
        if number == when:
            qemu.sink.let_switch_over()
        qemu.feed(stream[at : at + size])
        got += qemu.got
    held = SWITCHOVER_ACK in messages and SWITCHOVER_ACK not in [each.encoded for each in ReturnPath().feed(got)]
    qemu.sink.let_switch_over()
    got += qemu.got
    qemu.close()
    arrived = [message.encoded for message in ReturnPath().feed(got)]
    others = [message for message in messages if message != SWITCHOVER_ACK]
    assert [message for message in arrived if message != SWITCHOVER_ACK] == others
    assert sorted(arrived) == sorted(messages)
    assert not held or arrived[-1] == SWITCHOVER_ACK
