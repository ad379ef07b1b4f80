"""TLS 1.3 for links, with certificates on both sides.

The rules: both ends verify each other against one CA, the connecting end checks the name or address it connected to
as well, and a link leaves this machine in the clear only when someone asked for that in so many words. A handshake is
bounded as a whole: a peer that drips bytes gains nothing. There are no session tickets: each link is opened once, and
a server that writes unasked would wake a sender that reads nothing but acknowledgements. Revocation is not checked;
give certificates short lives.
"""

import ipaddress
import os
import socket
import ssl
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import LinkError, UsageError
from pipeline.wire.sockets import TlsTransport
from pipeline.wire.tls_errors import tls_problem


@dataclass(frozen=True)
class TlsFiles:
    """PEM files of one host, as paths on that host: the CA of all hosts, the host's certificate and its private key."""

    ca: Path
    certificate: Path
    key: Path


def server_context(files: TlsFiles) -> ssl.SSLContext:
    """The accepting end's settings; raises `UsageError` for files that cannot be used."""
    context = _context(ssl.PROTOCOL_TLS_SERVER, files)
    context.verify_mode = ssl.CERT_REQUIRED
    context.num_tickets = 0
    return context


def client_context(files: TlsFiles) -> ssl.SSLContext:
    """The connecting end's settings; raises `UsageError` for files that cannot be used."""
    context = _context(ssl.PROTOCOL_TLS_CLIENT, files)
    context.verify_mode = ssl.CERT_REQUIRED
    context.check_hostname = True
    context.hostname_checks_common_name = False
    return context


def accept_tls(
    sock: socket.socket, files: TlsFiles, name: str, stall_timeout_s: float | None, timeout_s: float
) -> TlsTransport:
    """TLS over a connection just accepted, which is taken over; raises `LinkError` or `UsageError`, the socket closed.

    `name` is the link's, for messages; `timeout_s` bounds the handshake and `stall_timeout_s` each later write.
    """
    return _wrap(sock, name, stall_timeout_s, timeout_s, lambda: _server_socket(sock, files))


def connect_tls(
    sock: socket.socket, files: TlsFiles, server: str, name: str, stall_timeout_s: float | None, timeout_s: float
) -> TlsTransport:
    """As `accept_tls`, over a connection just made to `server`: the name or address that its certificate must have."""
    return _wrap(sock, name, stall_timeout_s, timeout_s, lambda: _client_socket(sock, files, server))


def require_tls_or_loopback(address: str, tls: TlsFiles | None, allow_plain: bool) -> None:
    """Raise `UsageError` when a link with `address` would leave this machine in the clear and nobody asked for that."""
    if tls is None and not allow_plain and not is_loopback(address):
        raise UsageError(
            f"link with {address} would carry guest memory in the clear: give it tls: {{ca, certificate, key}}"
            " (kuaka certs makes a test set), or ask for plain with --plain or allowPlain: true"
        )


def is_loopback(address: str) -> bool:
    """Whether `address` cannot leave this machine; names are not looked up, so only `localhost` counts of them."""
    if address == "localhost":
        return True
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is not None:
        return parsed.ipv4_mapped.is_loopback
    return parsed.is_loopback


def _wrap(
    sock: socket.socket,
    name: str,
    stall_timeout_s: float | None,
    timeout_s: float,
    dress: Callable[[], ssl.SSLSocket],
) -> TlsTransport:
    taken = sock
    try:
        sock.settimeout(timeout_s)
        taken = secured = dress()
        secured.do_handshake()
        return TlsTransport(secured, name, stall_timeout_s)
    except ConnectionResetError:
        taken.close()
        raise LinkError(
            f"{name}: the other end broke off: see its messages; are the tls settings of both the same?"
        ) from None
    except (OSError, ValueError) as error:
        taken.close()
        raise LinkError(f"{name}: no TLS with the other end: {tls_problem(error)}") from None
    except BaseException:
        taken.close()
        raise


def _server_socket(sock: socket.socket, files: TlsFiles) -> ssl.SSLSocket:
    context = server_context(files)
    return context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)


def _client_socket(sock: socket.socket, files: TlsFiles, server: str) -> ssl.SSLSocket:
    # A zone ("fe80::1%eth0") says which way to send, and is in no certificate.
    host = server.partition("%")[0]
    context = client_context(files)
    return context.wrap_socket(sock, server_hostname=host, do_handshake_on_connect=False)


def _context(protocol: int, files: TlsFiles) -> ssl.SSLContext:
    _check_readable(files.ca, "CA certificate")
    _check_readable(files.certificate, "certificate")
    _check_key(files.key)
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.maximum_version = ssl.TLSVersion.TLSv1_3
    # An end of the stream without TLS's own farewell is an end like any other: links end well with END only. Taken for
    # an error it would break the other direction, too, in which a reason may still have to travel.
    context.options |= ssl.OP_IGNORE_UNEXPECTED_EOF

    def no_password() -> bytes:
        # Without this OpenSSL would ask on the terminal.
        raise UsageError(f"TLS key {files.key} is encrypted: give the link a key without a password")

    try:
        context.load_cert_chain(files.certificate, files.key, no_password)
    except (OSError, ValueError) as error:
        if isinstance(error, ssl.SSLError) and error.reason == "KEY_VALUES_MISMATCH":
            raise UsageError(f"TLS key {files.key} is not the key of {files.certificate}") from None
        raise UsageError(
            f"TLS files {files.certificate} and {files.key} are not a certificate and its key in PEM form"
        ) from None
    try:
        context.load_verify_locations(files.ca)
    except (OSError, ValueError):
        raise UsageError(f"TLS file {files.ca} is not a CA certificate in PEM form") from None
    return context


def _check_readable(path: Path, what: str) -> os.stat_result:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UsageError(f"TLS {what} {path} cannot be read: {reason}: check the path and its mode") from None
    try:
        status = os.fstat(descriptor)
    finally:
        os.close(descriptor)
    if not stat.S_ISREG(status.st_mode):
        raise UsageError(f"TLS {what} {path} is not a file")
    return status


def _check_key(path: Path) -> None:
    status = _check_readable(path, "key")
    mode = stat.S_IMODE(status.st_mode)
    # root may share a key with a group (Debian's ssl-cert, a mounted secret); nobody may with everybody.
    allowed = 0o640 if status.st_uid == 0 else 0o600
    if mode & 0o077 & ~allowed:
        raise UsageError(f"TLS key {path} has mode {mode:04o}, others can read it: chmod {allowed:o} {path}")
    if status.st_uid not in (0, os.geteuid()):
        raise UsageError(f"TLS key {path} belongs to another user (uid {status.st_uid}): make it your own")
