"""Deflate as Intel's IAA needs it: raw, a window of 4 KiB, ended where the pages end. zlib is the independent peer."""

import zlib

import pytest

from pipeline.codecs.codec import DecodeError
from pipeline.codecs.deflate import HISTORY_BITS, DeflateCodec
from pipeline.memory.pages import PAGE_BYTES
from tests.codecs.page_bytes import textured


def zlib_stream(raw: bytes, level: int = 6, window_bits: int = HISTORY_BITS, *, end: int = zlib.Z_FINISH) -> bytes:
    deflate = zlib.compressobj(level, zlib.DEFLATED, -window_bits)
    return deflate.compress(raw) + deflate.flush(end)


def decode(stream: bytes, size_bytes: int) -> bytes:
    return bytes(DeflateCodec().decode(memoryview(stream), size_bytes))


@pytest.mark.parametrize("level", [0, 1, 2, 3])
def test_streams_are_raw_deflate_that_a_4_kib_window_decodes(level: int) -> None:
    # A repeat 5000 bytes back would need the larger window; the decoder here has only 4 KiB.
    raw = (textured("random", 1) + textured("text", 1)[:904]) * 8
    raw = raw[: len(raw) // PAGE_BYTES * PAGE_BYTES] + textured("text", 4)
    (stream,) = DeflateCodec(level).encode(memoryview(raw))
    inflate = zlib.decompressobj(-HISTORY_BITS)
    assert stream is not None
    assert inflate.decompress(bytes(stream)) == raw
    assert inflate.eof
    assert not inflate.unused_data


@pytest.mark.parametrize("texture", ["random", "mixed", "text", "ramp", "constant"])
@pytest.mark.parametrize("level", [0, 1, 6, 9])
def test_streams_of_another_encoder_decode(texture: str, level: int) -> None:
    raw = textured(texture, 16)
    assert decode(zlib_stream(raw, level), len(raw)) == raw


def test_end_of_stream_behind_the_last_byte_of_output_is_read() -> None:
    raw = textured("text", 4)
    empty_blocks = b"\x00\x00\x00\xff\xff" * 40
    stream = zlib_stream(raw, end=zlib.Z_FULL_FLUSH) + empty_blocks + b"\x03\x00"
    assert decode(stream, len(raw)) == raw


def test_stream_without_a_final_block_is_refused() -> None:
    raw = textured("text", 4)
    with pytest.raises(DecodeError, match="does not end"):
        decode(zlib_stream(raw, end=zlib.Z_FULL_FLUSH), len(raw))


def test_every_truncation_is_refused() -> None:
    raw = textured("text", 1)
    stream = zlib_stream(raw)
    for length in range(len(stream)):
        with pytest.raises(DecodeError):
            decode(stream[:length], len(raw))


def test_one_byte_more_than_announced_is_refused() -> None:
    with pytest.raises(DecodeError, match="more than the 4096"):
        decode(zlib_stream(textured("text", 1) + b"x"), PAGE_BYTES)


def test_bomb_is_refused_at_the_announced_size() -> None:
    with pytest.raises(DecodeError, match="more than the 8192"):
        decode(zlib_stream(bytes(16 << 20)), 2 * PAGE_BYTES)


def test_distance_beyond_the_window_is_refused_and_never_decoded_wrongly() -> None:
    raw = (textured("random", 5) * 2)[: 10 * PAGE_BYTES]
    try:
        decoded = decode(zlib_stream(raw, 9, 15), len(raw))
    except DecodeError:
        return
    assert decoded == raw


@pytest.mark.parametrize("window_bits", [zlib.MAX_WBITS, zlib.MAX_WBITS + 16], ids=["zlib", "gzip"])
def test_wrapped_streams_are_refused(window_bits: int) -> None:
    raw = textured("text", 2)
    deflate = zlib.compressobj(6, zlib.DEFLATED, window_bits)
    with pytest.raises(DecodeError):
        decode(deflate.compress(raw) + deflate.flush(), len(raw))
