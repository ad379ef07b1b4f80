"""What a stand-alone gateway learns from the head of QEMU's main channel. Sans-I/O.

The main channel is forwarded byte for byte; this reads a copy of its first bytes (QEMU migration/savevm.c):

    be32 "QEVM", be32 version 3
    0x07 configuration: be32 length, machine name
    0x08 command: be16 command, be16 length, data      OPEN_RETURN_PATH 1, PING 2, POSTCOPY_ADVISE 3, ...
    0x05 subsection of the configuration: u8 length, name, be32 version, then fields by name
    0x01 section start: the RAM set-up begins, the head is over; before it, from 8.0 on, 0x04: a device set up early

QEMU sends OPEN_RETURN_PATH (and PING) first of all commands when return-path is on, then POSTCOPY_ADVISE when
postcopy-ram is.
"""

import struct
from dataclasses import dataclass
from enum import Enum, auto

from pipeline.errors import WireError

MAGIC = b"QEVM"
#: A head longer than this without a section is not QEMU's.
MAX_HEAD_BYTES = 4096
_MAX_MACHINE_NAME_BYTES = 256

_CONFIGURATION = 0x07
_COMMAND = 0x08
_SUBSECTION = 0x05
#: QEMU_VM_SECTION_START, and the QEMU_VM_SECTION_FULL of devices whose state goes before RAM (virtio-mem, since 8.0).
_SECTIONS = (0x01, 0x04)
_OPEN_RETURN_PATH = 1
_POSTCOPY_ADVISE = 3
_ENABLE_COLO = 8


class HeadState(Enum):
    """Whether the head said all it has to say."""

    READING = auto()
    DONE = auto()


@dataclass(slots=True)
class MainChannelHead:
    """Collects the head; `return_path`, `postcopy` and `colo` are final once `state` is DONE."""

    state: HeadState = HeadState.READING
    return_path: bool = False
    postcopy: bool = False
    colo: bool = False
    machine: str = ""
    _seen: bytes = b""

    def feed(self, data: bytes) -> HeadState:
        """Take the next bytes of the channel; raises `WireError` when they are not the head of a migration stream."""
        if self.state is HeadState.READING:
            self._seen += data[: MAX_HEAD_BYTES + 1 - len(self._seen)]
            if self._parse():
                self.state = HeadState.DONE
                self._seen = b""
            elif len(self._seen) > MAX_HEAD_BYTES:
                raise WireError("the main channel does not start like a QEMU migration stream")
        return self.state

    def _parse(self) -> bool:
        data = self._seen
        if len(data) < 9:
            return False
        if data[:4] != MAGIC or struct.unpack_from(">I", data, 4)[0] != 3:
            raise WireError("the main channel is not a QEMU migration stream of version 3")
        at = 8
        if data[at] == _CONFIGURATION:
            if len(data) < at + 5:
                return False
            length = struct.unpack_from(">I", data, at + 1)[0]
            if length > _MAX_MACHINE_NAME_BYTES:
                raise WireError(f"the main channel announces a machine name of {length} bytes")
            self.machine = data[at + 5 : at + 5 + length].decode("ascii", "replace")
            at += 5 + length
        return self._parse_commands(data, at)

    def _parse_commands(self, data: bytes, at: int) -> bool:
        while at < len(data):
            if data[at] in _SECTIONS:
                return True
            if data[at] == _SUBSECTION:
                after = self._after_subsection(data, at)
                if after is None:
                    return False
                at = after
                continue
            if data[at] != _COMMAND:
                raise WireError(f"the main channel has byte {data[at]:#x} where a command or section starts")
            if len(data) < at + 5:
                return False
            command, length = struct.unpack_from(">HH", data, at + 1)
            self.return_path |= command == _OPEN_RETURN_PATH
            self.postcopy |= command == _POSTCOPY_ADVISE
            self.colo |= command == _ENABLE_COLO
            at += 5 + length
        return False

    @staticmethod
    def _after_subsection(data: bytes, at: int) -> int | None:
        """Where the bytes go on behind the subsection at `at`; None until it is here whole."""
        if len(data) < at + 2 or len(data) < at + 6 + data[at + 1]:
            return None
        body = at + 6 + data[at + 1]
        name = data[at + 2 : body - 4].decode("ascii", "replace")
        if name == "configuration/uuid":
            return body + 16
        if name == "configuration/target-page-bits":
            return body + 4
        if name != "configuration/capabilities":
            raise WireError(f"the main channel's configuration has a part {name!r} that is unknown here")
        if len(data) < body + 4:
            return None
        count, end = struct.unpack_from(">I", data, body)[0], body + 4
        for _ in range(min(count, MAX_HEAD_BYTES)):
            if len(data) <= end:
                return None
            end += 1 + data[end]
        return end
