"""QEMU's multifd wire format, sans-I/O (QEMU migration/multifd.h, multifd-nocomp.c; 7.2 to 10.2).

A channel opens with a 64-byte init, then carries packets: a fixed 1344-byte head (flags, counts, RAM block, 128
offsets) and normal_pages x 4096 bytes. Integers are big-endian. What a parser must know (MultiFDPacket_t and its
history):

* the payload's length is normal_pages x 4096: next_packet_size is stale in 7.2 packets without pages;
* offsets and RAM block are stale in packets without pages up to 9.1, so only announced pages are looked at;
* SYNC may ride on a data packet up to 8.2; a 9.2 destination drops such data, so SYNC is always written alone;
* zero_pages exists since 9.0, older sources send 0 there and older destinations ignore it;
* 10.0 adds device-state packets (flag 0x40) of another shape, copied through as they are.
"""

import struct
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Buffer

from pipeline.errors import WireError
from pipeline.memory.pages import PAGE_BYTES, PAGE_SHIFT

MAGIC = 0x1122_3344
VERSION = 1
INIT_BYTES = 64
#: Magic, version, flags: what both packet shapes share.
PACKET_START_BYTES = 12
PACKET_HEAD_BYTES = 1344
DEVICE_STATE_HEAD_BYTES = 276
#: 512 KiB of 4 KiB pages, compiled into QEMU.
PAGES_PER_PACKET = 128
#: VFIO sends its state in pieces of 1 MiB; twice that bounds what we buffer.
MAX_DEVICE_STATE_BYTES = 2 << 20

_INIT = struct.Struct(">II16sB7x32x")
_START = struct.Struct(">III")
_COUNTS = struct.Struct(">IIIQI28x256s")
_ANNOUNCED = struct.Struct(">IIIQI")
_HEAD = struct.Struct(">IIIIIIQI28x256s")
_OFFSETS_AT = 320
_NO_OFFSET_BITS = 2**64 - 1 ^ (2 ** (PAGE_SHIFT + 32) - PAGE_BYTES)
#: Packet flags, as plain integers: an IntFlag's operators cost microseconds, and these stand in every packet's way.
FLAG_SYNC = 0x01
FLAG_DEVICE_STATE = 0x40
#: Bits that name a compression method, of which only none (0) can be read here.
_COMPRESSION = 0x3E
#: Values of the compression field.
COMPRESSION_NAMES = {0x02: "zlib", 0x04: "zstd", 0x08: "qpl", 0x10: "uadk", 0x20: "qatzip"}


@dataclass(frozen=True, slots=True)
class Init:
    """A channel's opening: the source's uuid and the channel's number."""

    uuid: bytes
    channel: int


@dataclass(slots=True, eq=False)
class PacketHead:
    """A RAM packet's head. Page numbers are (n,) uint32 inside `block`; `block` is empty where no page is announced."""

    sync: bool
    packet_number: int
    block: bytes
    normal: NDArray[np.uint32]
    zero: NDArray[np.uint32]


def parse_init(data: Buffer, channels: int) -> Init:
    """Check and cut the 64 bytes that open a channel; `channels` is how many there may be. Raises `WireError`."""
    if len(memoryview(data)) != INIT_BYTES:
        raise WireError(f"multifd init has {len(memoryview(data))} bytes, not {INIT_BYTES}")
    magic, version, uuid, channel = _INIT.unpack(data)
    if (magic, version) != (MAGIC, VERSION):
        raise WireError(f"multifd init has magic {magic:#x} version {version}, not {MAGIC:#x} version {VERSION}")
    if channel >= channels:
        raise WireError(f"QEMU opened multifd channel {channel} of {channels}: set multifd-channels alike on both")
    return Init(uuid, channel)


def parse_start(data: Buffer) -> int:
    """Check a packet's first 12 bytes and return its flags; raises `WireError` for what this gateway refuses."""
    if len(memoryview(data)) != PACKET_START_BYTES:
        raise WireError(f"multifd packet starts with {len(memoryview(data))} bytes, not {PACKET_START_BYTES}")
    magic, version, flags = _START.unpack(data)
    if (magic, version) != (MAGIC, VERSION):
        raise WireError(f"multifd packet has magic {magic:#x} version {version}: the stream lost its place")
    if flags & ~0x7F:
        raise WireError(f"multifd packet has unknown flags {flags:#x}")
    if flags & _COMPRESSION:
        method = COMPRESSION_NAMES.get(flags & _COMPRESSION, f"method {flags & _COMPRESSION:#x}")
        raise WireError(
            f"the source QEMU compresses multifd with {method}:"
            " set multifd-compression=none on both QEMUs, kuaka compresses"
        )
    if flags & FLAG_DEVICE_STATE and flags & FLAG_SYNC:
        raise WireError("multifd packet is device state and SYNC at once")
    return int(flags)


def is_device_state(flags: int) -> bool:
    """Whether the packet with these flags has the device-state shape."""
    return bool(flags & FLAG_DEVICE_STATE)


def announced_payload_bytes(start: Buffer) -> int:
    """Bytes behind a RAM packet's head, from its first `DEVICE_STATE_HEAD_BYTES`; raises `WireError` for too many."""
    _allocated, normal, _next_size, _number, zero = _ANNOUNCED.unpack_from(start, PACKET_START_BYTES)
    if normal + zero > PAGES_PER_PACKET:
        raise _too_many_pages(normal, zero)
    return int(normal) * PAGE_BYTES


def parse_head(flags: int, rest: Buffer) -> PacketHead:
    """Check and cut a RAM packet's head behind its first 12 bytes (`rest`: 1332 bytes); raises `WireError`."""
    view = memoryview(rest)
    if len(view) != PACKET_HEAD_BYTES - PACKET_START_BYTES:
        raise WireError(f"multifd packet head has {len(view)} bytes behind its flags")
    _allocated, normal, _next_size, number, zero, name = _COUNTS.unpack_from(view)
    if normal + zero > PAGES_PER_PACKET:
        raise _too_many_pages(normal, zero)
    sync = bool(flags & FLAG_SYNC)
    if not normal + zero:
        none = np.empty(0, dtype=np.uint32)
        return PacketHead(sync, number, b"", none, none)
    block = name.partition(b"\0")[0]
    if not block or not name.endswith(b"\0"):
        raise WireError("multifd packet has pages but no RAM block name")
    offsets = np.frombuffer(view, dtype=">u8", count=normal + zero, offset=_OFFSETS_AT - PACKET_START_BYTES)
    offsets = offsets.astype(np.uint64)
    # One reduction finds both: no offset may have any of these bits.
    if int(np.bitwise_or.reduce(offsets)) & _NO_OFFSET_BITS:
        raise WireError("multifd packet has a page offset that is out of range or not a multiple of 4096")
    numbers = (offsets >> PAGE_SHIFT).astype(np.uint32)
    return PacketHead(sync, number, block, numbers[:normal], numbers[normal:])


def device_state_bytes(rest: Buffer) -> int:
    """Payload length of a device-state packet from the 264 bytes behind its first 12; raises `WireError`."""
    if len(memoryview(rest)) != DEVICE_STATE_HEAD_BYTES - PACKET_START_BYTES:
        raise WireError(f"device-state packet head has {len(memoryview(rest))} bytes behind its flags")
    length: int = struct.unpack_from(">I", rest, 260)[0]
    if not 0 < length <= MAX_DEVICE_STATE_BYTES:
        raise WireError(f"device-state packet of {length} bytes, the limit is {MAX_DEVICE_STATE_BYTES}")
    return length


def encode_head(block: bytes, normal: NDArray[np.uint32], zero: NDArray[np.uint32], packet_number: int) -> bytes:
    """Head of a data packet without SYNC; `zero` must be empty towards QEMU older than 9.0."""
    offsets = np.zeros(PAGES_PER_PACKET, dtype=">u8")
    offsets[: len(normal)] = normal
    offsets[len(normal) : len(normal) + len(zero)] = zero
    return (
        _HEAD.pack(
            MAGIC, VERSION, 0, PAGES_PER_PACKET, len(normal), len(normal) * PAGE_BYTES, packet_number, len(zero), block
        )
        + (offsets << np.uint64(PAGE_SHIFT)).astype(">u8").tobytes()
    )


def encode_sync(packet_number: int) -> bytes:
    """A packet with SYNC and nothing else."""
    return _HEAD.pack(MAGIC, VERSION, FLAG_SYNC, PAGES_PER_PACKET, 0, 0, packet_number, 0, b"") + bytes(
        PAGES_PER_PACKET * 8
    )


def _too_many_pages(normal: int, zero: int) -> WireError:
    return WireError(f"multifd packet of {normal} normal and {zero} zero pages, the limit is {PAGES_PER_PACKET}")
