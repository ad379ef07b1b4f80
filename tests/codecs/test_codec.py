"""What every codec keeps, whichever it is."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.codecs.codec import CodecId, DecodeError, codec_names, parse_codec
from pipeline.codecs.table import codec_for
from pipeline.errors import UsageError
from pipeline.memory.pages import MAX_BATCH_PAGES, PAGE_BYTES
from tests.codecs.page_bytes import TEXTURES, textured

CODECS = tuple(CodecId)
ENCODERS = tuple(codec_id for codec_id in CODECS if codec_id is not CodecId.NONE)
LEVELS = {
    CodecId.NONE: (0,),
    CodecId.LZ4: (1, 64),
    CodecId.ZSTD: (1, 3, 19),
    CodecId.DEFLATE: (0, 1, 2, 3),
    CodecId.QAT: (0, 1, 2, 3),
    CodecId.QAT_RAW: (0, 1, 2, 3),
}


def stream_of(codec_id: CodecId, pages: bytes) -> tuple[bytes, bytes]:
    """A stream, and the pages that it holds: all of these, or the first where each has a stream of its own."""
    if codec_id is CodecId.NONE:
        return pages, pages
    streams = codec_for(codec_id).encode(memoryview(pages))
    assert streams[0] is not None
    return bytes(streams[0]), pages[: len(pages) // len(streams)]


def test_every_codec_has_the_name_and_number_of_its_entry() -> None:
    assert codec_names() == ("none", "lz4", "zstd", "deflate", "qat", "qat-raw", "iaa")
    for codec_id in CODECS:
        assert codec_for(codec_id).codec_id is codec_id
        assert parse_codec(codec_id.label) is parse_codec(codec_id.label.upper()) is codec_id


def test_unknown_codec_is_refused_with_the_list_of_those_there_are() -> None:
    with pytest.raises(UsageError, match=r"'snappy' is unknown.*none, lz4, zstd, deflate, qat, qat-raw, iaa"):
        parse_codec("snappy")


def test_iaa_is_another_name_of_deflate() -> None:
    assert parse_codec("iaa") is CodecId.DEFLATE


@pytest.mark.parametrize("codec_id", CODECS)
def test_level_that_a_codec_does_not_have_is_refused_by_name(codec_id: CodecId) -> None:
    for level in (LEVELS[codec_id][0] - 1, LEVELS[codec_id][-1] + 1):
        with pytest.raises(UsageError, match=f"level {level} does not exist for {codec_id.label}:"):
            codec_for(codec_id, level)


@pytest.mark.parametrize("texture", TEXTURES)
@pytest.mark.parametrize("codec_id", CODECS)
def test_pages_come_back_as_they_were_at_every_level(codec_id: CodecId, texture: str) -> None:
    for level in LEVELS[codec_id]:
        codec = codec_for(codec_id, level)
        for pages in (1, 3, 128):
            raw = textured(texture, pages)
            streams = codec.encode(memoryview(raw))
            assert len(streams) in (1, pages)
            size = len(raw) // len(streams)
            for place, stream in zip(range(0, len(raw), size), streams, strict=True):
                if stream is not None:
                    assert len(memoryview(stream)) < size
                    assert bytes(codec.decode(memoryview(stream), size)) == raw[place : place + size]


@pytest.mark.parametrize("codec_id", CODECS)
def test_pages_that_do_not_shrink_are_left_raw(codec_id: CodecId) -> None:
    assert set(codec_for(codec_id).encode(memoryview(textured("random", 16)))) == {None}


@pytest.mark.parametrize("codec_id", ENCODERS)
def test_largest_batch_of_one_byte_comes_back(codec_id: CodecId) -> None:
    stream, raw = stream_of(codec_id, textured("constant", MAX_BATCH_PAGES))
    assert bytes(codec_for(codec_id).decode(memoryview(stream), len(raw))) == raw


@settings(max_examples=30)
@given(st.sampled_from(ENCODERS), st.integers(1, 24), st.integers(0, 2**32 - 1), st.integers(1, 4096))
def test_any_pages_come_back_as_they_were(codec_id: CodecId, pages: int, seed: int, period: int) -> None:
    rng = np.random.default_rng(seed)
    raw = np.resize(rng.integers(0, 1 + seed % 255, period, dtype=np.uint8), pages * PAGE_BYTES).tobytes()
    codec = codec_for(codec_id)
    streams = codec.encode(memoryview(raw))
    size = len(raw) // len(streams)
    for place, stream in zip(range(0, len(raw), size), streams, strict=True):
        assert stream is None or bytes(codec.decode(memoryview(stream), size)) == raw[place : place + size]


@pytest.mark.parametrize("announced_pages", [1, 7, 9, 16])
@pytest.mark.parametrize("codec_id", CODECS)
def test_stream_of_another_size_is_refused(codec_id: CodecId, announced_pages: int) -> None:
    stream, raw = stream_of(codec_id, textured("text", 8))
    if len(raw) == announced_pages * PAGE_BYTES:
        announced_pages = 2
    with pytest.raises(DecodeError):
        codec_for(codec_id).decode(memoryview(stream), announced_pages * PAGE_BYTES)


@pytest.mark.parametrize("texture", ["mixed", "text", "ramp", "constant"])
@pytest.mark.parametrize("codec_id", CODECS)
def test_stream_with_bytes_missing_or_behind_its_end_is_refused(codec_id: CodecId, texture: str) -> None:
    codec, (stream, raw) = codec_for(codec_id), stream_of(codec_id, textured(texture, 4))
    for wrong in (stream[:-1], stream[:-4], stream[: len(stream) // 2], stream[:1], b"", stream + b"\0", stream * 2):
        with pytest.raises(DecodeError):
            codec.decode(memoryview(wrong), len(raw))


@pytest.mark.parametrize("codec_id", CODECS)
def test_codec_still_works_after_a_stream_it_refused(codec_id: CodecId) -> None:
    codec, (stream, raw) = codec_for(codec_id), stream_of(codec_id, textured("text", 8))
    with pytest.raises(DecodeError):
        codec.decode(memoryview(stream[: len(stream) // 2]), len(raw))
    assert bytes(codec.decode(memoryview(stream), len(raw))) == raw


@settings(max_examples=150)
@given(st.sampled_from(CODECS), st.binary(max_size=300), st.integers(1, 8))
def test_random_bytes_raise_nothing_but_decode_errors(codec_id: CodecId, stream: bytes, pages: int) -> None:
    try:
        decoded = codec_for(codec_id).decode(memoryview(stream), pages * PAGE_BYTES)
    except DecodeError:
        return
    assert len(memoryview(decoded)) == pages * PAGE_BYTES


@settings(max_examples=150)
@given(
    st.sampled_from(ENCODERS),
    st.sampled_from(["mixed", "text", "ramp", "constant"]),
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=8),
)
def test_damaged_streams_decode_to_the_announced_size_or_are_refused(
    codec_id: CodecId, texture: str, damage: list[tuple[float, int]]
) -> None:
    made, raw = stream_of(codec_id, textured(texture, 4))
    stream = bytearray(made)
    for place, value in damage:
        stream[int(place * len(stream))] = value
    try:
        decoded = codec_for(codec_id).decode(memoryview(stream), len(raw))
    except DecodeError:
        return
    assert len(memoryview(decoded)) == len(raw)
