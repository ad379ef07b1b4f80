"""No compression: pages travel as they are."""

from collections.abc import Sequence

from typing_extensions import Buffer

from pipeline.codecs.codec import CodecId, DecodeError, OneByOne, check_level


class NoneCodec(OneByOne):
    """Every batch is one raw stream."""

    codec_id = CodecId.NONE

    def __init__(self, level: int | None = None) -> None:
        check_level(self.codec_id, level, 0, 0, 0)

    def encode(self, pages: memoryview) -> Sequence[Buffer | None]:
        """Always raw."""
        return (None,)

    def decode(self, stream: memoryview, size_bytes: int) -> Buffer:
        """Never called for a frame of ours, which marks its stream raw."""
        if len(stream) != size_bytes:
            raise DecodeError(f"stored stream has {len(stream)} bytes where {size_bytes} were announced")
        return stream
