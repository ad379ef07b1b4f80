"""Frames that keep the format: what goes in comes out, laid out as documented, and cheap."""

import struct
from collections.abc import Sequence

import numpy as np
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st
from typing_extensions import Buffer

from pipeline.codecs.codec import CodecId, OneByOne
from pipeline.codecs.table import codec_for
from pipeline.memory.pages import PAGE_BYTES, WORDS_PER_PAGE, PageBatch, PageKind
from pipeline.wire.frames import (
    DIGEST_BYTES,
    HEAD_BYTES,
    MAX_PAYLOAD_BYTES,
    RAW_STREAM,
    FrameKind,
    check_plain,
    encode_pages,
    encode_plain,
    parse_head,
)
from tests.wire.batches import BATCHES, batch_of, frame_bytes, normal_batch, read_frame, same_batch

CODECS = tuple(CodecId)


class PageByPage(OneByOne):
    """A codec with one stream per page, as an accelerator has; every third page stays raw."""

    codec_id = CodecId.LZ4

    def __init__(self) -> None:
        self._codec = codec_for(self.codec_id)

    def encode(self, pages: memoryview) -> Sequence[Buffer | None]:
        starts = range(0, len(pages), PAGE_BYTES)
        return [
            None if index % 3 == 2 else self._codec.encode(pages[at : at + PAGE_BYTES])[0]
            for index, at in enumerate(starts)
        ]

    def decode(self, stream: memoryview, size_bytes: int) -> Buffer:
        assert size_bytes == PAGE_BYTES
        return self._codec.decode(stream, size_bytes)


@settings(max_examples=120)
@given(BATCHES, st.sampled_from(CODECS), st.integers(0, 2**64 - 2), st.integers(0, 2**64 - 1))
def test_any_mix_of_kinds_comes_back_as_it_was(batch: PageBatch, codec_id: CodecId, sequence: int, tag: int) -> None:
    frame = encode_pages(batch, codec_for(codec_id), sequence, tag)
    data = b"".join(frame.parts)
    head = parse_head(data[:HEAD_BYTES], sequence)
    assert same_batch(read_frame(data, codec_for(codec_id), sequence), batch)
    assert (head.tag, head.page_count, head.raw_bytes) == (tag, batch.page_count, batch.page_count * PAGE_BYTES)
    assert frame.wire_bytes == len(data) == HEAD_BYTES + head.wire_bytes


@settings(max_examples=40)
@given(BATCHES)
def test_one_stream_per_page_comes_back_as_it_was(batch: PageBatch) -> None:
    codec = PageByPage()
    frame = encode_pages(batch, codec, 0, 0)
    assert same_batch(read_frame(b"".join(frame.parts), codec), batch)
    assert frame.raw_pages >= len(memoryview(batch.normal)) // PAGE_BYTES // 3


def test_page_numbers_reach_both_ends_of_their_range() -> None:
    batch = normal_batch(2)
    batch.page_numbers[:] = [0, 2**32 - 1]
    assert read_frame(frame_bytes(batch, codec_for(CodecId.NONE)), codec_for(CodecId.NONE)).page_numbers.tolist() == [
        0,
        2**32 - 1,
    ]


@pytest.mark.parametrize("codec_id", CODECS)
def test_batch_without_normal_pages_may_hold_an_array_without_rows(codec_id: CodecId) -> None:
    batch = batch_of([PageKind.ZERO, PageKind.SAME])
    batch.normal = np.empty((0, WORDS_PER_PAGE), dtype=np.uint64)
    frame = encode_pages(batch, codec_for(codec_id), 0, 0)
    decoded = read_frame(b"".join(frame.parts), codec_for(codec_id))
    assert (decoded.kinds.tolist(), bytes(decoded.normal)) == ([PageKind.ZERO, PageKind.SAME], b"")
    assert decoded.fill_words.tolist() == batch.fill_words.tolist()


def test_normal_pages_may_be_an_array_of_words() -> None:
    words = np.arange(3 * WORDS_PER_PAGE, dtype=np.uint64).reshape(3, WORDS_PER_PAGE)
    batch = normal_batch(3)
    batch.normal = words
    decoded = read_frame(frame_bytes(batch, codec_for(CodecId.ZSTD)), codec_for(CodecId.ZSTD))
    assert bytes(decoded.normal) == words.tobytes()


def test_pages_frame_is_laid_out_as_documented() -> None:
    kinds = [PageKind.NORMAL, PageKind.SAME, PageKind.ZERO, PageKind.SAME]
    batch = batch_of(kinds, "random", block=b"vga.vram")
    data = frame_bytes(batch, codec_for(CodecId.LZ4), sequence=7, tag=0x0102_0304_0506_0708)
    table = struct.pack(">8s4I4BI", b"vga.vram", *batch.page_numbers.tolist(), 0, 2, 1, 2, RAW_STREAM) + struct.pack(
        "=2Q", *batch.fill_words.tolist()
    )
    wire_bytes = len(table) + PAGE_BYTES
    head = struct.pack(
        ">4sBBHQIIHBBIQ", b"KUAK", 1, 1, 4, 7, 4 * PAGE_BYTES, wire_bytes, 1, 8, 0, len(table), 0x0102_0304_0506_0708
    )
    checksum = xxhash.xxh3_64_intdigest(head + table + bytes(batch.normal))
    assert data == head + struct.pack(">Q", checksum) + table + bytes(batch.normal)


@pytest.mark.parametrize(
    ("kind", "number", "payload"),
    [
        (FrameKind.SYNC, 2, b""),
        (FrameKind.BYTES, 3, b"QEVM"),
        (FrameKind.EXTENT, 4, bytes(range(DIGEST_BYTES))),
        (FrameKind.END, 5, b""),
    ],
)
def test_plain_frame_is_laid_out_as_documented(kind: FrameKind, number: int, payload: bytes) -> None:
    size = len(payload)
    head = struct.pack(">4sBBHQIIHBBIQ", b"KUAK", number, 0, 0, 3, size, size, 0, 0, 0, 0, 9)
    expected = head + struct.pack(">Q", xxhash.xxh3_64_intdigest(head + payload)) + payload
    frame = encode_plain(kind, 3, payload, tag=9)
    assert b"".join(frame.parts) == expected
    assert frame.wire_bytes == len(expected)
    parsed = parse_head(expected[:HEAD_BYTES], 3)
    check_plain(parsed, payload)
    assert (parsed.kind, parsed.tag, parsed.wire_bytes) == (kind, 9, size)


def test_largest_payload_is_taken() -> None:
    payload = bytes(MAX_PAYLOAD_BYTES)
    frame = encode_plain(FrameKind.BYTES, 0, payload)
    check_plain(parse_head(frame.parts[0], 0), payload)


@pytest.mark.parametrize("codec_id", CODECS)
def test_overhead_of_a_packet_that_does_not_shrink_is_within_half_a_percent(codec_id: CodecId) -> None:
    raw_bytes = 128 * PAGE_BYTES
    frame = encode_pages(normal_batch(128, "random"), codec_for(codec_id), 0, 0)
    assert frame.raw_pages == 128
    assert 0 < frame.wire_bytes - raw_bytes <= raw_bytes * 0.005


@pytest.mark.parametrize("kind", [PageKind.ZERO, PageKind.SAME])
def test_pages_without_bytes_cost_at_most_half_a_percent_of_theirs(kind: PageKind) -> None:
    frame = encode_pages(batch_of([kind] * 128), codec_for(CodecId.LZ4), 0, 0)
    assert frame.wire_bytes <= 128 * PAGE_BYTES * 0.005


def test_encoder_that_fails_to_shrink_is_counted_page_by_page() -> None:
    assert encode_pages(normal_batch(5, "random"), codec_for(CodecId.ZSTD), 0, 0).raw_pages == 5
    assert encode_pages(normal_batch(5, "text"), codec_for(CodecId.ZSTD), 0, 0).raw_pages == 0
