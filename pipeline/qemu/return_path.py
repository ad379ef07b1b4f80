"""QEMU's return path, read along while it is forwarded. Sans-I/O.

Messages from the destination: be16 type, be16 length, data (QEMU migration/savevm.c, migrate_send_rp_message). SHUT
(1) carries be32 0 when the destination has loaded everything: with it the source declares the migration completed. A
gateway that runs stand-alone learns from it how the migration went.
"""

import struct

from pipeline.errors import WireError

_HEADER = struct.Struct(">HH")
_SHUT = 1
#: Types 1 to 7 exist (QEMU 10.2: MIG_RP_MSG_MAX is 8).
_LAST_TYPE = 7


class ReturnPath:
    """Collects messages; `confirmed` is None until SHUT came, then whether the destination is content."""

    def __init__(self) -> None:
        self.confirmed: bool | None = None
        self._pending = b""

    def feed(self, data: bytes) -> None:
        """Take the next bytes; raises `WireError` when they are not return path messages."""
        self._pending += data
        while len(self._pending) >= _HEADER.size:
            kind, length = _HEADER.unpack_from(self._pending)
            if not 1 <= kind <= _LAST_TYPE:
                raise WireError(f"the destination QEMU sent return path message {kind}, which is unknown here")
            if len(self._pending) < _HEADER.size + length:
                return
            body = self._pending[_HEADER.size : _HEADER.size + length]
            self._pending = self._pending[_HEADER.size + length :]
            if kind == _SHUT:
                if length != 4:
                    raise WireError(f"the destination QEMU sent SHUT with {length} bytes")
                self.confirmed = not any(body)
