"""Batches of pages of any mix of kinds, the same in every run."""

from collections.abc import Sequence

import numpy as np
from hypothesis import strategies as st

from pipeline.codecs.codec import Codec
from pipeline.memory.pages import PageBatch, PageKind
from pipeline.wire.frames import HEAD_BYTES, decode_pages, encode_pages, parse_head
from tests.codecs.page_bytes import TEXTURES, textured

KINDS = st.lists(st.sampled_from(PageKind), min_size=1, max_size=64)


def batch_of(kinds: Sequence[PageKind], texture: str = "text", seed: int = 1, block: bytes = b"pc.ram") -> PageBatch:
    """A batch of pages of these kinds at random places, its NORMAL pages of one texture."""
    rng = np.random.default_rng(seed)
    return PageBatch(
        block,
        rng.integers(0, 2**32, len(kinds), dtype=np.uint32),
        np.array(kinds, dtype=np.uint8),
        rng.integers(1, 2**64, kinds.count(PageKind.SAME), dtype=np.uint64, endpoint=False),
        textured(texture, kinds.count(PageKind.NORMAL), seed),
    )


BATCHES = st.builds(batch_of, KINDS, st.sampled_from(TEXTURES), st.integers(0, 2**32 - 1), st.binary(max_size=255))


def normal_batch(pages: int, texture: str = "text") -> PageBatch:
    """A batch of NORMAL pages only."""
    return batch_of([PageKind.NORMAL] * pages, texture)


def same_batch(one: PageBatch, other: PageBatch) -> bool:
    """Whether two batches say the same, to the last byte."""
    return (
        one.block == other.block
        and one.page_numbers.tolist() == other.page_numbers.tolist()
        and one.kinds.tolist() == other.kinds.tolist()
        and one.fill_words.tobytes() == other.fill_words.tobytes()
        and bytes(one.normal) == bytes(other.normal)
    )


def frame_bytes(batch: PageBatch, codec: Codec, sequence: int = 0, tag: int = 0) -> bytes:
    """A whole PAGES frame."""
    return b"".join(encode_pages(batch, codec, sequence, tag).parts)


def read_frame(data: bytes | bytearray, codec: Codec, sequence: int = 0) -> PageBatch:
    """What a receiver makes of a PAGES frame; raises `EOFError` where it would wait for bytes that never come."""
    head = parse_head(data[:HEAD_BYTES], sequence)
    body = memoryview(data)[HEAD_BYTES : HEAD_BYTES + head.wire_bytes]
    if len(body) < head.wire_bytes:
        raise EOFError("the link ended inside a frame")
    return decode_pages(head, body[: head.table_bytes], body[head.table_bytes :], codec)
