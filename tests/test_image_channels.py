"""One channel of an image from file to file; frames that somebody dropped, swapped, repeated or altered on the way."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from pipeline.codecs.codec import Codec, CodecId
from pipeline.codecs.table import codec_for
from pipeline.errors import KuakaError, WireError
from pipeline.image_channels import ImageChannelSource, ImageSink
from pipeline.memory.image_source import ImageSource
from pipeline.memory.pages import PAGE_BYTES, PageBatch
from pipeline.shard import ShardCounters, ShardSender, receive_all
from pipeline.wire.frames import (
    HEAD_BYTES,
    EncodedFrame,
    FrameHead,
    FrameKind,
    check_plain,
    decode_pages,
    encode_pages,
    encode_plain,
    parse_head,
)
from tests.memory.image_files import image_bytes, write_sparse

EXTENT_BYTES = 8 * PAGE_BYTES
#: Two extents of two frames each, a hole, and one more.
KINDS = "nzsn" + "nnnn" + "zzzz" + "nnzn" + "z" * 8 + "nsnsnsns"
SIZE = len(KINDS) * PAGE_BYTES
CODEC = codec_for(CodecId.LZ4)

#: What somebody between the two ends has: the batch and codec of a PAGES frame, or a plain frame's fields.
Sent = tuple[PageBatch, Codec, int] | tuple[FrameKind, bytes, int]


@dataclass
class Recorder:
    """A link that keeps what is sent, copied."""

    sent: list[Sent] = field(default_factory=list)

    def send_pages(self, batch: PageBatch, codec: Codec, tag: int) -> EncodedFrame:
        frame = encode_pages(batch, codec, len(self.sent), tag)
        self.sent.append((decoded(frame, codec), codec, tag))
        return frame

    def send_plain(self, kind: FrameKind, payload: bytes = b"", tag: int = 0) -> None:
        self.sent.append((kind, payload, tag))

    def finish(self) -> None:
        self.send_plain(FrameKind.END)


def decoded(frame: EncodedFrame, codec: Codec) -> PageBatch:
    data = b"".join(frame.parts)
    head = parse_head(data[:HEAD_BYTES], int.from_bytes(data[8:16], "big"))
    body = memoryview(data)[HEAD_BYTES:]
    return decode_pages(head, body[: head.table_bytes], body[head.table_bytes :], codec)


@dataclass
class Replay:
    """A link that hears frames: sealed and numbered anew, so that each one is right in itself."""

    frames: Sequence[Sent]
    at: int = -1
    body: memoryview = field(init=False)
    wire_bytes: int = 0

    def receive(self) -> FrameHead:
        self.at += 1
        what, codec_or_payload, tag = self.frames[self.at]
        if isinstance(what, PageBatch):
            frame = encode_pages(what, codec_or_payload, self.at, tag)
        else:
            frame = encode_plain(what, self.at, codec_or_payload, tag)
        data = b"".join(frame.parts)
        self.body = memoryview(data)[HEAD_BYTES:]
        return parse_head(data[:HEAD_BYTES], self.at)

    def pages(self, head: FrameHead) -> PageBatch:
        return decode_pages(head, self.body[: head.table_bytes], self.body[head.table_bytes :], CODEC)

    def payload(self, head: FrameHead) -> memoryview:
        check_plain(head, self.body)
        return self.body

    def acknowledge(self, head: FrameHead) -> None:
        pass

    def reject(self, reason: str) -> None:
        pass


@pytest.fixture
def content() -> bytes:
    return image_bytes(KINDS)


@pytest.fixture
def recorded(tmp_path: Path, content: bytes) -> tuple[list[Sent], ImageChannelSource]:
    path = tmp_path / "source"
    write_sparse(path, content)
    recorder, counters = Recorder(), ShardCounters()
    with ImageSource.open(path, batch_pages=4) as image:
        source = ImageChannelSource(image, EXTENT_BYTES, 0, 1)
        source.run(ShardSender(recorder, CODEC, counters), counters)
    assert counters.pages == len(KINDS)
    return recorder.sent, source


def arrive(frames: Sequence[Sent], path: Path) -> ImageSink:
    """Place frames into a file full of old bytes."""
    path.write_bytes(b"\xaa" * SIZE)
    sink = ImageSink(path, SIZE, EXTENT_BYTES, reused=True)
    try:
        receive_all(Replay(frames), sink, ShardCounters())
    finally:
        sink.close()
    return sink


def test_image_arrives_and_both_ends_have_the_same_digests(
    tmp_path: Path, content: bytes, recorded: tuple[list[Sent], ImageChannelSource]
) -> None:
    frames, source = recorded
    kinds = [frame[0] if isinstance(frame[0], FrameKind) else FrameKind.PAGES for frame in frames]
    extent, pages = FrameKind.EXTENT, FrameKind.PAGES
    assert kinds == [pages, pages, extent] * 2 + [extent] + [pages, pages, extent] + [FrameKind.END]
    sink = arrive(frames, tmp_path / "target")
    assert (tmp_path / "target").read_bytes() == content
    assert sink.digests == source.digests
    assert [digest.offset_bytes for digest in sink.digests] == list(range(0, SIZE, EXTENT_BYTES))


def altered(frame: Sent) -> Sent:
    """A frame of the same pages, one bit of them changed."""
    batch, codec, tag = frame
    assert isinstance(batch, PageBatch)
    normal = bytearray(batch.normal)
    normal[0] ^= 1
    return PageBatch(batch.block, batch.page_numbers, batch.kinds, batch.fill_words, bytes(normal)), codec, tag


def refilled(frame: Sent) -> Sent:
    """A frame whose same-filled pages have another word."""
    batch, codec, tag = frame
    assert isinstance(batch, PageBatch)
    return PageBatch(batch.block, batch.page_numbers, batch.kinds, batch.fill_words + 1, batch.normal), codec, tag


@pytest.mark.parametrize(
    "change",
    [
        lambda f: [*f[:1], *f[2:]],
        lambda f: [f[1], f[0], *f[2:]],
        lambda f: [f[0], f[0], *f[1:]],
        lambda f: [f[0], f[3], *f[2:]],
        lambda f: [altered(f[0]), *f[1:]],
        lambda f: [refilled(f[0]), *f[1:]],
        lambda f: f[2:],
        lambda f: [*f[:2], *f[3:]],
    ],
    ids=[
        "dropped", "swapped", "repeated", "of another extent", "altered", "filled otherwise",
        "all of an extent dropped", "two extents as one",
    ],
)  # fmt: skip
def test_frames_that_are_right_in_themselves_and_wrong_together_are_found(
    tmp_path: Path,
    recorded: tuple[list[Sent], ImageChannelSource],
    change: Callable[[list[Sent]], list[Sent]],
) -> None:
    with pytest.raises(KuakaError, match="not those that were sent"):
        arrive(change(recorded[0]), tmp_path / "target")


@pytest.mark.parametrize("offset", [1, PAGE_BYTES, SIZE, 2**63])
def test_extent_at_another_place_than_the_image_has_one_is_refused(tmp_path: Path, offset: int) -> None:
    with pytest.raises(WireError, match="is not one of this image's"):
        arrive([(FrameKind.EXTENT, bytes(16), offset)], tmp_path / "target")
