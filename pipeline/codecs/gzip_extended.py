"""Gzip-extended streams: what QAT reads and writes by QATzip, and any gzip reader reads.

A stream is a sequence of gzip members, each of at most one hardware buffer of 64 KiB, all but the last of exactly that:

    off size  all integers little-endian
      0    4  1f 8b 08 04: gzip, deflate, an extra field follows
      4    4  time, unused
      8    1  0, 2 or 4: how hard it was compressed
      9    1  255: made on an unknown system
     10    2  12: the extra field's length
     12    2  "QZ"
     14    2  8
     16    4  bytes that the member holds (n)
     20    4  bytes of raw deflate that follow (m), no distance beyond 32 KiB
     24    m  the stream
     24+m  4  crc32 of what it holds
     28+m  4  n again

The extra field is what lets hardware find members without decoding them; here it is checked before anything is decoded:
counts against each other, sizes against the announced one. No more is decoded than was announced, whatever it says.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

from isal import igzip_lib, isal_zlib

from pipeline.codecs.codec import DecodeError
from pipeline.codecs.deflate import inflate

#: log2 of the window: 32 KiB, QAT's.
HISTORY_BITS = 15
#: What one member holds: a hardware buffer.
MEMBER_BYTES = 64 << 10
HEADER_BYTES, FOOTER_BYTES = 24, 8
#: Most that hardware makes of a full buffer, and takes: incompressible bytes grow by an eighth.
_MAX_STREAM_BYTES = MEMBER_BYTES + MEMBER_BYTES // 8 + 48

_HEADER = struct.Struct("<4s4xBBH2sHII")
_FOOTER = struct.Struct("<II")
_MAGIC, _SYSTEM, _EXTRA_BYTES, _FIELD, _FIELD_BYTES = b"\x1f\x8b\x08\x04", 255, 12, b"QZ", 8
_EXTRA_FLAGS = (0, 2, 4)


@dataclass(frozen=True, slots=True)
class Member:
    """Where a member lies in its stream, and how many bytes it holds."""

    start: int
    stop: int
    size_bytes: int


def member_sizes(size_bytes: int) -> Iterator[int]:
    """How many bytes each member of a stream of `size_bytes` holds."""
    return (min(MEMBER_BYTES, size_bytes - place) for place in range(0, size_bytes, MEMBER_BYTES))


def make_members(data: memoryview, level: int) -> Iterator[bytes]:
    """`data` in members, each in its parts (header, stream, footer), by the CPU."""
    for place in range(0, len(data), MEMBER_BYTES):
        piece = data[place : place + MEMBER_BYTES]
        stream = igzip_lib.compress(piece, level, igzip_lib.COMP_DEFLATE, igzip_lib.MEM_LEVEL_LARGE, HISTORY_BITS)
        yield _HEADER.pack(_MAGIC, 0, _SYSTEM, _EXTRA_BYTES, _FIELD, _FIELD_BYTES, len(piece), len(stream))
        yield stream
        yield _FOOTER.pack(isal_zlib.crc32(piece), len(piece))


def parse_members(stream: memoryview, size_bytes: int) -> tuple[Member, ...]:
    """The members of a stream that holds `size_bytes`, none of them decoded; raises `DecodeError`."""
    members, place = [], 0
    for expected in member_sizes(size_bytes):
        if len(stream) - place < HEADER_BYTES + FOOTER_BYTES:
            raise DecodeError("gzip-extended stream ends before its last member")
        magic, flags, system, extra_bytes, field, field_bytes, holds, length = _HEADER.unpack_from(stream, place)
        if (magic, system, extra_bytes, field, field_bytes) != (
            _MAGIC,
            _SYSTEM,
            _EXTRA_BYTES,
            _FIELD,
            _FIELD_BYTES,
        ) or flags not in _EXTRA_FLAGS:
            raise DecodeError(f"gzip-extended stream has no member's header at byte {place}")
        if holds != expected:
            raise DecodeError(f"gzip-extended member says that it holds {holds} bytes, not {expected}")
        stop = place + HEADER_BYTES + length + FOOTER_BYTES
        if not 0 < length <= _MAX_STREAM_BYTES or stop > len(stream):
            raise DecodeError(f"gzip-extended member says that its stream has {length} bytes")
        members.append(Member(place, stop, holds))
        place = stop
    if place != len(stream):
        raise DecodeError(f"gzip-extended stream has {len(stream) - place} bytes behind its last member")
    return tuple(members)


def read_member(stream: memoryview, member: Member) -> bytes:
    """What a member holds, by the CPU, its footer checked; raises `DecodeError`."""
    data = inflate(stream[member.start + HEADER_BYTES : member.stop - FOOTER_BYTES], member.size_bytes, HISTORY_BITS)
    crc, size_bytes = cast(tuple[int, int], _FOOTER.unpack_from(stream, member.stop - FOOTER_BYTES))
    if size_bytes != member.size_bytes or crc != isal_zlib.crc32(data):
        raise DecodeError("gzip-extended member does not hold what its footer says")
    return data
