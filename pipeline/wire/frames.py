"""Frames: what travels between two shards, byte for byte. Sans-I/O: this file never sees a socket.

A frame is a 48-byte head, a table and streams, all integers big-endian:

    off size  head                                  | table, for PAGES only
      0    4  magic "KUAK"                          |   block name                  name_bytes
      4    1  kind (FrameKind)                      |   page numbers      u32 x page_count
      5    1  codec (CodecId)                       |   page kinds        u8  x page_count
      6    2  page_count                            |   encoded lengths   u32 x stream_count (RAW_STREAM: as it is)
      8    8  sequence, from 0, one up per frame    |   fill words        8 B x SAME pages
     16    4  raw_bytes: pages x 4 KiB, or payload  | streams
     20    4  wire_bytes: all that follows the head |   the NORMAL pages: one stream for all of them, or one for each
     24    2  stream_count                          |
     26    1  name_bytes                            | for SYNC and END there is nothing, for BYTES the payload,
     27    1  0                                     | for EXTENT a 16-byte digest
     28    4  table_bytes                           |
     32    8  tag: the source's packet number, or an extent's offset
     40    8  xxh3-64 over head[0:40], table and *decoded* streams

The checksum covers the pages as they were before encoding, so an encoder or decoder that makes a mistake is caught
like a flipped bit. Every count is checked against the others and against a limit before it is used to read,
allocate or index: `parse_head` says how much to read, `parse_table` how to cut it. A kind that a reader does not
know ends the link; kinds for deltas and references to pages already there can be added under new numbers.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import xxhash
from numpy.typing import NDArray
from typing_extensions import Buffer

from pipeline.codecs.codec import Codec, CodecId
from pipeline.errors import WireError
from pipeline.memory.pages import MAX_BATCH_PAGES, NORMAL, PAGE_BYTES, SAME, PageBatch, PageKind, as_bytes

MAGIC = b"KUAK"
HEAD_BYTES = 48
#: The length that means "this stream is not encoded".
RAW_STREAM = 0xFFFF_FFFF
#: Most payload a BYTES frame carries: a piece of QEMU's main channel, or one device-state packet.
MAX_PAYLOAD_BYTES = 4 << 20
DIGEST_BYTES = 16

_HEAD = struct.Struct(">4sBBHQIIHBBIQQ")
_CHECKED_HEAD_BYTES = 40
_KIND_COUNT = len(PageKind)


class FrameKind(IntEnum):
    """What a frame carries."""

    PAGES = 1
    SYNC = 2
    BYTES = 3
    EXTENT = 4
    END = 5


_PAGES = FrameKind.PAGES
#: By their numbers on the wire: a lookup costs a third of what the enumerations' own constructors do.
_KINDS = {int(kind): kind for kind in FrameKind}
_CODECS = {int(codec): codec for codec in CodecId}


# Made for every packet, so not frozen: a frozen class pays a call for each field.
@dataclass(slots=True, eq=False)
class FrameHead:
    """A frame's head, every field within its limit and consistent with the others."""

    kind: FrameKind
    codec_id: CodecId
    page_count: int
    sequence: int
    raw_bytes: int
    wire_bytes: int
    stream_count: int
    name_bytes: int
    table_bytes: int
    tag: int
    checksum: int
    #: The head's own bytes that the checksum covers.
    checked: bytes


@dataclass(slots=True, eq=False)
class FrameTable:
    """A PAGES frame's table, cut into its columns; `lengths` add up to the frame's streams."""

    block: bytes
    page_numbers: NDArray[np.uint32]
    kinds: NDArray[np.uint8]
    lengths: tuple[int, ...]
    fill_words: NDArray[np.uint64]
    normal_pages: int


@dataclass(slots=True, eq=False)
class EncodedFrame:
    """A frame ready to be written: `parts` in order, `wire_bytes` their sum, `raw_pages` the pages sent unencoded."""

    parts: tuple[Buffer, ...]
    wire_bytes: int
    raw_pages: int
    checksum: int
    codec_id: CodecId = CodecId.NONE


def encode_pages(batch: PageBatch, codec: Codec, sequence: int, tag: int) -> EncodedFrame:
    """Frame `batch`, its NORMAL pages encoded by `codec`; `tag` is the source's packet number."""
    normal = as_bytes(batch.normal)
    normal_pages = len(normal) // PAGE_BYTES
    streams: list[Buffer] = []
    lengths: list[int] = []
    raw_pages = 0
    if normal_pages:
        encoded = codec.encode(normal)
        step = len(normal) // len(encoded)
        for index, stream in enumerate(encoded):
            if stream is None:
                streams.append(normal[index * step : (index + 1) * step])
                lengths.append(RAW_STREAM)
                raw_pages += step // PAGE_BYTES
            else:
                streams.append(stream)
                lengths.append(memoryview(stream).nbytes)
    table = b"".join(
        (
            batch.block,
            batch.page_numbers.astype(">u4").tobytes(),
            batch.kinds.tobytes(),
            struct.pack(f">{len(lengths)}I", *lengths),
            batch.fill_words.tobytes(),
        )
    )
    stream_bytes = sum(memoryview(stream).nbytes for stream in streams)
    # Only now: it may have been chosen for this batch.
    codec_id = codec.codec_id
    checked = _HEAD.pack(
        MAGIC,
        _PAGES,
        codec_id,
        batch.page_count,
        sequence,
        batch.page_count * PAGE_BYTES,
        len(table) + stream_bytes,
        len(streams),
        len(batch.block),
        0,
        len(table),
        tag,
        0,
    )[:_CHECKED_HEAD_BYTES]
    checksum = _checksum(checked, table, (normal,))
    parts = (b"".join((checked, checksum.to_bytes(8, "big"), table)), *streams)
    return EncodedFrame(parts, HEAD_BYTES + len(table) + stream_bytes, raw_pages, checksum, codec_id)


def encode_plain(kind: FrameKind, sequence: int, payload: Buffer = b"", tag: int = 0) -> EncodedFrame:
    """Frame anything but pages: SYNC and END (no payload), BYTES (verbatim), EXTENT (a digest)."""
    view = as_bytes(payload)
    checked = _HEAD.pack(MAGIC, kind, 0, 0, sequence, len(view), len(view), 0, 0, 0, 0, tag, 0)[:_CHECKED_HEAD_BYTES]
    checksum = _checksum(checked, b"", (view,))
    head = checked + checksum.to_bytes(8, "big")
    return EncodedFrame((head, view) if len(view) else (head,), HEAD_BYTES + len(view), 0, checksum)


def parse_head(data: Buffer, expected_sequence: int) -> FrameHead:
    """Check and cut the 48 bytes of a head; raises `WireError` naming the field that is wrong."""
    view = memoryview(data)
    if len(view) != HEAD_BYTES:
        raise WireError(f"frame head has {len(view)} bytes, not {HEAD_BYTES}")
    magic, kind, codec, page_count, sequence, raw, wire, streams, name, zero, table, tag, checksum = _HEAD.unpack(view)
    if magic != MAGIC:
        raise WireError(f"frame starts with {magic.hex()}, not {MAGIC.hex()}: the peer is not kuaka or lost its place")
    if zero:
        raise WireError(f"frame {sequence} sets a reserved byte to {zero}")
    if sequence != expected_sequence:
        raise WireError(f"frame {sequence} arrived where frame {expected_sequence} was due")
    frame_kind, codec_id = _KINDS.get(kind), _CODECS.get(codec)
    if frame_kind is None:
        raise WireError(f"frame {sequence}: kind {kind} is unknown")
    if codec_id is None:
        raise WireError(f"frame {sequence}: codec {codec} is unknown")
    head = FrameHead(
        frame_kind, codec_id, page_count, sequence, raw, wire, streams, name, table, tag, checksum,
        bytes(view[:_CHECKED_HEAD_BYTES]),
    )  # fmt: skip
    if frame_kind is _PAGES:
        _check_pages_head(head)
    else:
        _check_plain_head(head)
    return head


def parse_table(head: FrameHead, table: Buffer) -> FrameTable:
    """Cut a PAGES frame's table into its columns; raises `WireError` if they do not add up."""
    view = memoryview(table)
    if len(view) != head.table_bytes:
        raise WireError(f"frame {head.sequence}: table has {len(view)} bytes, not {head.table_bytes}")
    numbers_at = head.name_bytes
    kinds_at = numbers_at + 4 * head.page_count
    lengths_at = kinds_at + head.page_count
    words_at = lengths_at + 4 * head.stream_count
    kinds = np.frombuffer(view[kinds_at:lengths_at], dtype=np.uint8)
    counts = np.bincount(kinds, minlength=_KIND_COUNT)
    if len(counts) > _KIND_COUNT:
        raise WireError(f"frame {head.sequence}: page kind {kinds.max()} is unknown")
    normal_pages = int(counts[NORMAL])
    if words_at + 8 * int(counts[SAME]) != head.table_bytes:
        raise WireError(f"frame {head.sequence}: table of {head.table_bytes} bytes does not fit its own counts")
    if head.stream_count != (1 if normal_pages else 0) and head.stream_count != normal_pages:
        raise WireError(f"frame {head.sequence}: {head.stream_count} streams for {normal_pages} normal pages")
    lengths = _stream_lengths(head, struct.unpack_from(f">{head.stream_count}I", view, lengths_at), normal_pages)
    return FrameTable(
        bytes(view[:numbers_at]),
        np.frombuffer(view[numbers_at:kinds_at], dtype=">u4").astype(np.uint32),
        kinds,
        lengths,
        np.frombuffer(view[words_at:], dtype=np.uint64),
        normal_pages,
    )


def decode_pages(head: FrameHead, table_bytes: Buffer, streams: memoryview, codec: Codec) -> PageBatch:
    """The batch of a PAGES frame, decoded and verified; raises `WireError`, and then nothing of the frame is used.

    `streams` are the bytes behind the table. The batch may share memory with `table_bytes` and `streams`.
    """
    table = parse_table(head, table_bytes)
    if head.codec_id is not codec.codec_id:
        raise WireError(f"frame {head.sequence}: codec {head.codec_id.name} where {codec.codec_id.name} decodes")
    if len(streams) != head.wire_bytes - head.table_bytes:
        raise WireError(f"frame {head.sequence}: {len(streams)} bytes of streams, not those the head announced")
    decoded = tuple(_decoded_streams(table, streams, codec))
    if _checksum(head.checked, table_bytes, decoded) != head.checksum:
        raise WireError(f"frame {head.sequence}: checksum differs: the pages changed between the two shards")
    normal = decoded[0] if len(decoded) == 1 else b"".join(decoded)
    return PageBatch(table.block, table.page_numbers, table.kinds, table.fill_words, normal)


def check_plain(head: FrameHead, payload: Buffer) -> None:
    """Verify the checksum of a frame that is not PAGES; raises `WireError`."""
    if _checksum(head.checked, b"", (payload,)) != head.checksum:
        raise WireError(f"frame {head.sequence}: checksum differs: the payload changed on its way")


def _check_pages_head(head: FrameHead) -> None:
    if not 1 <= head.page_count <= MAX_BATCH_PAGES:
        raise WireError(f"frame {head.sequence}: {head.page_count} pages, the limit is {MAX_BATCH_PAGES}")
    if head.raw_bytes != head.page_count * PAGE_BYTES:
        raise WireError(f"frame {head.sequence}: {head.raw_bytes} raw bytes for {head.page_count} pages")
    least = head.name_bytes + 5 * head.page_count + 4 * head.stream_count
    if not least <= head.table_bytes <= least + 8 * head.page_count:
        raise WireError(f"frame {head.sequence}: a table of {head.table_bytes} bytes does not fit its counts")
    if head.stream_count > head.page_count:
        raise WireError(f"frame {head.sequence}: {head.stream_count} streams for {head.page_count} pages")
    if not head.table_bytes <= head.wire_bytes <= head.table_bytes + head.raw_bytes:
        raise WireError(f"frame {head.sequence}: {head.wire_bytes} bytes on the wire for {head.raw_bytes} raw ones")


def _check_plain_head(head: FrameHead) -> None:
    if head.page_count or head.stream_count or head.name_bytes or head.table_bytes or head.codec_id is not CodecId.NONE:
        raise WireError(f"frame {head.sequence}: a {head.kind.name} frame has no pages")
    if head.raw_bytes != head.wire_bytes:
        raise WireError(f"frame {head.sequence}: {head.wire_bytes} bytes on the wire for {head.raw_bytes} raw ones")
    if head.kind is FrameKind.EXTENT and head.wire_bytes != DIGEST_BYTES:
        raise WireError(f"frame {head.sequence}: a digest of {head.wire_bytes} bytes, not {DIGEST_BYTES}")
    limit = {FrameKind.BYTES: MAX_PAYLOAD_BYTES, FrameKind.EXTENT: DIGEST_BYTES}.get(head.kind, 0)
    if head.wire_bytes > limit:
        raise WireError(f"frame {head.sequence}: {head.kind.name} of {head.wire_bytes} bytes, the limit is {limit}")


def _stream_lengths(head: FrameHead, announced: Sequence[int], normal_pages: int) -> tuple[int, ...]:
    raw_length = normal_pages * PAGE_BYTES // max(1, head.stream_count)
    lengths = tuple(raw_length if length == RAW_STREAM else length for length in announced)
    for length, mark in zip(lengths, announced, strict=True):
        if mark != RAW_STREAM and not 0 < length < raw_length:
            raise WireError(f"frame {head.sequence}: an encoded stream of {length} bytes for {raw_length} raw ones")
    if head.table_bytes + sum(lengths) != head.wire_bytes:
        raise WireError(f"frame {head.sequence}: streams of {sum(lengths)} bytes do not fill the frame")
    # The mark itself is kept: it alone tells a raw stream from an encoded one.
    return tuple(announced)


def _decoded_streams(table: FrameTable, streams: memoryview, codec: Codec) -> Sequence[Buffer]:
    if not table.lengths:
        return ()
    raw_length = table.normal_pages * PAGE_BYTES // len(table.lengths)
    parts: list[Buffer] = []
    encoded: list[memoryview] = []
    at = 0
    for length in table.lengths:
        size = raw_length if length == RAW_STREAM else length
        part = streams[at : at + size]
        parts.append(part)
        if length != RAW_STREAM:
            encoded.append(part)
        at += size
    if not encoded:
        return parts
    decoded = iter(codec.decode_streams(encoded, raw_length))
    return [part if length == RAW_STREAM else next(decoded) for part, length in zip(parts, table.lengths, strict=True)]


def _checksum(checked_head: Buffer, table: Buffer, decoded: Sequence[Buffer]) -> int:
    digest = xxhash.xxh3_64(checked_head)
    digest.update(table)
    for part in decoded:
        digest.update(part)
    return digest.intdigest()
