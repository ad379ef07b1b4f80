"""Raw deflate with a 4 KiB window, by igzip: what Intel's IAA reads and writes.

IAA's history buffer is 4 KiB, so a stream with a larger window cannot be decoded by the device at the other end.
hist_bits=12 bounds every distance to 4096 bytes when encoding, and refuses larger ones when decoding; both
directions were measured against QPL. igzip does not skip random data by itself, hence the raw escape matters most
here.
"""

from collections.abc import Sequence
from typing import cast

from isal import igzip_lib
from typing_extensions import Buffer

from pipeline.codecs.codec import CodecId, DecodeError, OneByOne, check_level

#: log2 of the window: 4 KiB, IAA's.
HISTORY_BITS = 12
# The package's stub takes this class for an instance of Exception.
_IsalError = cast(type[Exception], igzip_lib.IsalError)


class DeflateCodec(OneByOne):
    """One raw deflate stream per batch."""

    codec_id = CodecId.DEFLATE
    #: A device with less history than this cannot decode the streams.
    window_bytes = 1 << HISTORY_BITS

    def __init__(self, level: int | None = None) -> None:
        self._level = check_level(self.codec_id, level, 0, 3, 1)

    def encode(self, pages: memoryview) -> Sequence[Buffer | None]:
        """One stream, or None when it would not shrink."""
        stream = igzip_lib.compress(
            pages,
            self._level,
            igzip_lib.COMP_DEFLATE,
            igzip_lib.MEM_LEVEL_LARGE,
            HISTORY_BITS,
        )
        return (stream if len(stream) < len(pages) else None,)

    def decode(self, stream: memoryview, size_bytes: int) -> Buffer:
        """Decode one stream into exactly `size_bytes`; it must end there, with nothing behind it."""
        return inflate(stream, size_bytes, HISTORY_BITS)


def inflate(stream: memoryview, size_bytes: int, history_bits: int) -> bytes:
    """The `size_bytes` bytes that one raw deflate stream holds, no distance in it beyond 2^`history_bits`.

    It must end there, with nothing behind it; raises `DecodeError`.
    """
    inflater = igzip_lib.IgzipDecompressor(igzip_lib.DECOMP_DEFLATE, history_bits)
    try:
        pages = inflater.decompress(stream, max_length=size_bytes)
        # The end-of-block symbol may be unread when the output is full: a byte more tells it from a longer stream.
        if len(pages) == size_bytes and not inflater.eof and inflater.decompress(b"", max_length=1):
            raise DecodeError(f"deflate stream holds more than the {size_bytes} bytes announced")
    except _IsalError as error:
        raise DecodeError(f"deflate stream does not decode: {error}") from None
    if len(pages) != size_bytes or not inflater.eof or inflater.unused_data:
        raise DecodeError(f"deflate stream does not end after the {size_bytes} bytes announced")
    return pages
