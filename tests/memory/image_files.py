"""Images to test with, and a whole transfer in one process: read, scan, write, verify, commit."""

from pathlib import Path

import numpy as np

from pipeline.codecs.codec import CodecId
from pipeline.codecs.table import codec_for
from pipeline.memory.image_extents import ExtentDigest, FrameChain, image_digest
from pipeline.memory.image_source import ImageSource, PageRun
from pipeline.memory.image_target import TargetImage
from pipeline.memory.image_writer import TargetWriter
from pipeline.memory.pages import PAGE_BYTES, PageBatch, PageKind, as_bytes
from pipeline.memory.scan import scan
from pipeline.wire.frames import encode_pages

SESSION = "0123456789abcdef"
#: Small, so that small images have several.
EXTENT_BYTES = 8 * PAGE_BYTES


def image_bytes(kinds: str, seed: int = 7) -> bytes:
    """One page per letter: `z` zeros, `s` one word repeated, anything else random."""
    random = np.random.default_rng(seed)
    pages = {"z": lambda: bytes(PAGE_BYTES), "s": lambda: random.bytes(8) * (PAGE_BYTES // 8)}
    return b"".join(pages.get(kind, lambda: random.bytes(PAGE_BYTES))() for kind in kinds)


def write_sparse(path: Path, content: bytes) -> None:
    """Write an image whose zero pages are holes."""
    with path.open("wb") as file:
        file.truncate(len(content))
        for offset in range(0, len(content), PAGE_BYTES):
            page = content[offset : offset + PAGE_BYTES]
            if any(page):
                file.seek(offset)
                file.write(page)


def batch_of(run: PageRun) -> PageBatch:
    """What the shard makes of a run on one side and gives to the writer on the other."""
    kinds, fill_words = scan(run.pages) if len(run.pages) else (np.empty(0, np.uint8), np.empty(0, np.uint64))
    normal = as_bytes(run.pages[kinds == PageKind.NORMAL].data)
    numbers = np.concatenate((run.page_numbers, run.hole_numbers))
    kinds = np.concatenate((kinds, np.full(len(run.hole_numbers), PageKind.ZERO, dtype=np.uint8)))
    return PageBatch(b"", numbers, kinds, fill_words, normal)


def fill(source: ImageSource, writer: TargetWriter, extent_bytes: int = EXTENT_BYTES) -> list[ExtentDigest]:
    """Move every extent; the digests as the writer verified them."""
    verified = []
    for extent in source.extents(extent_bytes):
        chain = FrameChain()
        for run in source.read(extent):
            batch = batch_of(run)
            checksum = encode_pages(batch, codec_for(CodecId.NONE), 0, 0).checksum
            chain.add(checksum)
            writer.write(batch, checksum)
        verified.append(writer.finish_extent(extent.offset_bytes, extent.length_bytes, chain.digest()))
    return verified


def transfer(source_path: Path, final_path: Path, *, reuse: Path | None = None, batch_pages: int = 4) -> None:
    """Move an image from file to file."""
    with ImageSource.open(source_path, batch_pages=batch_pages) as source:
        size = source.facts.size_bytes
        target = TargetImage.create(final_path, size, SESSION, reuse=reuse)
        with TargetWriter.open(target.path, size, reused=target.reused) as writer:
            verified = fill(source, writer)
        target.commit(verified, image_digest(verified, size), mode=source.facts.mode)
