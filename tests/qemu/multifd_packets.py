"""multifd packets built from QEMU's struct layout alone (migration/multifd.h), without the code under test."""

import struct

PAGE = 4096
MAGIC = 0x11223344


def init(uuid: bytes = bytes(16), channel: int = 0, magic: int = MAGIC, version: int = 1) -> bytes:
    """MultiFDInit_t."""
    packed = struct.pack(">II16sB7s4Q", magic, version, uuid, channel, bytes(7), 0, 0, 0, 0)
    assert len(packed) == 64
    return packed


def packet(
    flags: int = 0,
    normal: tuple[int, ...] = (),
    zero: tuple[int, ...] = (),
    *,
    block: bytes = b"pc.ram",
    number: int = 7,
    next_size: int | None = None,
    normal_pages: int | None = None,
    zero_pages: int | None = None,
    pages_alloc: int = 128,
    stale_offsets: tuple[int, ...] = (),
) -> bytes:
    """MultiFDPacket_t with the offsets of its pages; `normal` and `zero` are offsets in bytes."""
    offsets = (*normal, *zero, *stale_offsets)
    packed = struct.pack(
        ">6IQII3Q256s128Q",
        MAGIC,
        1,
        flags,
        pages_alloc,
        len(normal) if normal_pages is None else normal_pages,
        len(normal) * PAGE if next_size is None else next_size,
        number,
        len(zero) if zero_pages is None else zero_pages,
        0,
        0,
        0,
        0,
        block,
        *offsets,
        *(0 for _ in range(128 - len(offsets))),
    )
    assert len(packed) == 1344
    return packed


def device_state(size: int, flags: int = 0x40, name: bytes = b"0000:00:03.0/vfio", instance: int = 0) -> bytes:
    """MultiFDPacketDeviceState_t, without its payload."""
    packed = struct.pack(">III256sII", MAGIC, 1, flags, name, instance, size)
    assert len(packed) == 276
    return packed
