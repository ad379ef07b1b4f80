"""Image files as they are read: the cut into extents, holes, and files that are not or no longer what they were."""

import os
from pathlib import Path

import pytest
import xxhash

from pipeline.errors import KuakaError
from pipeline.memory.image_extents import ExtentDigest, FrameChain, image_digest
from pipeline.memory.image_source import ImageSource, inspect_image
from pipeline.memory.pages import PAGE_BYTES
from tests.memory.image_files import EXTENT_BYTES, image_bytes, write_sparse

PAGES_PER_EXTENT = EXTENT_BYTES // PAGE_BYTES


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "guest.ram"


def read_back(source: ImageSource) -> bytes:
    content = bytearray(source.facts.size_bytes)
    for extent in source.extents(EXTENT_BYTES):
        for run in source.read(extent):
            assert len(run.page_numbers) == len(run.pages)
            if len(run.pages):
                at = int(run.page_numbers[0]) * PAGE_BYTES
                content[at : at + run.pages.nbytes] = run.pages.tobytes()
    return bytes(content)


@pytest.mark.parametrize("kinds", ["n", "z", "nz" * 9, "nnzzsszz" * 3 + "n", "z" * 40 + "n" + "z" * 40])
@pytest.mark.parametrize("sparse", [False, True])
def test_runs_hold_every_page_at_its_number(path: Path, kinds: str, sparse: bool) -> None:
    content = image_bytes(kinds)
    if sparse:
        write_sparse(path, content)
    else:
        path.write_bytes(content)
    with ImageSource.open(path, batch_pages=3) as source:
        assert read_back(source) == content


def test_extents_tile_the_file_and_mark_whole_holes(path: Path) -> None:
    write_sparse(path, image_bytes("n" + "z" * (3 * PAGES_PER_EXTENT - 1) + "z" * PAGES_PER_EXTENT + "nn"))
    with ImageSource.open(path) as source:
        extents = source.extents(EXTENT_BYTES)
    assert [extent.offset_bytes for extent in extents] == [index * EXTENT_BYTES for index in range(5)]
    assert [extent.page_count for extent in extents] == [PAGES_PER_EXTENT] * 4 + [2]
    assert [extent.hole for extent in extents] == [False, True, True, True, False]


def test_hole_extent_has_no_runs(path: Path) -> None:
    write_sparse(path, bytes(EXTENT_BYTES))
    with ImageSource.open(path) as source:
        (extent,) = source.extents(EXTENT_BYTES)
        assert list(source.read(extent)) == []


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("batch_pages", [1, 3, 512])
def test_runs_name_every_page_once_and_in_order(path: Path, sparse: bool, batch_pages: int) -> None:
    (write_sparse if sparse else Path.write_bytes)(path, image_bytes("zzzzzzns"))
    with ImageSource.open(path, batch_pages=batch_pages) as source:
        runs = source.read(source.extents(EXTENT_BYTES)[0])
        numbers = [number for run in runs for number in (*run.page_numbers.tolist(), *run.hole_numbers.tolist())]
    assert numbers == list(range(PAGES_PER_EXTENT))


def test_extent_digest_is_that_of_its_frames_checksums_in_order() -> None:
    chain = FrameChain()
    assert chain.digest() == xxhash.xxh3_128_digest(b"")
    chain.add(1)
    chain.add(2**64 - 1)
    assert chain.digest() == xxhash.xxh3_128_digest(bytes(7) + b"\1" + b"\xff" * 8)


def test_image_digest_does_not_depend_on_the_order_of_arrival() -> None:
    extents = [ExtentDigest(0, 8192, b"a" * 16), ExtentDigest(8192, 4096, b"b" * 16)]
    assert image_digest(extents, 12288) == image_digest(reversed(extents), 12288)
    assert image_digest(extents, 12288) == xxhash.xxh3_128_digest(b"a" * 16 + b"b" * 16)


@pytest.mark.parametrize(
    "extents",
    [
        [],
        [ExtentDigest(0, 4096, b"a" * 16)],
        [ExtentDigest(4096, 4096, b"a" * 16)],
        [ExtentDigest(0, 4096, b"a" * 16), ExtentDigest(0, 4096, b"a" * 16)],
        [ExtentDigest(0, 8192, b"a" * 16), ExtentDigest(4096, 4096, b"a" * 16)],
    ],
)
def test_image_digest_refuses_gaps_and_overlaps(extents: list[ExtentDigest]) -> None:
    with pytest.raises(KuakaError, match="not whole"):
        image_digest(extents, 8192)


def test_facts_are_those_of_the_file(path: Path) -> None:
    write_sparse(path, image_bytes("n" + "z" * 1023))
    path.chmod(0o640)
    facts = inspect_image(path)
    assert (facts.size_bytes, facts.mode) == (1024 * PAGE_BYTES, 0o640)
    assert PAGE_BYTES <= facts.allocated_bytes < 64 * PAGE_BYTES
    assert facts.modified_ns == path.stat().st_mtime_ns


@pytest.mark.parametrize("size", [0, 1, PAGE_BYTES - 1, PAGE_BYTES + 1])
def test_size_that_is_not_whole_pages_is_refused(path: Path, size: int) -> None:
    path.write_bytes(bytes(size))
    with pytest.raises(KuakaError, match=f"has {size} bytes: a memory image is a whole number of 4096-byte pages"):
        ImageSource.open(path)


def test_what_is_not_a_file_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path, tmp_path / "fifo", Path(os.devnull)):
        with pytest.raises(KuakaError, match="not a regular file"):
            ImageSource.open(path)
    with pytest.raises(KuakaError, match="cannot be opened: No such file"):
        ImageSource.open(tmp_path / "missing")


def test_worker_refuses_a_file_that_is_not_the_one_inspected(path: Path) -> None:
    path.write_bytes(image_bytes("nn"))
    facts = inspect_image(path)
    ImageSource.open(path, size_bytes=facts.size_bytes, modified_ns=facts.modified_ns).close()
    with pytest.raises(KuakaError, match="it had 4096"):
        ImageSource.open(path, size_bytes=4096)
    os.utime(path, ns=(0, facts.modified_ns + 1))
    with pytest.raises(KuakaError, match="written to since"):
        ImageSource.open(path, size_bytes=facts.size_bytes, modified_ns=facts.modified_ns)


def test_truncation_while_reading_is_an_error_and_no_signal(path: Path) -> None:
    path.write_bytes(image_bytes("n" * 8))
    with ImageSource.open(path, batch_pages=2) as source:
        runs = iter(source.read(source.extents(EXTENT_BYTES)[0]))
        next(runs)
        os.truncate(path, 3 * PAGE_BYTES)
        with pytest.raises(KuakaError, match="truncated while it was read"):
            list(runs)


def test_truncation_that_looks_like_a_hole_is_still_an_error(path: Path) -> None:
    path.write_bytes(image_bytes("n" * 16))
    with ImageSource.open(path, batch_pages=2) as source:
        extents = source.extents(EXTENT_BYTES)
        os.truncate(path, EXTENT_BYTES)
        with pytest.raises(KuakaError, match="changed from 65536 to 32768 bytes"):
            list(source.read(extents[1]))


@pytest.mark.parametrize("kinds", ["n" * 8, "z" * 8])
def test_writing_while_reading_is_an_error(path: Path, kinds: str) -> None:
    write_sparse(path, image_bytes(kinds))
    with ImageSource.open(path) as source:
        (extent,) = source.extents(EXTENT_BYTES)
        os.utime(path, ns=(0, source.facts.modified_ns + 1))
        with pytest.raises(KuakaError, match="written to while it was read"):
            list(source.read(extent))
