"""A channel that is not wanted any more is read to its end, for as long as it may take."""

import socket

from pipeline.qemu.drained import Drained
from pipeline.wire.sockets import SocketTransport
from tests.qemu.fake_qemu import LIMIT_S, read_all


def pair() -> tuple[socket.socket, SocketTransport]:
    qemu, ours = socket.socketpair()
    qemu.settimeout(LIMIT_S)
    return qemu, SocketTransport(ours, "the channel")


def test_one_that_ended_well_is_released_at_once() -> None:
    qemu, ours = pair()
    with qemu:
        Drained(ours, LIMIT_S).close()
        assert read_all(qemu) == b""


def test_what_an_unwanted_one_has_sent_before_its_end_is_taken() -> None:
    qemu, ours = pair()
    channel = Drained(ours, LIMIT_S)
    channel.abort()
    channel.abort()
    with qemu:
        qemu.sendall(bytes(1 << 16))
        qemu.shutdown(socket.SHUT_WR)
        channel.close()
        assert read_all(qemu) == b""
    assert ours.fileno() == -1


def test_one_that_does_not_end_is_cut() -> None:
    qemu, ours = pair()
    channel = Drained(ours, 0.05)
    with qemu:
        channel.abort()
        channel.close()
        assert read_all(qemu) == b""
    assert ours.fileno() == -1
