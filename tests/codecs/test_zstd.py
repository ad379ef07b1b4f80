"""Zstandard frames that lie about themselves."""

import struct
import tracemalloc

import pytest
import zstandard

from pipeline.codecs.codec import DecodeError
from pipeline.codecs.zstd import ZstdCodec
from pipeline.memory.pages import PAGE_BYTES
from tests.codecs.page_bytes import textured

MAGIC = b"\x28\xb5\x2f\xfd"
RAW = textured("text", 2)
FRAME = zstandard.ZstdCompressor(level=1).compress(RAW)


def decode(stream: bytes, size_bytes: int = len(RAW)) -> bytes:
    return bytes(ZstdCodec().decode(memoryview(stream), size_bytes))


def announcing(content_bytes: int) -> bytes:
    """A single-segment frame header that announces a size, and one empty last block."""
    return MAGIC + b"\xe0" + struct.pack("<Q", content_bytes) + b"\x01\x00\x00"


@pytest.mark.parametrize("content_bytes", [1 << 30, 1 << 40, 2**63, 2**64 - 3])
def test_announced_size_is_compared_before_anything_is_allocated(content_bytes: int) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(DecodeError, match=f"announces {content_bytes} bytes"):
            decode(announcing(content_bytes))
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_frame_that_holds_less_than_it_announces_is_refused() -> None:
    with pytest.raises(DecodeError):
        decode(announcing(len(RAW)))


def test_frame_without_its_size_is_refused() -> None:
    with pytest.raises(DecodeError, match="announces"):
        decode(zstandard.ZstdCompressor(write_content_size=False).compress(RAW))


def test_window_beyond_the_limit_is_refused() -> None:
    wide = MAGIC + b"\xc0\xf8" + struct.pack("<Q", len(RAW)) + b"\x01\x00\x00"
    with pytest.raises(DecodeError, match="too much memory"):
        decode(wide)


def test_concatenated_frames_are_refused_whatever_is_announced() -> None:
    for size_bytes in (len(RAW), 2 * len(RAW)):
        with pytest.raises(DecodeError):
            decode(FRAME + FRAME, size_bytes)


def test_skippable_frames_are_refused_before_and_behind_and_alone() -> None:
    skippable = struct.pack("<II", 0x184D2A50, 4) + b"skip"
    for stream in (skippable, skippable + FRAME, FRAME + skippable, struct.pack("<II", 0x184D2A50, len(RAW)) + RAW):
        with pytest.raises(DecodeError):
            decode(stream)


def test_frame_that_needs_a_dictionary_is_refused() -> None:
    dictionary = zstandard.ZstdCompressionDict(textured("text", 4), dict_type=zstandard.DICT_TYPE_RAWCONTENT)
    without_id = zstandard.ZstdCompressor(dict_data=dictionary).compress(RAW)
    named = MAGIC + b"\x61\x07" + struct.pack("<H", len(RAW) - 256) + FRAME[7:]
    for stream in (without_id, named):
        with pytest.raises(DecodeError):
            decode(stream)


def test_frames_of_the_highest_level_stay_within_the_window_limit() -> None:
    raw = textured("text", 512)
    (stream,) = ZstdCodec(19).encode(memoryview(raw))
    assert stream is not None
    assert decode(bytes(stream), 512 * PAGE_BYTES) == raw
