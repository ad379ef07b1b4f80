"""The name of an image: nobody sees it before all of it is there, whoever fails or dies at whatever moment."""

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.errors import KuakaError
from pipeline.memory.image_extents import ExtentDigest, image_digest
from pipeline.memory.image_source import ImageSource
from pipeline.memory.image_target import TargetImage, is_committed, partial_path
from pipeline.memory.image_writer import TargetWriter
from pipeline.memory.pages import PAGE_BYTES
from tests.memory.image_files import SESSION, fill, image_bytes

SIZE = 16 * PAGE_BYTES
ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def source(tmp_path: Path) -> ImageSource:
    path = tmp_path / "source"
    path.write_bytes(image_bytes("nz" * 8))
    return ImageSource.open(path)


@pytest.fixture
def final(tmp_path: Path) -> Path:
    return tmp_path / "images" / "guest.ram"


@pytest.fixture(autouse=True)
def images(final: Path) -> Path:
    final.parent.mkdir()
    return final.parent


def filled(target: TargetImage, source: ImageSource) -> tuple[list[ExtentDigest], bytes]:
    with TargetWriter.open(target.path, target.size_bytes, reused=target.reused) as writer:
        extents = fill(source, writer)
    return extents, image_digest(extents, target.size_bytes)


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_partial_is_hidden_private_and_of_final_size(final: Path, images: Path) -> None:
    target = TargetImage.create(final, SIZE, SESSION)
    assert names(images) == [f".guest.ram.kuaka-{SESSION}.partial"]
    assert target.path == partial_path(final, SESSION)
    assert target.path.stat().st_mode & 0o777 == 0o600
    assert target.path.stat().st_size == SIZE


def test_commit_gives_the_name_and_the_mode(final: Path, images: Path, source: ImageSource) -> None:
    target = TargetImage.create(final, SIZE, SESSION)
    target.commit(*filled(target, source), mode=0o640)
    target.abort()
    assert names(images) == ["guest.ram"]
    assert final.read_bytes() == source.path.read_bytes()
    assert final.stat().st_mode & 0o777 == 0o640


def test_whose_an_image_is_can_be_seen_whatever_its_mode(final: Path, images: Path, source: ImageSource) -> None:
    old = TargetImage.create(final, SIZE, "old")
    old.commit(*filled(old, source), mode=0o400)
    assert is_committed(final, "old")
    target = TargetImage.create(final, SIZE, SESSION, overwrite=True)
    extents, digest = filled(target, source)
    assert not is_committed(final, SESSION)
    target.commit(extents, digest)
    assert is_committed(final, SESSION)
    assert not is_committed(final, "old")
    assert not is_committed(images / "missing", SESSION)


def test_abort_leaves_nothing(final: Path, images: Path) -> None:
    target = TargetImage.create(final, SIZE, SESSION)
    target.abort()
    target.abort()
    assert names(images) == []


def test_image_with_another_digest_gets_no_name(final: Path, source: ImageSource) -> None:
    target = TargetImage.create(final, SIZE, SESSION)
    extents, digest = filled(target, source)
    with pytest.raises(KuakaError, match="gets no name"):
        target.commit(extents, digest[::-1])
    with pytest.raises(KuakaError, match="not whole"):
        target.commit(extents[:-1], digest)
    assert not final.exists()
    target.commit(extents, digest)
    assert final.exists()


def test_name_that_is_taken_is_refused_early_and_late(final: Path, images: Path, source: ImageSource) -> None:
    target = TargetImage.create(final, SIZE, SESSION)
    final.write_bytes(b"somebody else's")
    with pytest.raises(KuakaError, match="exists already"):
        target.commit(*filled(target, source))
    target.abort()
    with pytest.raises(KuakaError, match="exists already"):
        TargetImage.create(final, SIZE, SESSION)
    assert names(images) == ["guest.ram"]
    assert final.read_bytes() == b"somebody else's"


def test_dangling_link_counts_as_taken(final: Path) -> None:
    final.symlink_to("nowhere")
    with pytest.raises(KuakaError, match="exists already"):
        TargetImage.create(final, SIZE, SESSION)


def test_overwriting_replaces_the_old_image_at_commit(final: Path, images: Path, source: ImageSource) -> None:
    final.write_bytes(b"old")
    target = TargetImage.create(final, SIZE, SESSION, overwrite=True)
    extents, digest = filled(target, source)
    assert final.read_bytes() == b"old"
    target.commit(extents, digest)
    assert final.read_bytes() == source.path.read_bytes()
    assert names(images) == ["guest.ram"]


def test_two_sessions_do_not_share_a_partial(final: Path) -> None:
    TargetImage.create(final, SIZE, SESSION)
    with pytest.raises(KuakaError, match="cannot be created: File exists"):
        TargetImage.create(final, SIZE, SESSION)
    TargetImage.create(final, SIZE, "other").abort()


@pytest.mark.parametrize("size", [0, -PAGE_BYTES, PAGE_BYTES + 1])
def test_size_that_is_not_whole_pages_is_a_mistake(final: Path, size: int) -> None:
    with pytest.raises(ValueError, match="no image has"):
        TargetImage.create(final, size, SESSION)


@pytest.mark.parametrize("session", ["", "../x", "a b", "a" * 65])
def test_session_that_cannot_be_part_of_a_name_is_a_mistake(final: Path, session: str) -> None:
    with pytest.raises(ValueError, match="no session is called"):
        TargetImage.create(final, SIZE, session)


def test_missing_directory_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(KuakaError, match="cannot be created: No such file or directory"):
        TargetImage.create(tmp_path / "missing" / "image", SIZE, SESSION)


def test_partial_that_somebody_changed_gets_no_name(final: Path, source: ImageSource) -> None:
    target = TargetImage.create(final, SIZE, SESSION)
    extents, digest = filled(target, source)
    os.truncate(target.path, SIZE - PAGE_BYTES)
    with pytest.raises(KuakaError, match="resized by somebody else"):
        target.commit(extents, digest)
    target.path.unlink()
    with pytest.raises(KuakaError, match="No such file"):
        target.commit(extents, digest)
    assert not final.exists()


def test_more_data_than_room_is_refused_before_anything_moves(final: Path, images: Path) -> None:
    with pytest.raises(KuakaError, match=rf"{final}: {1 << 60} bytes needed, \d+ free"):
        TargetImage.create(final, SIZE, SESSION, data_bytes=1 << 60)
    assert names(images) == []


def test_file_size_limit_is_one_line_and_leaves_nothing(final: Path, images: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from pipeline.memory.image_target import TargetImage\n"
        "try:\n    TargetImage.create(Path(sys.argv[1]), 1 << 20, 's')\n"
        "except Exception as error:\n    print(type(error).__name__, error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, final],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (PAGE_BYTES, PAGE_BYTES)),
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        timeout=60,
    )
    assert done.stdout.startswith(f"KuakaError {partial_path(final, 's')}: File too large: 1048576 bytes needed")
    assert names(images) == []


@pytest.fixture
def scratch(images: Path) -> Path:
    path = images / "scratch"
    path.write_bytes(b"\xaa" * SIZE)
    path.chmod(0o644)
    return path


def test_reused_file_becomes_the_image(final: Path, images: Path, scratch: Path, source: ImageSource) -> None:
    inode = scratch.stat().st_ino
    target = TargetImage.create(final, SIZE, SESSION, reuse=scratch)
    assert (target.path, target.reused) == (scratch, True)
    assert scratch.stat().st_mode & 0o777 == 0o600
    target.commit(*filled(target, source))
    assert names(images) == ["guest.ram"]
    assert final.stat().st_ino == inode
    assert final.read_bytes() == source.path.read_bytes()


def test_reused_file_keeps_its_name_when_the_image_is_given_up(final: Path, images: Path, scratch: Path) -> None:
    TargetImage.create(final, 2 * SIZE, SESSION, reuse=scratch).abort()
    assert names(images) == ["scratch"]
    assert scratch.stat().st_size == 2 * SIZE


def test_two_sessions_do_not_reuse_one_file(final: Path, scratch: Path) -> None:
    target = TargetImage.create(final, SIZE, SESSION, reuse=scratch)
    with pytest.raises(KuakaError, match="another migration does"):
        TargetImage.create(final, SIZE, "other", reuse=scratch)
    target.abort()
    TargetImage.create(final, SIZE, "other", reuse=scratch).abort()


def test_file_that_has_another_name_is_not_reused(final: Path, images: Path, scratch: Path) -> None:
    (images / "snapshot").hardlink_to(scratch)
    with pytest.raises(KuakaError, match="no other name"):
        TargetImage.create(final, SIZE, SESSION, reuse=scratch)


def test_final_name_itself_is_not_reused(images: Path, scratch: Path) -> None:
    with pytest.raises(KuakaError, match="under its own name"):
        TargetImage.create(scratch, SIZE, SESSION, reuse=images / "scratch", overwrite=True)


def test_what_cannot_be_reused_is_one_line(final: Path, images: Path) -> None:
    (images / "link").symlink_to("scratch")
    for path in (images / "link", images / "missing", images):
        with pytest.raises(KuakaError, match="cannot be reused"):
            TargetImage.create(final, SIZE, SESSION, reuse=path)


def test_file_of_another_file_system_is_not_reused(final: Path) -> None:
    shm = Path("/dev/shm")
    if shm.stat().st_dev == final.parent.stat().st_dev:
        pytest.skip("needs two file systems")
    scratch = shm / f"kuaka-test-{os.getpid()}"
    scratch.write_bytes(bytes(PAGE_BYTES))
    try:
        with pytest.raises(KuakaError, match="on another file system"):
            TargetImage.create(final, SIZE, SESSION, reuse=scratch)
    finally:
        scratch.unlink()


# Every line of the target's code is a moment to die at: a child is killed before its first line, its second, and so on.
KILL_AT_EVERY_LINE = """
import os, signal, sys
from pathlib import Path
from pipeline.memory import image_target, image_writer, page_vectors
from pipeline.memory.image_target import is_committed, partial_path
from tests.memory.image_files import SESSION, transfer

source, final = Path(sys.argv[1]), Path(sys.argv[2])
traced = {image_target.__file__, image_writer.__file__, page_vectors.__file__}
whole = source.read_bytes()

def run_and_die_at(moment):
    left = moment
    def on_line(frame, event, _argument):
        nonlocal left
        if frame.f_code.co_filename not in traced:
            return None
        if event == "line":
            left -= 1
            if not left:
                os.kill(os.getpid(), signal.SIGKILL)
        return on_line
    sys.settrace(on_line)
    transfer(source, final, batch_pages=64)
    sys.settrace(None)
    os._exit(0)

moment, named = 0, 0
while True:
    moment += 1
    child = os.fork()
    if not child:
        run_and_die_at(moment)
    _, status = os.waitpid(child, 0)
    assert is_committed(final, SESSION) == final.exists(), f"nobody knows whose the image is at moment {moment}"
    if final.exists():
        assert final.read_bytes() == whole, f"half an image has the name at moment {moment}"
        named += 1
    partial_path(final, SESSION).unlink(missing_ok=True)
    assert [path for path in final.parent.iterdir() if path != final] == []
    final.unlink(missing_ok=True)
    if os.WIFEXITED(status):
        assert os.WEXITSTATUS(status) == 0
        break
print(moment, named)
"""


def test_killed_at_any_moment_it_leaves_no_half_image_under_the_name(final: Path, source: ImageSource) -> None:
    done = subprocess.run(
        [sys.executable, "-c", KILL_AT_EVERY_LINE, source.path, final],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    moments, named = map(int, done.stdout.split())
    assert moments > 100
    # Named, and killed before the commit had returned: the hidden name was still there, or the directory not synced.
    assert 1 < named < 20
