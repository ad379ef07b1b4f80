"""Opening and accepting links: preamble, TLS, handshake, and then frames may flow.

Every wait here has a limit, because whoever connects may be anything.
"""

import contextlib
import socket
import time
from dataclasses import dataclass, replace

from pipeline.codecs.codec import CodecId
from pipeline.errors import LinkCut, LinkError, LinkRefused, WireError
from pipeline.wire.handshake import (
    LENGTH,
    PREAMBLE_BYTES,
    Hello,
    Preamble,
    Role,
    agreed_codecs,
    check_answer,
    disagreement,
    encode_accept,
    encode_hello,
    encode_preamble,
    encode_refusal,
    message_length,
    parse_hello,
    parse_preamble,
)
from pipeline.wire.pacing import Pacer
from pipeline.wire.sockets import SocketTransport, Transport
from pipeline.wire.tls import TlsFiles, accept_tls, connect_tls

#: From connecting to the first frame.
OPENING_TIMEOUT_S = 5.0
#: How a TLS alert or handshake begins; as the length of a message of ours it would be far over the limit.
_TLS_RECORDS = (0x15, 0x16)
_TLS_MAJOR_VERSION = 3
#: Between tries to reach a gateway that is not listening yet.
_RETRY_S = 0.05


@dataclass(frozen=True, slots=True)
class LinkTerms:
    """What both ends of a link agree on, and how the opener reaches the other end.

    `address` and `port` are empty at the accepting end; `channels` is None there when any count will do.
    """

    session: str
    role: Role
    channel: int
    channels: int
    codec: CodecId
    level: int | None
    tls: TlsFiles | None
    stall_timeout_s: float
    downtime_limit_ns: int
    address: str = ""
    port: int = 0
    #: Cap on the whole migration's wire bytes per second; a channel keeps to its even share. None: no cap.
    rate_bytes_s: int | None = None
    #: What frames may be of besides `codec`: what the opener offers, what the accepting end takes.
    also: tuple[CodecId, ...] = ()

    def pacer(self) -> Pacer | None:
        """Keeps this link to its share; the main stream is busy when channels are not, so it has the whole rate."""
        if self.rate_bytes_s is None:
            return None
        links = 1 if self.role in (Role.MAIN, Role.RETURN) else self.channels
        return Pacer(max(1, self.rate_bytes_s // links))

    @property
    def peer(self) -> str:
        """The other end, for messages."""
        return f"{self.address}:{self.port}" if self.address else "the source gateway"


def open_link(terms: LinkTerms, *, timeout_s: float = OPENING_TIMEOUT_S) -> tuple[Transport, tuple[CodecId, ...]]:
    """Connect to the other gateway and agree on the terms, and on what frames may be of.

    Raises `LinkError` or `WireError` with the peer's reason.
    """
    sock = _connect(terms, timeout_s)
    try:
        sock.settimeout(timeout_s)
        sock.sendall(encode_preamble(Preamble(terms.role, terms.channel, bytes.fromhex(terms.session))))
        transport = _dress(sock, terms.tls, f"link to {terms.peer}", terms.address, terms.stall_timeout_s, timeout_s)
    except OSError as error:
        sock.close()
        raise LinkError(f"link to {terms.peer} broke while opening: {error}") from None
    except BaseException:
        sock.close()
        raise
    try:
        transport.set_read_timeout(timeout_s)
        codecs = (terms.codec, *terms.also)
        hello = Hello(terms.role, terms.session, terms.channel, terms.channels, terms.codec, codecs)
        transport.write((encode_hello(hello),))
        codecs = check_answer(_read_message(transport, terms.peer), terms.peer, hello)
        transport.set_read_timeout(0)
    except LinkCut:
        transport.close()
        # A cut still: where another channel was told why, that is the reason to show.
        raise LinkCut(
            f"{terms.peer} ended the link during the handshake: see its messages; are the tls settings the same?"
        ) from None
    except BaseException:
        transport.close()
        raise
    return transport, codecs


def accept_link(sock: socket.socket, preamble: Preamble, terms: LinkTerms) -> tuple[Transport, Hello]:
    """Answer a link whose preamble was read: TLS, then the Hello is accepted or refused by name.

    The Hello's codecs are those agreed on.

    Takes the socket over; raises `LinkRefused`, `LinkError` or `WireError`, the socket closed.
    """
    try:
        transport = _dress(sock, terms.tls, f"link from {terms.peer}", None, terms.stall_timeout_s, OPENING_TIMEOUT_S)
    except BaseException:
        sock.close()
        raise
    try:
        transport.set_read_timeout(OPENING_TIMEOUT_S)
        hello = parse_hello(_read_message(transport, terms.peer))
        reason = disagreement(hello, preamble, terms.channels)
        if reason is not None:
            transport.write((encode_refusal(reason),))
            raise LinkRefused(f"link refused: {reason}")
        hello = replace(hello, codecs=agreed_codecs(hello, terms.also))
        transport.write((encode_accept(hello.codecs),))
        transport.set_read_timeout(0)
    except BaseException:
        transport.close()
        raise
    return transport, hello


def refuse_link(sock: socket.socket, tls: TlsFiles | None, reason: str) -> None:
    """Tell a link's opener why it cannot be taken, and close it."""
    with contextlib.suppress(LinkError, WireError):
        transport = _dress(
            sock, tls, "a link to be refused", address=None, stall_timeout_s=1.0, timeout_s=OPENING_TIMEOUT_S
        )
        with contextlib.closing(transport):
            transport.set_read_timeout(OPENING_TIMEOUT_S)
            _read_message(transport, "the peer")
            transport.write((encode_refusal(reason),))
    sock.close()


def read_preamble(sock: socket.socket, timeout_s: float = OPENING_TIMEOUT_S) -> Preamble:
    """The preamble of a connection just accepted; raises `WireError` or `LinkError`, the socket left open."""
    data = b""
    sock.settimeout(timeout_s)
    try:
        while len(data) < PREAMBLE_BYTES:
            more = sock.recv(PREAMBLE_BYTES - len(data))
            if not more:
                raise LinkError("connection closed before its preamble")
            data += more
    except OSError as error:
        raise LinkError(f"connection sent no preamble: {error}") from None
    return parse_preamble(data)


def _connect(terms: LinkTerms, timeout_s: float) -> socket.socket:
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            return socket.create_connection((terms.address, terms.port), timeout=timeout_s)
        except ConnectionRefusedError as error:
            if time.monotonic() >= deadline:
                raise LinkError(f"no kuaka gateway listens at {terms.peer}: {error.strerror}") from None
            time.sleep(_RETRY_S)
        except OSError as error:
            raise LinkError(f"cannot reach {terms.peer}: {error.strerror or error}") from None


def _dress(
    sock: socket.socket,
    tls: TlsFiles | None,
    name: str,
    address: str | None,
    stall_timeout_s: float,
    timeout_s: float,
) -> Transport:
    """The transport over a connected socket; `address` is whom the certificate must name, None at the accepting end."""
    if tls is None:
        return SocketTransport(sock, name, stall_timeout_s)
    if address is None:
        return accept_tls(sock, tls, name, stall_timeout_s, timeout_s)
    return connect_tls(sock, tls, address, name, stall_timeout_s, timeout_s)


def _read_message(transport: Transport, peer: str) -> bytes:
    length = bytearray(LENGTH.size)
    if not transport.read_exact(memoryview(length)):
        raise LinkCut(f"{peer} closed the link during the handshake")
    if length[0] in _TLS_RECORDS and length[1] == _TLS_MAJOR_VERSION:
        raise WireError(f"{peer} speaks TLS and this end does not: start both sides with the same tls settings")
    body = bytearray(message_length(length))
    if not transport.read_exact(memoryview(body)):
        raise WireError(f"{peer} closed the link during the handshake")
    return bytes(body)
