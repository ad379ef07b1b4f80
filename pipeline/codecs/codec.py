"""The interface every page codec keeps, and the names and numbers they go by; `codecs.table` makes them.

A codec turns the NORMAL pages of one batch into streams and back. It makes either one stream for the whole batch
(the CPU codecs: a larger window compresses better) or one per page (accelerators work page by page). A stream that
would not shrink is None and the caller sends those bytes raw. Decoding returns exactly the announced number of
bytes or raises: no codec writes, or allocates, past it, whatever the stream claims about itself.

A codec object belongs to one thread at a time.
"""

from collections.abc import Sequence
from enum import IntEnum
from typing import Protocol

from typing_extensions import Buffer

from pipeline.errors import UsageError, WireError


class CodecId(IntEnum):
    """Codec numbers on the wire; a number is never given twice."""

    NONE = 0
    LZ4 = 1
    ZSTD = 2
    DEFLATE = 3
    QAT = 4
    QAT_RAW = 5

    @property
    def label(self) -> str:
        """What people call it."""
        return self.name.lower().replace("_", "-")


class DecodeError(WireError):
    """A stream is not what its codec makes, or does not decode to the announced size."""


class Codec(Protocol):
    """One compression method with its settings."""

    @property
    def codec_id(self) -> CodecId:
        """Its number on the wire."""

    def encode(self, pages: memoryview) -> Sequence[Buffer | None]:
        """Streams of `pages` (a whole number of them): one for all of them or one each; None where raw is no larger."""

    def decode(self, stream: memoryview, size_bytes: int) -> Buffer:
        """The `size_bytes` bytes that `stream` holds; raises `DecodeError` if it holds anything else."""

    def decode_streams(self, streams: Sequence[memoryview], size_bytes: int) -> Sequence[Buffer]:
        """All streams of a frame, `size_bytes` bytes each; raises `DecodeError`."""


class OneByOne:
    """`Codec.decode_streams` for a codec that gains nothing by seeing all of them."""

    def decode(self, stream: memoryview, size_bytes: int) -> Buffer:
        """See `Codec`."""
        raise NotImplementedError

    def decode_streams(self, streams: Sequence[memoryview], size_bytes: int) -> Sequence[Buffer]:
        """See `Codec`."""
        return [self.decode(stream, size_bytes) for stream in streams]


#: `iaa` is what people ask for by the device that makes it.
_BY_NAME = {codec_id.label: codec_id for codec_id in CodecId} | {"iaa": CodecId.DEFLATE}


def codec_names() -> tuple[str, ...]:
    """Names that `--codec` takes."""
    return tuple(_BY_NAME)


def parse_codec(name: str) -> CodecId:
    """The codec called `name`; raises `UsageError` that lists the ones there are."""
    try:
        return _BY_NAME[name.lower()]
    except KeyError:
        raise UsageError(f"codec {name!r} is unknown: choose one of {', '.join(codec_names())}") from None


def check_level(codec_id: CodecId, level: int | None, lowest: int, highest: int, default: int) -> int:
    """`level`, or `default` for None; raises `UsageError` when the codec has no such level."""
    if level is None:
        return default
    if not lowest <= level <= highest:
        raise UsageError(f"level {level} does not exist for {codec_id.label}: choose {lowest} to {highest}")
    return level
