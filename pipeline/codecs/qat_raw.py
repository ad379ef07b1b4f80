"""Raw deflate with a 4 KiB window, one stream of one block per page, by igzip: what QAT makes and IAA decodes, too.

Each stream stays within what any side decodes: QAT's hardware takes a raw stream of one block whose output is below its
buffer of 64 KiB, IAA no distance beyond 4 KiB, zlib and igzip anything. It has no checksum: the frame's covers the
pages. A codec of its own beside deflate, whose streams may be a whole batch each. By a device: `codecs.device_qat_raw`.
"""

from collections.abc import Sequence

from isal import igzip_lib
from typing_extensions import Buffer

from pipeline.codecs.codec import CodecId, OneByOne, check_level
from pipeline.codecs.deflate import HISTORY_BITS, inflate
from pipeline.memory.pages import PAGE_BYTES

#: Bit of a stream's first byte: its first block is its last.
_FINAL_BLOCK = 1


class QatRawCodec(OneByOne):
    """One raw deflate stream per page."""

    codec_id = CodecId.QAT_RAW
    #: A device with less history than this cannot decode the streams.
    window_bytes = 1 << HISTORY_BITS

    def __init__(self, level: int | None = None) -> None:
        """`level` is igzip's, 0 to 3: at a page's size 1 costs two and a half times 0. Hardware has its own."""
        self._level = check_level(self.codec_id, level, 0, 3, 0)

    def encode(self, pages: memoryview) -> Sequence[Buffer | None]:
        """One stream per page; None where raw is no larger."""
        return [self.encode_page(pages[place : place + PAGE_BYTES]) for place in range(0, len(pages), PAGE_BYTES)]

    def encode_page(self, page: memoryview) -> bytes | None:
        """A page as a stream of its own, or None."""
        stream = igzip_lib.compress(page, self._level, igzip_lib.COMP_DEFLATE, igzip_lib.MEM_LEVEL_MIN, HISTORY_BITS)
        return stream if len(stream) < PAGE_BYTES and is_one_block(stream) else None

    def decode(self, stream: memoryview, size_bytes: int) -> Buffer:
        """Decode one stream, whatever its blocks, into exactly `size_bytes`; raises `DecodeError`."""
        return inflate(stream, size_bytes, HISTORY_BITS)


def is_one_block(stream: bytes | memoryview) -> bool:
    """Whether a stream (of a byte at least) is of one deflate block, as far as QAT's hardware would have to ask."""
    return bool(stream[0] & _FINAL_BLOCK)
