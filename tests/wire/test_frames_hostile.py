"""Frames that break the format: each is refused with a `WireError`, and no page of it is ever used."""

import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st
from typing_extensions import Buffer

from pipeline.codecs.codec import Codec, CodecId, OneByOne
from pipeline.codecs.table import codec_for
from pipeline.errors import WireError
from pipeline.memory.pages import MAX_BATCH_PAGES, PAGE_BYTES, PageBatch, PageKind
from pipeline.wire.frames import (
    HEAD_BYTES,
    MAX_PAYLOAD_BYTES,
    RAW_STREAM,
    FrameKind,
    check_plain,
    decode_pages,
    encode_plain,
    parse_head,
)
from tests.wire.batches import BATCHES, batch_of, frame_bytes, normal_batch, read_frame, same_batch

CODECS = tuple(CodecId)
HEAD = struct.Struct(">4sBBHQIIHBBIQQ")
FIELDS = (
    "magic", "kind", "codec", "page_count", "sequence", "raw_bytes", "wire_bytes", "stream_count", "name_bytes",
    "reserved", "table_bytes", "tag", "checksum",
)  # fmt: skip

NORMAL, ZERO, SAME = PageKind.NORMAL, PageKind.ZERO, PageKind.SAME


def head_with(data: bytes, **changes: Any) -> bytes:
    """The head of a frame with some fields replaced."""
    fields = dict(zip(FIELDS, HEAD.unpack(data[:HEAD_BYTES]), strict=True)) | changes
    return HEAD.pack(*fields.values())


def resealed(data: bytes, decoded: bytes, **changes: Any) -> bytes:
    """A frame with fields replaced and a checksum that fits them, as a hostile peer would send."""
    head = head_with(data, **changes)
    table_bytes = HEAD.unpack(head)[-3]
    body = data[HEAD_BYTES:]
    checksum = xxhash.xxh3_64_intdigest(head[:40] + body[:table_bytes] + decoded)
    return head[:40] + struct.pack(">Q", checksum) + body


PAGES = batch_of([NORMAL, SAME, ZERO, NORMAL], block=b"ram")
FRAME = frame_bytes(PAGES, codec_for(CodecId.LZ4), sequence=5)
TABLE_BYTES = 3 + 4 * 5 + 4 + 8


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"magic": b"KUAX"}, "not kuaka"),
        ({"kind": 0}, "kind 0 is unknown"),
        ({"kind": 6}, "kind 6 is unknown"),
        ({"codec": 200}, "codec 200 is unknown"),
        ({"reserved": 1}, "reserved"),
        ({"page_count": 0}, "0 pages"),
        ({"page_count": MAX_BATCH_PAGES + 1}, "limit is"),
        ({"page_count": 65535}, "limit is"),
        ({"page_count": 3}, "raw bytes for 3 pages"),
        ({"raw_bytes": 2**32 - 1}, "raw bytes"),
        ({"stream_count": 5}, "table"),
        ({"stream_count": 65535}, "table"),
        ({"name_bytes": 255}, "table"),
        ({"table_bytes": 0}, "table"),
        ({"table_bytes": 3 + 20 + 4 - 1}, "table"),
        ({"table_bytes": 3 + 20 + 4 + 8 * 4 + 1}, "table"),
        ({"table_bytes": 2**32 - 1}, "table"),
        ({"wire_bytes": 0}, "on the wire"),
        ({"wire_bytes": TABLE_BYTES - 1}, "on the wire"),
        ({"wire_bytes": TABLE_BYTES + 4 * PAGE_BYTES + 1}, "on the wire"),
        ({"wire_bytes": 2**32 - 1}, "on the wire"),
        ({"kind": FrameKind.SYNC}, "has no pages"),
        ({"kind": FrameKind.BYTES}, "has no pages"),
    ],
)
def test_head_with_a_wrong_field_is_refused_by_name(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(WireError, match=reason):
        parse_head(head_with(FRAME, **changes), 5)


@pytest.mark.parametrize(
    ("kind", "changes", "reason"),
    [
        (FrameKind.SYNC, {"raw_bytes": 1, "wire_bytes": 1}, "SYNC of 1 bytes, the limit is 0"),
        (FrameKind.END, {"raw_bytes": 1, "wire_bytes": 1}, "END of 1 bytes, the limit is 0"),
        (FrameKind.BYTES, {"raw_bytes": MAX_PAYLOAD_BYTES + 1, "wire_bytes": MAX_PAYLOAD_BYTES + 1}, "limit"),
        (FrameKind.BYTES, {"raw_bytes": 4}, "on the wire"),
        (FrameKind.EXTENT, {"raw_bytes": 15, "wire_bytes": 15}, "digest of 15 bytes"),
        (FrameKind.EXTENT, {}, "digest of 0 bytes"),
        (FrameKind.EXTENT, {"raw_bytes": 17, "wire_bytes": 17}, "digest of 17 bytes"),
        (FrameKind.SYNC, {"codec": 2}, "has no pages"),
        (FrameKind.SYNC, {"page_count": 1}, "has no pages"),
        (FrameKind.END, {"stream_count": 1}, "has no pages"),
        (FrameKind.END, {"name_bytes": 1}, "has no pages"),
        (FrameKind.BYTES, {"table_bytes": 1}, "has no pages"),
    ],
)
def test_plain_head_with_a_wrong_field_is_refused(kind: FrameKind, changes: dict[str, Any], reason: str) -> None:
    plain = bytes(encode_plain(kind, 0).parts[0])
    with pytest.raises(WireError, match=reason):
        parse_head(head_with(plain, **changes), 0)


@pytest.mark.parametrize("due", [0, 4, 6, 2**64 - 1])
def test_frames_that_skip_or_repeat_a_number_are_refused(due: int) -> None:
    with pytest.raises(WireError, match=f"frame 5 arrived where frame {due} was due"):
        parse_head(FRAME[:HEAD_BYTES], due)


@pytest.mark.parametrize("length", [0, 1, HEAD_BYTES - 1, HEAD_BYTES + 1])
def test_head_of_another_length_is_refused(length: int) -> None:
    with pytest.raises(WireError, match=f"has {length} bytes"):
        parse_head((FRAME + FRAME)[:length], 5)


def with_kinds(*kinds: int) -> bytes:
    at = HEAD_BYTES + 3 + 16
    return resealed(FRAME[:at] + bytes(kinds) + FRAME[at + 4 :], bytes(PAGES.normal))


@pytest.mark.parametrize(
    ("kinds", "reason"),
    [
        ((NORMAL, SAME, 3, NORMAL), "kind 3 is unknown"),
        ((255, 255, 255, 255), "kind 255 is unknown"),
        ((NORMAL, ZERO, ZERO, NORMAL), "counts"),
        ((SAME, SAME, SAME, SAME), "counts"),
        ((ZERO, SAME, ZERO, ZERO), "1 streams for 0 normal pages"),
    ],
)
def test_table_whose_kinds_do_not_fit_its_counts_is_refused(kinds: tuple[int, ...], reason: str) -> None:
    with pytest.raises(WireError, match=reason):
        read_frame(with_kinds(*kinds), codec_for(CodecId.LZ4), 5)


def test_streams_are_one_for_all_pages_or_one_for_each() -> None:
    body = FRAME[HEAD_BYTES:]
    two_of_three = struct.pack(">3s4I4B2IQ", b"ram", 1, 2, 3, 4, NORMAL, NORMAL, SAME, NORMAL, 10, 10, 0) + bytes(20)
    frame = FRAME[:HEAD_BYTES] + two_of_three
    changes = {"stream_count": 2, "table_bytes": len(two_of_three) - 20, "wire_bytes": len(two_of_three)}
    assert len(body) != len(two_of_three)
    with pytest.raises(WireError, match="2 streams for 3 normal pages"):
        read_frame(resealed(frame, b"", **changes), codec_for(CodecId.LZ4), 5)


@pytest.mark.parametrize("length", [0, 2 * PAGE_BYTES, 2 * PAGE_BYTES + 1, RAW_STREAM - 1, RAW_STREAM, 1, 100])
def test_stream_length_that_does_not_fit_the_frame_is_refused(length: int) -> None:
    at = HEAD_BYTES + 3 + 20
    changed = FRAME[:at] + struct.pack(">I", length) + FRAME[at + 4 :]
    with pytest.raises(WireError, match="stream"):
        read_frame(resealed(changed, bytes(PAGES.normal)), codec_for(CodecId.LZ4), 5)


def test_streams_must_be_as_long_as_the_head_announced() -> None:
    head = parse_head(FRAME[:HEAD_BYTES], 5)
    body = memoryview(FRAME)[HEAD_BYTES:]
    for streams in (body[head.table_bytes : -1], b"", bytes(body[head.table_bytes :]) + b"\0"):
        with pytest.raises(WireError, match="streams"):
            decode_pages(head, body[: head.table_bytes], memoryview(streams), codec_for(CodecId.LZ4))
    with pytest.raises(WireError, match="table"):
        decode_pages(head, body[: head.table_bytes - 1], body[head.table_bytes :], codec_for(CodecId.LZ4))


@pytest.mark.parametrize("codec_id", [CodecId.NONE, CodecId.ZSTD, CodecId.DEFLATE])
def test_frame_of_a_codec_that_was_not_agreed_is_refused(codec_id: CodecId) -> None:
    with pytest.raises(WireError, match=f"codec LZ4 where {codec_id.name} decodes"):
        read_frame(FRAME, codec_for(codec_id), 5)


@pytest.mark.parametrize("kinds", [[NORMAL], [ZERO, SAME, NORMAL]], ids=["normal", "mixed"])
@pytest.mark.parametrize("texture", ["text", "random"])
@pytest.mark.parametrize("codec_id", CODECS)
def test_no_single_flipped_bit_makes_a_wrong_page(codec_id: CodecId, texture: str, kinds: list[PageKind]) -> None:
    # Every bit of head and table; of the streams all if they are short, or a spread over all bit positions of a byte.
    codec, batch = codec_for(codec_id), batch_of(kinds, texture, block=b"pc.ram")
    whole = frame_bytes(batch, codec)
    encoded_at = HEAD_BYTES + parse_head(whole[:HEAD_BYTES], 0).table_bytes
    stream_is_raw = len(whole) - encoded_at == len(memoryview(batch.normal))
    step = 1 if len(whole) - encoded_at < 1500 else 13
    for bit in (*range(8 * encoded_at), *range(8 * encoded_at, 8 * len(whole), step)):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        try:
            decoded = read_frame(damaged, codec)
        except (WireError, EOFError):
            continue
        # Padding behind a stream's last symbol says nothing, so there the pages are still right.
        assert bit // 8 >= encoded_at
        assert not stream_is_raw
        assert same_batch(decoded, batch)


def read_plain(data: bytearray) -> None:
    """What a receiver does with a frame that is not PAGES."""
    head = parse_head(data[:HEAD_BYTES], 0)
    if head.wire_bytes > len(data) - HEAD_BYTES:
        raise EOFError("the link ended inside a frame")
    check_plain(head, data[HEAD_BYTES : HEAD_BYTES + head.wire_bytes])


@pytest.mark.parametrize("kind", [FrameKind.SYNC, FrameKind.BYTES, FrameKind.EXTENT, FrameKind.END])
def test_no_single_flipped_bit_of_a_plain_frame_passes(kind: FrameKind) -> None:
    payload = bytes(range(16)) if kind in (FrameKind.BYTES, FrameKind.EXTENT) else b""
    whole = b"".join(encode_plain(kind, 0, payload, tag=3).parts)
    for bit in range(8 * len(whole)):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises((WireError, EOFError)):
            read_plain(damaged)


class Faulty(OneByOne):
    """A codec that makes a mistake of one bit, at a chosen place, in every page batch it encodes or decodes."""

    def __init__(self, codec_id: CodecId, bit: int, *, encodes_wrongly: bool) -> None:
        self.codec_id = codec_id
        self._codec = codec_for(codec_id)
        self._bit = bit
        self._encodes_wrongly = encodes_wrongly

    def encode(self, pages: memoryview) -> Sequence[Buffer | None]:
        return self._codec.encode(memoryview(self._wrong(pages)) if self._encodes_wrongly else pages)

    def decode(self, stream: memoryview, size_bytes: int) -> Buffer:
        decoded = self._codec.decode(stream, size_bytes)
        return decoded if self._encodes_wrongly else self._wrong(decoded)

    def _wrong(self, pages: Buffer) -> bytes:
        wrong = bytearray(pages)
        wrong[self._bit // 8 % len(wrong)] ^= 1 << self._bit % 8
        return bytes(wrong)


@settings(max_examples=60)
@given(
    st.sampled_from([CodecId.LZ4, CodecId.ZSTD, CodecId.DEFLATE]),
    st.integers(1, 16),
    st.integers(0, 8 * 16 * PAGE_BYTES - 1),
    st.booleans(),
)
def test_valid_stream_of_slightly_different_pages_is_caught(
    codec_id: CodecId, pages: int, bit: int, encodes_wrongly: bool
) -> None:
    batch, faulty, sound = (
        normal_batch(pages),
        Faulty(codec_id, bit, encodes_wrongly=encodes_wrongly),
        codec_for(codec_id),
    )
    encoder: Codec = faulty if encodes_wrongly else sound
    decoder: Codec = sound if encodes_wrongly else faulty
    with pytest.raises(WireError, match="checksum differs"):
        read_frame(frame_bytes(batch, encoder), decoder)


def test_pages_in_each_others_place_are_caught() -> None:
    frame = bytearray(frame_bytes(normal_batch(2, "random"), codec_for(CodecId.NONE)))
    first = frame[-2 * PAGE_BYTES : -PAGE_BYTES]
    frame[-2 * PAGE_BYTES : -PAGE_BYTES] = frame[-PAGE_BYTES:]
    frame[-PAGE_BYTES:] = first
    with pytest.raises(WireError, match="checksum differs"):
        read_frame(frame, codec_for(CodecId.NONE))


@settings(max_examples=300)
@given(st.binary(min_size=HEAD_BYTES - 4, max_size=HEAD_BYTES + 4), st.booleans())
def test_random_heads_raise_nothing_but_wire_errors(data: bytes, with_magic: bool) -> None:
    if with_magic:
        data = b"KUAK" + data[4:]
    try:
        head = parse_head(data, int.from_bytes(data[8:16], "big"))
    except WireError:
        return
    assert head.wire_bytes <= max(MAX_PAYLOAD_BYTES, 255 + (17 + PAGE_BYTES) * MAX_BATCH_PAGES)
    assert head.table_bytes <= head.wire_bytes


@settings(max_examples=300)
@given(
    st.fixed_dictionaries(
        {},
        optional={
            "kind": st.integers(0, 7),
            "codec": st.integers(0, 4),
            "page_count": st.integers(0, 6),
            "raw_bytes": st.integers(0, 6).map(lambda pages: pages * PAGE_BYTES),
            "wire_bytes": st.integers(0, 300),
            "stream_count": st.integers(0, 6),
            "name_bytes": st.integers(0, 40),
            "table_bytes": st.integers(0, 80),
        },
    ),
    st.lists(st.tuples(st.integers(0, 120), st.sampled_from([0, 1, 2, 3, 127, 255])), max_size=6),
    st.binary(max_size=200),
)
def test_frames_sealed_by_a_hostile_peer_raise_nothing_but_wire_errors(
    changes: dict[str, int], damage: list[tuple[int, int]], tail: bytes
) -> None:
    body = bytearray(FRAME[HEAD_BYTES:] + tail)
    for at, value in damage:
        body[at % len(body)] = value
    data = resealed(FRAME[:HEAD_BYTES] + bytes(body), bytes(PAGES.normal), **changes)
    try:
        decoded = read_frame(data, codec_for(CodecId.LZ4), 5)
    except (WireError, EOFError):
        return
    normal = int(np.count_nonzero(decoded.kinds == NORMAL))
    assert len(memoryview(decoded.normal)) == normal * PAGE_BYTES
    assert len(decoded.page_numbers) == decoded.page_count == len(decoded.kinds)
    assert len(decoded.fill_words) == np.count_nonzero(decoded.kinds == SAME)


@settings(max_examples=40)
@given(BATCHES, st.sampled_from(CODECS), st.floats(0, 1, exclude_max=True))
def test_frame_cut_anywhere_never_yields_pages(batch: PageBatch, codec_id: CodecId, where: float) -> None:
    whole = frame_bytes(batch, codec_for(codec_id))
    with pytest.raises((WireError, EOFError)):
        read_frame(whole[: int(where * len(whole))], codec_for(codec_id))
