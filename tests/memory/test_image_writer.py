"""Pages into a partial image: every mixture lands, nothing strays, and what differs is found."""

import ctypes
import errno
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.errors import KuakaError, WireError
from pipeline.memory import image_writer, page_vectors
from pipeline.memory.image_extents import FrameChain
from pipeline.memory.image_target import TargetImage
from pipeline.memory.image_writer import TargetWriter
from pipeline.memory.pages import MAX_BATCH_PAGES, PAGE_BYTES, PageBatch, PageKind
from tests.memory.image_files import SESSION, image_bytes, transfer, write_sparse
from tests.needs import need

NORMAL, ZERO, SAME = PageKind.NORMAL, PageKind.ZERO, PageKind.SAME


def batch(numbers: Sequence[int], kinds: Sequence[PageKind] | None = None, normal: bytes | None = None) -> PageBatch:
    """A batch whose pages are filled with their place in it."""
    kinds = kinds or [NORMAL] * len(numbers)
    if normal is None:
        normal = b"".join(bytes([at + 1]) * PAGE_BYTES for at, kind in enumerate(kinds) if kind is NORMAL)
    fill_words = np.array([at + 1 for at, kind in enumerate(kinds) if kind is SAME], dtype=np.uint64)
    return PageBatch(b"", np.array(numbers, np.uint32), np.array(kinds, np.uint8), fill_words, normal)


def digest_of(*checksums: int) -> bytes:
    """The digest of an extent whose frames have these checksums."""
    chain = FrameChain()
    for checksum in checksums:
        chain.add(checksum)
    return chain.digest()


@pytest.fixture
def partial(tmp_path: Path) -> Path:
    return TargetImage.create(tmp_path / "image", 16 * PAGE_BYTES, SESSION).path


@pytest.fixture
def writer(partial: Path) -> TargetWriter:
    return TargetWriter.open(partial, 16 * PAGE_BYTES, reused=False)


def garbage(path: Path, pages: int) -> Path:
    path.write_bytes(b"\xaa" * (pages * PAGE_BYTES))
    return path


@pytest.mark.parametrize(
    "kinds", ["n", "z", "s", "n" * 20, "z" * 20, "nz" * 17, "zn" * 17, "nszz" * 9, "z" * 24 + "n" + "z" * 24]
)
@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("old_pages", [None, 1, 20, 100])
def test_target_equals_source(tmp_path: Path, kinds: str, sparse: bool, old_pages: int | None) -> None:
    content = image_bytes(kinds)
    (write_sparse if sparse else Path.write_bytes)(tmp_path / "source", content)
    reuse = garbage(tmp_path / "scratch", old_pages) if old_pages else None
    transfer(tmp_path / "source", tmp_path / "image", reuse=reuse)
    assert (tmp_path / "image").read_bytes() == content
    assert sorted(path.name for path in tmp_path.iterdir()) == ["image", "source"]


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kinds=st.text(alphabet="nzs", min_size=1, max_size=40),
    batch_pages=st.integers(1, 9),
    sparse=st.booleans(),
    reused=st.booleans(),
)
def test_any_mixture_arrives(tmp_path: Path, kinds: str, batch_pages: int, sparse: bool, reused: bool) -> None:
    content = image_bytes(kinds)
    (write_sparse if sparse else Path.write_bytes)(tmp_path / "source", content)
    (tmp_path / "image").unlink(missing_ok=True)
    reuse = garbage(tmp_path / "scratch", 16) if reused else None
    transfer(tmp_path / "source", tmp_path / "image", reuse=reuse, batch_pages=batch_pages)
    assert (tmp_path / "image").read_bytes() == content


def test_pages_in_any_order_land_at_their_numbers(partial: Path, writer: TargetWriter) -> None:
    writer.write(batch([9, 3, 4, 15, 0], [NORMAL, SAME, NORMAL, NORMAL, SAME]), 0)
    content = partial.read_bytes()
    page = [content[number * PAGE_BYTES : (number + 1) * PAGE_BYTES] for number in range(16)]
    assert page[9] == b"\1" * PAGE_BYTES
    assert page[3] == (b"\2" + bytes(7)) * 512
    assert page[4] == b"\3" * PAGE_BYTES
    assert page[15] == b"\4" * PAGE_BYTES
    assert page[0] == (b"\5" + bytes(7)) * 512
    assert not any(page[1] + page[2] + page[14])


def test_fresh_target_stays_sparse_where_the_source_has_zeros(tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(image_bytes("n" + "z" * 1000 + "n"))
    transfer(tmp_path / "source", tmp_path / "image", batch_pages=MAX_BATCH_PAGES)
    assert (tmp_path / "image").stat().st_blocks * 512 <= 16 * PAGE_BYTES


def test_hole_extents_become_holes_in_a_reused_file(tmp_path: Path) -> None:
    write_sparse(tmp_path / "source", image_bytes("n" + "z" * 511))
    transfer(tmp_path / "source", tmp_path / "image", reuse=garbage(tmp_path / "scratch", 512))
    assert (tmp_path / "image").stat().st_blocks * 512 <= 32 * PAGE_BYTES


def test_hole_extents_are_overwritten_where_nothing_can_be_punched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_writer, "punch_hole", lambda *_: False)
    content = image_bytes("n" + "z" * 1200)
    write_sparse(tmp_path / "source", content)
    transfer(tmp_path / "source", tmp_path / "image", reuse=garbage(tmp_path / "scratch", 1200))
    assert (tmp_path / "image").read_bytes() == content


def test_full_batch_of_alternating_pages_is_one_system_call_on_a_reused_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = garbage(tmp_path / "scratch", MAX_BATCH_PAGES)
    offsets = []
    pwritev = page_vectors._pwritev

    def counted(descriptor: int, vectors: int, count: int, offset: int) -> int:
        offsets.append(offset)
        return int(pwritev(descriptor, vectors, count, offset))

    monkeypatch.setattr(page_vectors, "_pwritev", counted)
    numbers = list(range(MAX_BATCH_PAGES))
    kinds = [NORMAL if number % 2 else ZERO for number in numbers]
    normal = b"n" * (PAGE_BYTES * MAX_BATCH_PAGES // 2)
    with TargetWriter.open(path, MAX_BATCH_PAGES * PAGE_BYTES, reused=True) as writer:
        writer.write(batch(numbers, kinds, normal), 0)
    assert path.read_bytes() == (bytes(PAGE_BYTES) + b"n" * PAGE_BYTES) * (MAX_BATCH_PAGES // 2)
    assert offsets == [0]


def test_short_writes_are_continued(partial: Path, writer: TargetWriter, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def one_piece_at_most(descriptor: int, vectors: int, count: int, offset: int) -> int:
        calls.append(count)
        base, length = (ctypes.c_uint64 * 2).from_address(vectors)
        return os.pwrite(descriptor, ctypes.string_at(base, min(length, 1000)), offset)

    monkeypatch.setattr(page_vectors, "_pwritev", one_piece_at_most)
    writer.write(batch([1, 2, 3], [NORMAL, SAME, NORMAL]), 0)
    assert calls == [3] * 5 + [2] * 5 + [1] * 5
    content = partial.read_bytes()[PAGE_BYTES : 4 * PAGE_BYTES]
    assert content == b"\1" * PAGE_BYTES + (b"\2" + bytes(7)) * 512 + b"\3" * PAGE_BYTES


def test_interrupted_write_is_made_again_and_one_of_nothing_is_an_error(
    partial: Path, writer: TargetWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    pwritev = page_vectors._pwritev
    answers = iter([errno.EINTR, None, 0])

    def disturbed(descriptor: int, vectors: int, count: int, offset: int) -> int:
        answer = next(answers)
        if answer is None:
            return int(pwritev(descriptor, vectors, count, offset))
        ctypes.set_errno(answer)
        return -1 if answer else 0

    monkeypatch.setattr(page_vectors, "_pwritev", disturbed)
    writer.write(batch([0, 1]), 0)
    assert partial.read_bytes()[: 2 * PAGE_BYTES] == b"\1" * PAGE_BYTES + b"\2" * PAGE_BYTES
    with pytest.raises(KuakaError, match="cannot be written"):
        writer.write(batch([2, 3]), 0)


def test_pages_in_any_order_land_at_their_places(partial: Path, writer: TargetWriter) -> None:
    writer.write(batch([5, 4, 0, 1, 9], [NORMAL, NORMAL, SAME, NORMAL, ZERO]), 0)
    pages = {5: b"\1" * PAGE_BYTES, 4: b"\2" * PAGE_BYTES, 0: (b"\3" + bytes(7)) * 512, 1: b"\4" * PAGE_BYTES}
    assert partial.read_bytes() == b"".join(pages.get(number, bytes(PAGE_BYTES)) for number in range(16))


@pytest.mark.parametrize(
    "bad",
    [
        batch([0, 16]),
        batch([0, 2**32 - 1]),
        batch([]),
        batch([0] * (MAX_BATCH_PAGES + 1), [ZERO] * (MAX_BATCH_PAGES + 1)),
        batch([0, 1], normal=bytes(PAGE_BYTES)),
        PageBatch(b"", np.zeros(1, np.uint32), np.full(1, SAME, np.uint8), np.empty(0, np.uint64), b""),
    ],
)
def test_batch_that_does_not_fit_writes_nothing(partial: Path, writer: TargetWriter, bad: PageBatch) -> None:
    with pytest.raises(WireError):
        writer.write(bad, 0)
    assert not any(partial.read_bytes())
    assert partial.stat().st_size == 16 * PAGE_BYTES


@pytest.mark.parametrize(
    ("offset", "length"), [(-PAGE_BYTES, PAGE_BYTES), (0, 0), (0, 17 * PAGE_BYTES), (1, PAGE_BYTES), (0, 100)]
)
def test_extent_outside_the_image_is_refused(writer: TargetWriter, offset: int, length: int) -> None:
    with pytest.raises(WireError, match="an extent of"):
        writer.finish_extent(offset, length, bytes(16))


@pytest.mark.parametrize(
    ("sent", "came"),
    [
        ([1, 2], [1, 3]),
        ([1, 2], [2, 1]),
        ([1, 2, 3], [1, 2]),
        ([1, 2], [1, 2, 3]),
        ([1], [1, 1]),
        ([], [1]),
        ([1], []),
    ],
    ids=["altered", "swapped", "one missing", "one too many", "repeated", "a hole that has pages", "none came"],
)
def test_frames_other_than_those_sent_are_found(writer: TargetWriter, sent: list[int], came: list[int]) -> None:
    # The pages themselves are whole and in order: it is the checksums that tell.
    for index, checksum in enumerate(came):
        first, last = 16 * index // len(came), 16 * (index + 1) // len(came)
        writer.write(batch(range(first, last)), checksum)
    with pytest.raises(KuakaError, match="bytes 0 to 65535 are not those that were sent"):
        writer.finish_extent(0, 16 * PAGE_BYTES, digest_of(*sent))


@pytest.mark.parametrize(
    "pages",
    [
        [range(1, 17)],
        [range(15)],
        [range(8), range(9, 16)],
        [range(8), range(7, 16)],
        [range(8, 16), range(8)],
        [[*range(8), *range(15, 7, -1)]],
    ],
    ids=["first missing", "last missing", "gap", "twice", "late", "backwards"],
)
def test_pages_that_do_not_follow_each_other_are_no_extent(partial: Path, pages: list[Sequence[int]]) -> None:
    partial.write_bytes(bytes(17 * PAGE_BYTES))
    with TargetWriter.open(partial, 17 * PAGE_BYTES, reused=False) as writer:
        for checksum, numbers in enumerate(pages):
            writer.write(batch(numbers), checksum)
        with pytest.raises(KuakaError, match="not those that were sent"):
            writer.finish_extent(0, 16 * PAGE_BYTES, digest_of(*range(len(pages))))
        writer.write(batch(range(16)), 9)
        writer.finish_extent(0, 16 * PAGE_BYTES, digest_of(9))


def test_old_bytes_do_not_pass_for_pages_that_never_came(tmp_path: Path) -> None:
    path = garbage(tmp_path / "scratch", 8)
    with TargetWriter.open(path, 8 * PAGE_BYTES, reused=True) as writer:
        writer.write(batch(range(4), [ZERO] * 4), 1)
        with pytest.raises(KuakaError, match="not those that were sent"):
            writer.finish_extent(0, 8 * PAGE_BYTES, digest_of(1))
        with pytest.raises(KuakaError, match="not those that were sent"):
            writer.finish_extent(0, 8 * PAGE_BYTES, digest_of(1, 2))
    assert path.read_bytes()[4 * PAGE_BYTES :] == b"\xaa" * (4 * PAGE_BYTES)


def test_opening_anything_but_the_partial_file_is_refused(tmp_path: Path, partial: Path) -> None:
    with pytest.raises(KuakaError, match="somebody else changed it"):
        TargetWriter.open(partial, 8 * PAGE_BYTES, reused=False)
    (tmp_path / "link").symlink_to(partial)
    for path in (tmp_path / "link", tmp_path / "missing"):
        with pytest.raises(KuakaError, match="cannot be opened"):
            TargetWriter.open(path, 16 * PAGE_BYTES, reused=False)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_full_disk_is_one_line_with_path_and_figures(
    partial: Path, writer: TargetWriter, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def full(*_: object) -> int:
        ctypes.set_errno(code)
        return -1

    monkeypatch.setattr(page_vectors, "_pwritev", full)
    with pytest.raises(KuakaError) as raised:
        writer.write(batch([0, 1]), 0)
    message = str(raised.value)
    assert message.startswith(f"{partial}: {os.strerror(code)}: 8192 bytes needed, ")
    assert message.endswith(" free on its file system")
    assert "\n" not in message


FULL_TMPFS = """
import subprocess, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
directory = Path(sys.argv[1])
if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", directory], stderr=subprocess.DEVNULL).returncode:
    sys.exit(77)
from pipeline.errors import KuakaError
from pipeline.memory.image_target import TargetImage
from tests.memory.image_files import transfer
try:
    TargetImage.create(directory / "image", 2 << 20, "s", data_bytes=2 << 20)
except KuakaError as error:
    print(error)
try:
    transfer(Path(sys.argv[3]), directory / "image")
except KuakaError as error:
    print(error)
print(sorted(path.name for path in directory.iterdir()))
"""


def test_target_on_a_full_tmpfs(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(image_bytes("n" * 512))
    mountpoint = tmp_path / "mount"
    mountpoint.mkdir()
    root = Path(__file__).parent.parent.parent
    command = [str(need("unshare")), "--mount", "--user", "--map-root-user", sys.executable, "-c", FULL_TMPFS]
    command += [str(mountpoint), str(root), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=root, timeout=60)
    if done.returncode == 77 or "unshare failed" in done.stderr:
        pytest.skip("this machine lets nobody mount a tmpfs of their own")
    assert done.returncode == 0, done.stderr
    early, late, names = done.stdout.splitlines()
    assert early == f"{mountpoint}/image: 2097152 bytes needed, 1048576 free on its file system: make room"
    assert "No space left on device" in late
    assert "0 free on its file system" in late
    # The one that was refused early left nothing; the other is for its coordinator to abort.
    assert names == "['.image.kuaka-0123456789abcdef.partial']"
