"""The codecs there are, each made by its number."""

from collections.abc import Callable, Mapping

from pipeline.codecs.codec import Codec, CodecId
from pipeline.codecs.deflate import DeflateCodec
from pipeline.codecs.lz4 import Lz4Codec
from pipeline.codecs.none import NoneCodec
from pipeline.codecs.qat import QatCodec
from pipeline.codecs.qat_raw import QatRawCodec
from pipeline.codecs.zstd import ZstdCodec

_MAKERS: Mapping[CodecId, Callable[[int | None], Codec]] = {
    CodecId.NONE: NoneCodec,
    CodecId.LZ4: Lz4Codec,
    CodecId.ZSTD: ZstdCodec,
    CodecId.DEFLATE: DeflateCodec,
    CodecId.QAT: QatCodec,
    CodecId.QAT_RAW: QatRawCodec,
}


def codec_for(codec_id: CodecId, level: int | None = None) -> Codec:
    """A codec; `level` is on the codec's own scale, None its default. Raises `UsageError` for one it does not have."""
    return _MAKERS[codec_id](level)
