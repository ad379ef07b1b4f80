"""What two ends of a link say before the first frame. Sans-I/O.

A link opens with a preamble of 32 bytes in the clear, which only says whose it is, so that one listening port can hand
the connection to the process that owns its session before TLS starts:

    off size            off size
      0    6  "KUAKA1"    8    2  channel
      6    1  role        10   6  0
      7    1  0           16  16  session

Then, inside TLS where there is TLS, the opener sends a Hello and gets an Accept or a Refusal: u32 length and JSON.
Everything that both sides must agree on stands in the Hello; the first thing that differs is refused by name. The
preamble is not trusted: the Hello repeats it.
"""

import json
import struct
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import IntEnum
from typing import Any

from typing_extensions import Buffer

from pipeline.codecs.codec import CodecId
from pipeline.errors import LinkError, WireError, one_line
from pipeline.memory.pages import PAGE_BYTES

PROTOCOL_VERSION = 1
PREAMBLE_BYTES = 32
SESSION_BYTES = 16
MAX_MESSAGE_BYTES = 4096
#: QEMU's multifd-channels is a u8; an image uses as many channels as it has senders.
MAX_CHANNELS = 255

_PREAMBLE = struct.Struct(">6sBxH6x16s")
_MAGIC = b"KUAKA1"
LENGTH = struct.Struct(">I")


class Role(IntEnum):
    """What a link carries; frames flow from the opener except on RETURN."""

    MAIN = 1
    RETURN = 2
    CHANNEL = 3
    IMAGE = 4


@dataclass(frozen=True, slots=True)
class Preamble:
    """Whose link this is."""

    role: Role
    channel: int
    session: bytes


@dataclass(frozen=True, slots=True)
class Hello:
    """The opener's side of the agreement."""

    role: Role
    session: str
    channel: int
    channels: int
    codec: int
    #: Everything that frames may be of, `codec` among it.
    codecs: tuple[int, ...] = tuple(CodecId)
    page_bytes: int = PAGE_BYTES
    version: int = PROTOCOL_VERSION


def encode_preamble(preamble: Preamble) -> bytes:
    """The 32 bytes of a preamble."""
    return _PREAMBLE.pack(_MAGIC, preamble.role, preamble.channel, preamble.session)


def parse_preamble(data: Buffer) -> Preamble:
    """Check and cut a preamble; raises `WireError`."""
    if len(memoryview(data)) != PREAMBLE_BYTES:
        raise WireError(f"link preamble has {len(memoryview(data))} bytes, not {PREAMBLE_BYTES}")
    magic, role, channel, session = _PREAMBLE.unpack(data)
    if magic != _MAGIC:
        raise WireError("connection is not from kuaka (or from an incompatible version): its preamble does not match")
    try:
        return Preamble(Role(role), channel, session)
    except ValueError as error:
        raise WireError(f"link preamble: {error}") from None


def encode_hello(hello: Hello) -> bytes:
    """A Hello with its length."""
    return _message(asdict(hello))


def encode_accept(codecs: Sequence[int]) -> bytes:
    """The answer that lets frames of these codecs flow."""
    return _message({"accepted": True, "codecs": list(codecs)})


def encode_refusal(reason: str) -> bytes:
    """The answer that ends the link, with why."""
    return _message({"accepted": False, "reason": one_line(reason)})


def message_length(data: Buffer) -> int:
    """Length of the JSON that follows; raises `WireError` beyond `MAX_MESSAGE_BYTES`."""
    if len(memoryview(data)) != LENGTH.size:
        raise WireError(f"handshake length has {len(memoryview(data))} bytes, not {LENGTH.size}")
    length: int = LENGTH.unpack(data)[0]
    if not 2 <= length <= MAX_MESSAGE_BYTES:
        raise WireError(f"handshake message of {length} bytes, the limit is {MAX_MESSAGE_BYTES}")
    return length


def parse_hello(data: bytes) -> Hello:
    """Check and cut a Hello's JSON; raises `WireError`."""
    fields = _parse(data)
    try:
        role, session, channel = Role(_integer(fields, "role")), fields["session"], _integer(fields, "channel")
        codecs = fields["codecs"]
        if not isinstance(session, str) or len(session) != 2 * SESSION_BYTES:
            raise ValueError("session is not 32 hexadecimal digits")
        if not isinstance(codecs, list) or len(codecs) > 256 or not all(type(codec) is int for codec in codecs):
            raise ValueError("codecs is not a list of numbers")
        return Hello(
            role,
            session,
            channel,
            _integer(fields, "channels"),
            _integer(fields, "codec"),
            tuple(codecs),
            _integer(fields, "page_bytes"),
            _integer(fields, "version"),
        )
    except KeyError as error:
        raise WireError(f"handshake: field {error} is missing") from None
    except ValueError as error:
        raise WireError(f"handshake: {error}") from None


def check_answer(data: bytes, peer: str, hello: Hello) -> tuple[CodecId, ...]:
    """What frames may be of; raises `LinkError` with the peer's reason unless it accepted, `WireError`."""
    fields = _parse(data)
    if fields.get("accepted") is not True:
        raise LinkError(f"{peer} refused the link: {one_line(str(fields.get('reason', 'no reason given')))}")
    codecs = fields.get("codecs")
    if not isinstance(codecs, list) or not set(map(_code, codecs)) <= set(hello.codecs) or hello.codec not in codecs:
        raise WireError(f"handshake: {peer} accepts codecs that were not offered")
    return tuple(map(CodecId, codecs))


def agreed_codecs(hello: Hello, taken: Sequence[CodecId]) -> tuple[CodecId, ...]:
    """Of what a checked Hello offers, what this end takes: its codec, and of the others those in `taken`."""
    return tuple(CodecId(codec) for codec in dict.fromkeys(hello.codecs) if codec == hello.codec or codec in taken)


def _code(value: object) -> int:
    return value if type(value) is int else -1


def disagreement(hello: Hello, preamble: Preamble, channels: int | None) -> str | None:
    """Why this end cannot take the link, by name, or None; `channels` is this end's own count where it has one."""
    known = frozenset(CodecId)
    if hello.version != PROTOCOL_VERSION:
        return f"protocol version {hello.version} differs from {PROTOCOL_VERSION} here: run one kuaka on both hosts"
    if hello.page_bytes != PAGE_BYTES:
        return f"page size {hello.page_bytes} differs from {PAGE_BYTES} here"
    if (hello.role, hello.channel, hello.session) != (preamble.role, preamble.channel, preamble.session.hex()):
        return "session, role or channel differs from the link's preamble"
    if hello.codec not in known or hello.codec not in hello.codecs:
        return f"codec {hello.codec} is not known here"
    if channels is not None and hello.channels != channels:
        return f"channel count {hello.channels} differs from {channels} here: set multifd-channels alike on both sides"
    if not 1 <= hello.channels <= MAX_CHANNELS or not 0 <= hello.channel < hello.channels:
        return f"channel {hello.channel} of {hello.channels} does not exist"
    return None


def _integer(fields: dict[str, Any], name: str) -> int:
    value = fields[name]
    if type(value) is not int or not 0 <= value < 2**32:
        raise ValueError(f"{name} is not a number in range")
    return value


def _message(fields: dict[str, Any]) -> bytes:
    # Characters as UTF-8, not as \u escapes: so a reason of the longest kind still fits MAX_MESSAGE_BYTES.
    body = json.dumps(fields, separators=(",", ":"), ensure_ascii=False).encode()
    return LENGTH.pack(len(body)) + body


def _parse(data: bytes) -> dict[str, Any]:
    try:
        fields = json.loads(data)
    except (ValueError, RecursionError):
        raise WireError("handshake: not JSON") from None
    if not isinstance(fields, dict):
        raise WireError("handshake: not a JSON object")
    return fields
