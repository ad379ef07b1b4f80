"""QEMU's return path, cut into messages while it is forwarded. Sans-I/O.

Messages from the destination: be16 type, be16 length, data (QEMU migration/savevm.c, migrate_send_rp_message). SHUT
(1) carries be32 0 when the destination has loaded everything: with it the source declares the migration completed. A
gateway that runs stand-alone learns from it how the migration went. SWITCHOVER_ACK (7, since 8.1, no data) lets the
source stop its guest; see `qemu.switchover`.

QEMU takes no message of more than 512 bytes of data (source_return_path_thread) and sends none, so no more than that
is ever kept here.
"""

import struct
from dataclasses import dataclass

from pipeline.errors import WireError

#: Most bytes of data in one message.
MAX_DATA_BYTES = 512
_HEADER = struct.Struct(">HH")
_SHUT = 1
_SWITCHOVER_ACK = 7
#: Types 1 to 7 exist (QEMU 10.2: MIG_RP_MSG_MAX is 8).
_LAST_TYPE = 7


@dataclass(frozen=True, slots=True)
class Message:
    """One message: its type and all its bytes, the header too."""

    kind: int
    encoded: bytes

    @property
    def is_switchover_ack(self) -> bool:
        """Whether it lets the source stop its guest."""
        return self.kind == _SWITCHOVER_ACK


class ReturnPath:
    """Collects messages; `confirmed` is None until SHUT came, then whether the destination is content."""

    def __init__(self) -> None:
        self.confirmed: bool | None = None
        self._pending = b""

    @property
    def rest(self) -> bytes:
        """The beginning of a message whose end has not come."""
        return self._pending

    def feed(self, data: bytes) -> list[Message]:
        """Take the next bytes; the messages that they complete, in order.

        Raises `WireError` when they are not return path messages.
        """
        pending, at = self._pending + data, 0
        messages: list[Message] = []
        while len(pending) - at >= _HEADER.size:
            end = at + _HEADER.size + _data_bytes(pending, at)
            if len(pending) < end:
                break
            messages.append(self._message(pending[at:end]))
            at = end
        self._pending = pending[at:]
        return messages

    def _message(self, encoded: bytes) -> Message:
        message = Message(_HEADER.unpack_from(encoded)[0], encoded)
        if message.kind == _SHUT:
            self.confirmed = not any(encoded[_HEADER.size :])
        return message


def _data_bytes(pending: bytes, at: int) -> int:
    """How much data the message whose header is at `at` has; raises `WireError` for what is no header."""
    kind, length = _HEADER.unpack_from(pending, at)
    if not 1 <= kind <= _LAST_TYPE:
        raise WireError(f"the destination QEMU sent return path message {kind}, which is unknown here")
    expected = {_SHUT: 4, _SWITCHOVER_ACK: 0}.get(kind, length)
    if length != expected or length > MAX_DATA_BYTES:
        name = {_SHUT: "SHUT", _SWITCHOVER_ACK: "SWITCHOVER_ACK"}.get(kind, f"return path message {kind}")
        raise WireError(f"the destination QEMU sent {name} with {length} bytes")
    return int(length)
