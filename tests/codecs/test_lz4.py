"""LZ4 blocks that lie about themselves. The block format has no size: only what the caller announces counts."""

import struct

import lz4.block
import pytest

from pipeline.codecs.codec import DecodeError
from pipeline.codecs.lz4 import Lz4Codec
from tests.codecs.page_bytes import textured

RAW = textured("text", 2)


def decode(stream: bytes, size_bytes: int = len(RAW)) -> bytes:
    return bytes(Lz4Codec().decode(memoryview(stream), size_bytes))


def test_blocks_carry_no_size_of_their_own() -> None:
    (stream,) = Lz4Codec().encode(memoryview(RAW))
    assert stream is not None
    assert lz4.block.decompress(stream, uncompressed_size=len(RAW)) == RAW


@pytest.mark.parametrize("announced", [0, len(RAW), 2**31 - 1, 2**32 - 1])
def test_block_with_a_size_in_front_is_refused_whatever_it_says(announced: int) -> None:
    block = lz4.block.compress(RAW, store_size=False)
    with pytest.raises(DecodeError):
        decode(struct.pack("<I", announced) + block)


def test_block_that_holds_less_is_refused() -> None:
    with pytest.raises(DecodeError, match="holds 100 bytes where 8192"):
        decode(lz4.block.compress(bytes(100), store_size=False))


def test_bomb_is_refused_at_the_announced_size() -> None:
    with pytest.raises(DecodeError):
        decode(lz4.block.compress(bytes(16 << 20), store_size=False))


def test_endless_literal_and_match_lengths_are_refused() -> None:
    for token in (b"\xf0", b"\x0f\x01\x00", b"\xff"):
        with pytest.raises(DecodeError):
            decode(token + b"\xff" * 5000)


def test_match_before_the_first_byte_is_refused() -> None:
    with pytest.raises(DecodeError):
        decode(b"\x14A\xff\xff" + b"\x00" * 20)
