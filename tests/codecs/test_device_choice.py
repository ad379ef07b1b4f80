"""Where a batch goes when several codecs could do it: to the one that is expected to be done first."""

from collections.abc import Sequence

import numpy as np
import pytest
from typing_extensions import Buffer

from pipeline.codecs.codec import CodecId, OneByOne
from pipeline.codecs.device_choice import ChoosingCodec
from pipeline.memory.pages import PAGE_BYTES, PageBatch
from pipeline.wire.frames import HEAD_BYTES, encode_pages, parse_head
from tests.codecs.page_bytes import textured


class Clock:
    def __init__(self) -> None:
        self.now_ns = 0

    def __call__(self) -> int:
        return self.now_ns


class Timed(OneByOne):
    """A codec that takes so long for a page."""

    def __init__(self, codec_id: CodecId, clock: Clock, page_ns: int) -> None:
        self.codec_id = codec_id
        self.page_ns = page_ns
        self.batches = 0
        self._clock = clock

    def encode(self, pages: memoryview) -> Sequence[Buffer | None]:
        self.batches += 1
        self._clock.now_ns += self.page_ns * (len(pages) // PAGE_BYTES)
        return (None,)


BATCH = PageBatch(
    b"ram", np.arange(4, dtype=np.uint32), np.zeros(4, np.uint8), np.empty(0, np.uint64), textured("text", 4)
)
PAGES = memoryview(bytes(128 * PAGE_BYTES))


@pytest.fixture
def clock() -> Clock:
    return Clock()


def both(clock: Clock, iaa_ns: int, qat_ns: int) -> tuple[Timed, Timed, ChoosingCodec]:
    iaa, qat = Timed(CodecId.DEFLATE, clock, iaa_ns), Timed(CodecId.QAT, clock, qat_ns)
    return iaa, qat, ChoosingCodec((iaa, qat), clock)


@pytest.mark.parametrize(("iaa_ns", "qat_ns"), [(1000, 3000), (3000, 1000)])
def test_quicker_one_gets_nearly_everything_and_the_other_is_tried_now_and_then(
    clock: Clock, iaa_ns: int, qat_ns: int
) -> None:
    iaa, qat, codec = both(clock, iaa_ns, qat_ns)
    for _ in range(2000):
        codec.encode(PAGES)
    slow, fast = sorted((iaa, qat), key=lambda each: each.batches)
    assert fast.page_ns < slow.page_ns
    assert 3 <= slow.batches < 40


def test_one_whose_queue_fills_up_is_left_and_comes_back_when_it_is_empty_again(clock: Clock) -> None:
    iaa, qat, codec = both(clock, 1000, 2000)
    for _ in range(50):
        codec.encode(PAGES)
    iaa.page_ns, before = 20_000, qat.batches
    for _ in range(100):
        codec.encode(PAGES)
    assert qat.batches - before > 90
    iaa.page_ns, before = 1000, iaa.batches
    for _ in range(2000):
        codec.encode(PAGES)
    assert iaa.batches - before > 1000


def test_batches_of_different_sizes_are_compared_by_the_page(clock: Clock) -> None:
    iaa, qat, codec = both(clock, 1000, 1100)
    codec.encode(PAGES)
    codec.encode(PAGES)
    codec.encode(PAGES[:PAGE_BYTES])
    codec.encode(PAGES[:PAGE_BYTES])
    for _ in range(20):
        codec.encode(PAGES)
    assert iaa.batches == 22
    assert qat.batches == 2


def test_frame_names_the_codec_that_made_it(clock: Clock) -> None:
    iaa, qat, codec = both(clock, 1000, 1000)
    # Both are tried twice before either is measured against the other.
    for made_by in (iaa, iaa, qat, qat):
        frame = encode_pages(BATCH, codec, 0, 7)
        head = bytes(frame.parts[0])[:HEAD_BYTES]
        assert parse_head(head, 0).codec_id is frame.codec_id is made_by.codec_id
