"""TLS links over real sockets on 127.0.0.1."""

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from pipeline.errors import LinkError, UsageError
from pipeline.wire.certs import make_certificates
from pipeline.wire.sockets import TlsTransport
from pipeline.wire.tls import (
    TlsFiles,
    accept_tls,
    client_context,
    connect_tls,
    is_loopback,
    require_tls_or_loopback,
    server_context,
)

TIMEOUT_S = 5.0


def files(directory: Path, host: str) -> TlsFiles:
    return TlsFiles(directory / "ca.pem", directory / f"{host}.pem", directory / f"{host}.key")


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CA with two hosts, and one whose certificate is for another address."""
    directory = tmp_path_factory.mktemp("fleet")
    make_certificates(directory, ["a=127.0.0.1", "b=127.0.0.1,localhost", "elsewhere=10.9.9.9"], 2)
    return directory


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another CA with hosts of the same names."""
    directory = tmp_path_factory.mktemp("stranger")
    make_certificates(directory, ["a=127.0.0.1", "b=127.0.0.1"], 2)
    return directory


@pytest.fixture(scope="module")
def expired(fleet: Path) -> TlsFiles:
    """A host of the fleet whose certificate ran out."""
    long_ago = datetime.now(UTC) - timedelta(days=30)
    make_certificates(fleet, ["old=127.0.0.1"], 1, clock=lambda: long_ago)
    return files(fleet, "old")


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """A TCP connection over loopback: the accepted end and the connecting one."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        connecting = socket.create_connection(listener.getsockname())
        accepted, _ = listener.accept()
    with accepted, connecting:
        yield accepted, connecting


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as executor:
        yield executor


def accept(sock: socket.socket, tls: TlsFiles, timeout_s: float = TIMEOUT_S) -> TlsTransport:
    return accept_tls(sock, tls, "link with the opener", None, timeout_s)


def connect(
    sock: socket.socket, tls: TlsFiles, server: str = "127.0.0.1", timeout_s: float = TIMEOUT_S
) -> TlsTransport:
    return connect_tls(sock, tls, server, "link with the acceptor", None, timeout_s)


def problem(call: Callable[[], object]) -> str:
    """The one line with which a link was refused."""
    with pytest.raises(LinkError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@contextlib.contextmanager
def linked(
    pair: tuple[socket.socket, socket.socket], pool: ThreadPoolExecutor, server: TlsFiles, client: TlsFiles
) -> Iterator[tuple[TlsTransport, TlsTransport]]:
    accepting = pool.submit(accept, pair[0], server)
    connected = connect(pair[1], client)
    accepted = accepting.result(TIMEOUT_S)
    try:
        yield accepted, connected
    finally:
        accepted.close()
        connected.close()


Pair = tuple[socket.socket, socket.socket]


def test_hosts_of_one_authority_talk(pair: Pair, pool: ThreadPoolExecutor, fleet: Path) -> None:
    with linked(pair, pool, files(fleet, "a"), files(fleet, "b")) as (accepted, connected):
        connected.write((b"question",))
        assert accepted.read_some(100) == b"question"
        accepted.write((b"ans", b"wer"))
        answer = bytearray(6)
        assert connected.read_exact(memoryview(answer))
        assert answer == b"answer"


def test_a_server_writes_nothing_of_its_own_accord(pair: Pair, pool: ThreadPoolExecutor, fleet: Path) -> None:
    with linked(pair, pool, files(fleet, "a"), files(fleet, "b")) as (accepted, connected):
        connected.write((b"x",))
        assert accepted.read_some(1) == b"x"
        # A session ticket would be readable on the socket here.
        assert not connected.readable()
    assert server_context(files(fleet, "a")).num_tickets == 0


def test_mebibytes_pass_in_both_directions_at_once(pool: ThreadPoolExecutor, fleet: Path) -> None:
    # A link belongs to one thread, so there is one per direction.
    message = bytes(range(256)) * (4 << 12)
    with socket.create_server(("127.0.0.1", 0)) as listener, contextlib.ExitStack() as stack:
        links = []
        for _ in range(2):
            connecting = socket.create_connection(listener.getsockname())
            accepted, _peer = listener.accept()
            links.append(
                stack.enter_context(linked((accepted, connecting), pool, files(fleet, "a"), files(fleet, "b")))
            )
        (server_in, client_out), (server_out, client_in) = links
        received = [bytearray(len(message)), bytearray(len(message))]
        work: list[Future[Any]] = [
            pool.submit(client_out.write, (message[: 1 << 20], message[1 << 20 :])),
            pool.submit(server_out.write, (message,)),
            pool.submit(server_in.read_exact, memoryview(received[0])),
            pool.submit(client_in.read_exact, memoryview(received[1])),
        ]
        for job in work:
            job.result(30)
        assert received[0] == received[1] == message


def test_abort_from_another_thread_wakes_a_blocked_reader(pair: Pair, pool: ThreadPoolExecutor, fleet: Path) -> None:
    with linked(pair, pool, files(fleet, "a"), files(fleet, "b")) as (accepted, _connected):
        started = threading.Event()

        def read() -> bytes:
            started.set()
            return accepted.read_some(1)

        reading = pool.submit(read)
        started.wait(TIMEOUT_S)
        time.sleep(0.05)
        assert not reading.done()
        accepted.abort()
        with contextlib.suppress(LinkError):
            assert reading.result(TIMEOUT_S) == b""
        assert reading.done()


def test_a_cut_inside_a_message_is_an_error(pair: Pair, pool: ThreadPoolExecutor, fleet: Path) -> None:
    with linked(pair, pool, files(fleet, "a"), files(fleet, "b")) as (accepted, connected):
        connected.write((b"half",))
        connected.close()
        with pytest.raises(LinkError):
            accepted.read_exact(memoryview(bytearray(8)))


def test_a_client_without_a_certificate_is_refused(pair: Pair, pool: ThreadPoolExecutor, fleet: Path) -> None:
    accepting = pool.submit(accept, pair[0], files(fleet, "a"))
    context = ssl.create_default_context(cafile=str(fleet / "ca.pem"))
    client = context.wrap_socket(pair[1], server_hostname="127.0.0.1")
    assert "it showed no certificate" in problem(lambda: accepting.result(TIMEOUT_S))
    with client, pytest.raises(ssl.SSLError, match="CERTIFICATE_REQUIRED"):
        client.recv(1)


def test_a_client_of_a_foreign_authority_is_refused(
    pair: Pair, pool: ThreadPoolExecutor, fleet: Path, stranger: Path
) -> None:
    accepting = pool.submit(accept, pair[0], files(fleet, "a"))
    connected = connect(pair[1], replace(files(stranger, "b"), ca=fleet / "ca.pem"))
    assert "from an unknown CA" in problem(lambda: accepting.result(TIMEOUT_S))
    assert "acceptor broke" in problem(lambda: connected.read_some(1))
    connected.close()


def test_a_server_of_a_foreign_authority_is_refused(
    pair: Pair, pool: ThreadPoolExecutor, fleet: Path, stranger: Path
) -> None:
    accepting = pool.submit(accept, pair[0], files(stranger, "a"))
    assert "from an unknown CA" in problem(lambda: connect(pair[1], files(fleet, "b")))
    assert "it does not know the CA of the certificate here" in problem(lambda: accepting.result(TIMEOUT_S))


def test_a_server_whose_certificate_is_for_another_address_is_refused(
    pair: Pair, pool: ThreadPoolExecutor, fleet: Path
) -> None:
    accepting = pool.submit(accept, pair[0], files(fleet, "elsewhere"))
    assert "for another address" in problem(lambda: connect(pair[1], files(fleet, "b")))
    assert "it does not accept the certificate here" in problem(lambda: accepting.result(TIMEOUT_S))


def test_a_server_whose_certificate_is_for_another_name_is_refused(
    pair: Pair, pool: ThreadPoolExecutor, fleet: Path
) -> None:
    accepting = pool.submit(accept, pair[0], files(fleet, "a"))
    assert "for another host" in problem(lambda: connect(pair[1], files(fleet, "b"), server="localhost"))
    problem(lambda: accepting.result(TIMEOUT_S))


def test_the_common_name_is_no_name(pair: Pair, pool: ThreadPoolExecutor, fleet: Path) -> None:
    context = client_context(files(fleet, "b"))
    assert (context.check_hostname, context.hostname_checks_common_name) == (True, False)


def test_expired_certificates_are_refused_at_both_ends(
    pair: Pair, pool: ThreadPoolExecutor, fleet: Path, expired: TlsFiles
) -> None:
    accepting = pool.submit(accept, pair[0], expired)
    assert "its certificate has expired" in problem(lambda: connect(pair[1], files(fleet, "b")))
    assert "the certificate here has expired" in problem(lambda: accepting.result(TIMEOUT_S))


def test_an_expired_client_is_refused(pair: Pair, pool: ThreadPoolExecutor, fleet: Path, expired: TlsFiles) -> None:
    accepting = pool.submit(accept, pair[0], files(fleet, "a"))
    connected = connect(pair[1], expired)
    assert "its certificate has expired" in problem(lambda: accepting.result(TIMEOUT_S))
    connected.close()


def test_a_client_that_speaks_tls_1_2_is_refused(pair: Pair, pool: ThreadPoolExecutor, fleet: Path) -> None:
    accepting = pool.submit(accept, pair[0], files(fleet, "a"))
    context = ssl.create_default_context(cafile=str(fleet / "ca.pem"))
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(ssl.SSLError, match="PROTOCOL_VERSION"):
        context.wrap_socket(pair[1], server_hostname="127.0.0.1")
    assert "it does not speak TLS 1.3" in problem(lambda: accepting.result(TIMEOUT_S))


def test_a_server_that_speaks_tls_1_2_is_refused(pair: Pair, pool: ThreadPoolExecutor, fleet: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(fleet / "a.pem", fleet / "a.key")
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    accepting = pool.submit(context.wrap_socket, pair[0], server_side=True)
    assert "it does not speak TLS 1.3" in problem(lambda: connect(pair[1], files(fleet, "b")))
    with pytest.raises(ssl.SSLError):
        accepting.result(TIMEOUT_S)


@pytest.mark.parametrize("words", [b"\0\0\0\x90" + b'{"role": 3}' * 20, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"])
def test_a_plain_client_is_refused_at_once(pair: Pair, fleet: Path, words: bytes) -> None:
    pair[1].sendall(words)
    before = time.monotonic()
    assert "it does not speak TLS" in problem(lambda: accept(pair[0], files(fleet, "a"), timeout_s=60))
    assert time.monotonic() - before < 5


def test_a_plain_server_is_refused_at_once(pair: Pair, fleet: Path) -> None:
    pair[0].sendall(b"\0\0\0\x20" + b'{"accepted": false}' * 2)
    before = time.monotonic()
    assert "it does not speak TLS" in problem(lambda: connect(pair[1], files(fleet, "b"), timeout_s=60))
    assert time.monotonic() - before < 5


def test_a_peer_that_says_nothing_times_out_at_either_end(pair: Pair, fleet: Path) -> None:
    assert "did not answer in time" in problem(lambda: accept(pair[0], files(fleet, "a"), timeout_s=0.05))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        silent = socket.create_connection(listener.getsockname())
        assert "did not answer in time" in problem(lambda: connect(silent, files(fleet, "b"), timeout_s=0.05))


def test_a_peer_that_drips_bytes_gains_no_time(pair: Pair, pool: ThreadPoolExecutor, fleet: Path) -> None:
    done = threading.Event()

    def drip() -> None:
        # The head of a TLS record that announces 512 bytes.
        with contextlib.suppress(OSError):
            for byte in b"\x16\x03\x01\x02\x00\x01" + bytes(100):
                pair[1].sendall(bytes([byte]))
                if done.wait(0.05):
                    return

    dripping = pool.submit(drip)
    before = time.monotonic()
    assert "did not answer in time" in problem(lambda: accept(pair[0], files(fleet, "a"), timeout_s=0.3))
    assert time.monotonic() - before < 2
    done.set()
    dripping.result(TIMEOUT_S)


def test_a_peer_that_hangs_up_is_named(pair: Pair, fleet: Path) -> None:
    pair[1].close()
    assert "it closed the connection" in problem(lambda: accept(pair[0], files(fleet, "a")))


def test_the_socket_is_closed_whatever_goes_wrong(pair: Pair, fleet: Path) -> None:
    pair[0].sendall(b"not TLS at all")
    problem(lambda: connect(pair[1], files(fleet, "b")))
    assert pair[1].fileno() == -1
    with pytest.raises(UsageError):
        accept(pair[0], files(fleet, "nobody"))
    assert pair[0].fileno() == -1


@pytest.mark.parametrize("field", ["ca", "certificate", "key"])
def test_a_missing_file_is_named_in_one_line(fleet: Path, field: str) -> None:
    with pytest.raises(UsageError, match=r"cannot be read: No such file or directory: check the path") as caught:
        server_context(replace(files(fleet, "a"), **{field: fleet / "missing.pem"}))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("field", ["ca", "certificate", "key"])
def test_a_directory_is_no_file(fleet: Path, field: str) -> None:
    with pytest.raises(UsageError, match="is not a file"):
        client_context(replace(files(fleet, "a"), **{field: fleet}))


@pytest.mark.parametrize("mode", [0o604, 0o660, 0o644, 0o610])
def test_a_key_that_others_can_use_is_refused(fleet: Path, tmp_path: Path, mode: int) -> None:
    key = tmp_path / "a.key"
    key.write_bytes((fleet / "a.key").read_bytes())
    key.chmod(mode)
    with pytest.raises(UsageError, match=f"has mode {mode:04o}, others can read it: chmod 6[04]0"):
        server_context(replace(files(fleet, "a"), key=key))


def test_a_key_with_a_password_is_refused_without_asking(fleet: Path, tmp_path: Path) -> None:
    key = load_pem_private_key((fleet / "a.key").read_bytes(), password=None)
    locked = tmp_path / "a.key"
    locked.touch(mode=0o600)
    locked.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")))
    with pytest.raises(UsageError, match="is encrypted"):
        server_context(replace(files(fleet, "a"), key=locked))


def test_a_key_of_another_certificate_is_refused(fleet: Path) -> None:
    with pytest.raises(UsageError, match="is not the key of"):
        server_context(replace(files(fleet, "a"), key=fleet / "b.key"))


def test_files_that_are_not_pem_are_refused(fleet: Path, tmp_path: Path) -> None:
    nonsense = tmp_path / "nonsense"
    nonsense.touch(mode=0o600)
    for field, message in (("ca", "not a CA certificate"), ("certificate", "PEM form"), ("key", "PEM form")):
        with pytest.raises(UsageError, match=message):
            server_context(replace(files(fleet, "a"), **{field: nonsense}))


@pytest.mark.parametrize("address", ["127.0.0.1", "127.8.0.1", "::1", "localhost", "::ffff:127.0.0.1"])
def test_loopback_may_be_plain(address: str) -> None:
    assert is_loopback(address)
    require_tls_or_loopback(address, None, allow_plain=False)


@pytest.mark.parametrize("address", ["10.0.0.1", "0.0.0.0", "::", "host-a", "localhost.evil.example", "fe80::1%eth0"])
def test_other_links_need_tls_or_an_explicit_wish(address: str, fleet: Path) -> None:
    with pytest.raises(UsageError, match=r"in the clear.*tls:.*--plain") as caught:
        require_tls_or_loopback(address, None, allow_plain=False)
    assert "\n" not in str(caught.value)
    require_tls_or_loopback(address, None, allow_plain=True)
    require_tls_or_loopback(address, files(fleet, "a"), allow_plain=False)
