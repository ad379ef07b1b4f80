"""Transports over real sockets: whole buffers both ways, every end in words, every wait with its limit."""

import socket
import ssl
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import LinkError
from pipeline.wire.certs import make_certificates
from pipeline.wire.sockets import SocketTransport, TlsTransport, Transport, poll_readable, remaining

Pair = tuple[Transport, Transport]
SHORT_S = 0.2


def unix_pair() -> tuple[socket.socket, socket.socket]:
    return socket.socketpair()


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = socket.create_connection(server.getsockname())
        return client, server.accept()[0]


@pytest.fixture(scope="module")
def contexts(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    directory: Path = tmp_path_factory.mktemp("certs")
    make_certificates(directory, ["localhost"], 1)
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    server.load_cert_chain(directory / "localhost.pem", directory / "localhost.key")
    client.load_verify_locations(directory / "ca.pem")
    server.minimum_version = client.minimum_version = ssl.TLSVersion.TLSv1_3
    return client, server


def tls_pair(contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> tuple[ssl.SSLSocket, ssl.SSLSocket]:
    one, other = tcp_pair()
    with ThreadPoolExecutor(1) as pool:
        accepted = pool.submit(contexts[1].wrap_socket, other, server_side=True)
        connected = contexts[0].wrap_socket(one, server_hostname="localhost")
        return connected, accepted.result(5)


@pytest.fixture(params=["unix", "tcp", "tls"])
def pair(request: pytest.FixtureRequest, contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> Iterator[Pair]:
    """Two connected transports; a write that moves nothing for `SHORT_S` fails."""
    ends: Pair
    if request.param == "tls":
        one, other = tls_pair(contexts)
        ends = TlsTransport(one, "one", SHORT_S), TlsTransport(other, "other", SHORT_S)
        # The session tickets of the server's handshake are read with its first bytes, as the Accept is on a link.
        ends[1].write((b"!",))
        assert ends[0].read_some(1) == b"!"
    else:
        sockets = unix_pair() if request.param == "unix" else tcp_pair()
        ends = SocketTransport(sockets[0], "one", SHORT_S), SocketTransport(sockets[1], "other", SHORT_S)
    yield ends
    for end in ends:
        end.close()


def read(transport: Transport, size: int) -> bytes:
    data = bytearray(size)
    assert transport.read_exact(memoryview(data))
    return bytes(data)


def test_parts_of_any_size_arrive_in_order(pair: Pair) -> None:
    words = np.arange(200_000, dtype=np.uint64).reshape(100, -1)
    parts = [b"head", b"", bytes(range(256)) * 4096, memoryview(b"tail")[1:], words, words[:0], bytearray(b"end")]
    expected = b"".join(bytes(part) for part in parts)
    with ThreadPoolExecutor(1) as pool:
        written = pool.submit(pair[0].write, parts)
        assert read(pair[1], len(expected)) == expected
        written.result(5)


def test_more_parts_than_one_call_takes_arrive(pair: Pair) -> None:
    parts = [bytes([index % 251]) * 3 for index in range(3000)]
    with ThreadPoolExecutor(1) as pool:
        written = pool.submit(pair[0].write, parts)
        assert read(pair[1], 9000) == b"".join(parts)
        written.result(5)


def test_nothing_to_write_or_read_returns_at_once(pair: Pair) -> None:
    pair[0].write(())
    pair[0].write((b"",))
    assert pair[0].read_exact(memoryview(b""))


def test_end_before_the_first_byte_is_told_from_an_end_inside(pair: Pair) -> None:
    pair[0].write((b"abc",))
    pair[0].abort()
    assert read(pair[1], 1) == b"a"
    with pytest.raises(LinkError, match="other ended in the middle of a message"):
        pair[1].read_exact(memoryview(bytearray(3)))
    assert not pair[1].read_exact(memoryview(bytearray(3)))
    assert pair[1].read_some(10) == b""


def test_some_bytes_are_read_without_waiting_for_more(pair: Pair) -> None:
    pair[0].write((b"abc",))
    assert pair[1].read_some(100) == b"abc"


def test_readable_tells_bytes_and_end_from_silence(pair: Pair) -> None:
    assert not pair[1].readable()
    pair[0].write((b"ab",))
    assert poll_readable(pair, 5) == [pair[1]]
    assert pair[1].readable()
    assert pair[1].read_some(1) == b"a"
    assert pair[1].readable()
    assert pair[1].read_some(1) == b"b"
    assert not pair[1].readable()
    pair[0].abort()
    assert poll_readable((pair[1],), 5) == [pair[1]]


def test_write_that_moves_nothing_for_the_time_limit_fails(pair: Pair) -> None:
    started = time.monotonic()
    with pytest.raises(LinkError, match="stalled"):
        pair[0].write([bytes(64 << 20)])
    assert SHORT_S <= time.monotonic() - started < 10 * SHORT_S


def test_read_that_gets_nothing_for_its_time_limit_fails_and_the_limit_can_be_lifted(pair: Pair) -> None:
    pair[1].set_read_timeout(0.05)
    with pytest.raises(LinkError, match=r"stalled|timed out"):
        pair[1].read_exact(memoryview(bytearray(1)))
    with pytest.raises(LinkError, match=r"stalled|timed out"):
        pair[1].read_some(1)
    pair[1].set_read_timeout(0)
    timer = threading.Timer(0.15, pair[0].write, [(b"x",)])
    timer.start()
    assert read(pair[1], 1) == b"x"
    timer.join()


def test_write_to_an_end_that_is_gone_fails_in_words(pair: Pair) -> None:
    pair[1].close()
    # More than any buffer takes, so that the end is met at the latest inside this write.
    with pytest.raises(LinkError, match="one broke"):
        pair[0].write([bytes(1 << 20)] * 100)


@pytest.mark.parametrize("blocked", ["read_exact", "read_some"])
def test_abort_wakes_a_blocked_reader(pair: Pair, blocked: str) -> None:
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(
            lambda: pair[0].read_exact(memoryview(bytearray(1))) if blocked == "read_exact" else pair[0].read_some(1)
        )
        time.sleep(0.05)
        pair[0].abort()
        assert not waiting.result(5)


def test_abort_wakes_a_blocked_writer(contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    for one, other in (unix_pair(), tcp_pair(), tls_pair(contexts)):
        writer: Transport = TlsTransport(one, "one") if isinstance(one, ssl.SSLSocket) else SocketTransport(one, "one")
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(writer.write, [bytes(64 << 20)])
            time.sleep(0.05)
            writer.abort()
            with pytest.raises(LinkError, match="broke"):
                waiting.result(5)
        writer.close()
        other.close()


def test_closed_transport_is_refused_in_words(pair: Pair) -> None:
    pair[0].close()
    for use in (
        lambda: pair[0].write((b"x",)),
        lambda: pair[0].read_some(1),
        lambda: pair[0].read_exact(memoryview(bytearray(1))),
        lambda: poll_readable(pair, 0),
    ):
        with pytest.raises(LinkError):
            use()
    pair[0].abort()
    pair[0].close()


@given(st.lists(st.binary(max_size=5), max_size=6), st.integers(0, 30))
def test_remaining_is_what_was_not_sent(parts: list[bytes], sent: int) -> None:
    whole = b"".join(parts)
    sent = min(sent, len(whole))
    assert b"".join(remaining([memoryview(part) for part in parts], sent)) == whole[sent:]
