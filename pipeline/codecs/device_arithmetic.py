"""What an emulated device computes: deflate as IAA writes it, and whether a page is zero.

Level 0 with a window of 4 KiB is what IAA's one level comes to (ratio 1.6 on pages of programs, as QPL's fixed mode),
at 8 to 11 us per page. Output is bounded before it is made: a stream cannot be asked for more than its capacity.
"""

from typing import cast

from isal import igzip_lib

from pipeline.codecs.deflate import HISTORY_BITS

_LEVEL = 0
# Bound once: they are looked up for every page.
_compress, _FLAG, _MEMORY = igzip_lib.compress, igzip_lib.COMP_DEFLATE, igzip_lib.MEM_LEVEL_MIN
_ZERO = bytes(1 << 16)
# The package's stub takes this class for an instance of Exception.
_IsalError = cast(type[Exception], igzip_lib.IsalError)


class DeflateArithmetic:
    """See `scheduler.devices.emulated.arithmetic.Arithmetic`; `history_bits` is log2 of the device's window."""

    def __init__(self, history_bits: int = HISTORY_BITS) -> None:
        self._history_bits = history_bits

    def compress(self, data: memoryview) -> bytes:
        """One raw deflate stream."""
        return _compress(data, _LEVEL, _FLAG, _MEMORY, self._history_bits)

    def decompress(self, stream: memoryview, capacity_bytes: int) -> bytes | None:
        """What a raw deflate stream with nothing behind it holds, or None."""
        inflater = igzip_lib.IgzipDecompressor(igzip_lib.DECOMP_DEFLATE, self._history_bits)
        try:
            data = inflater.decompress(stream, max_length=capacity_bytes)
            # The end-of-block symbol may be unread when the output is full.
            if not inflater.eof and inflater.decompress(b"", max_length=1):
                return None
        except _IsalError:
            return None
        return data if inflater.eof and not inflater.unused_data else None

    def is_zero(self, data: memoryview) -> bool:
        """Compared with zeros piece by piece: faster than a numpy call for a page."""
        return all(
            data[start : start + len(_ZERO)].tobytes() == _ZERO[: min(len(_ZERO), len(data) - start)]
            for start in range(0, len(data), len(_ZERO))
        )


def compress_page(page: memoryview) -> bytes:
    """A page as a stream of its own: at a page's size level 1 costs two and a half times level 0."""
    return _compress(page, _LEVEL, _FLAG, _MEMORY, HISTORY_BITS)
