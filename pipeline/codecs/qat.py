"""Gzip-extended deflate with a 32 KiB window, by igzip: what QAT reads and writes by QATzip, made and read by the CPU.

Streams of this codec must not reach an IAA, whose history is 4 KiB: `window_bytes` says so, and it has a number of its
own on the wire. By a device: `codecs.device_qat`.
"""

from collections.abc import Sequence

from typing_extensions import Buffer

from pipeline.codecs.codec import CodecId, OneByOne, check_level
from pipeline.codecs.gzip_extended import HISTORY_BITS, make_members, parse_members, read_member


class QatCodec(OneByOne):
    """One gzip-extended stream per batch."""

    codec_id = CodecId.QAT
    #: A device with less history than this cannot decode the streams.
    window_bytes = 1 << HISTORY_BITS

    def __init__(self, level: int | None = None) -> None:
        """`level` is igzip's, 0 to 3; hardware has its own."""
        self.level = check_level(self.codec_id, level, 0, 3, 1)

    def encode(self, pages: memoryview) -> Sequence[Buffer | None]:
        """One stream, or None when it would not shrink."""
        stream = b"".join(make_members(pages, self.level))
        return (stream if len(stream) < len(pages) else None,)

    def decode(self, stream: memoryview, size_bytes: int) -> Buffer:
        """Decode one stream into exactly `size_bytes`; every member's sizes and checksum must be right."""
        return b"".join(read_member(stream, member) for member in parse_members(stream, size_bytes))
