"""Which directories kuaka uses, and which it refuses."""

import os
import stat
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from pipeline.errors import KuakaError, UsageError
from pipeline.fleet import directories
from pipeline.fleet.directories import MAX_SOCKET_NAME_BYTES, MAX_SOCKET_PATH_BYTES, runtime_directory, state_directory

Chooser = Callable[[Mapping[str, str], int | None], Path]
BOTH = pytest.mark.parametrize(
    ("choose", "variable"), [(state_directory, "KUAKA_STATE"), (runtime_directory, "KUAKA_RUNTIME")]
)
ORDINARY_UID = 1000


@pytest.fixture
def paths_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Choose, but make nothing: the places of root and of other users stay untouched."""
    monkeypatch.setattr(directories, "_private", lambda path, uid, variable: path)


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Paths of a test are longer than a runtime directory may be."""
    monkeypatch.setattr(directories, "MAX_SOCKET_PATH_BYTES", 1000)


@pytest.mark.parametrize(
    ("uid", "environ", "state", "runtime"),
    [
        (0, {}, "/var/lib/kuaka", "/run/kuaka"),
        (0, {"XDG_STATE_HOME": "/s", "XDG_RUNTIME_DIR": "/r", "HOME": "/root"}, "/var/lib/kuaka", "/run/kuaka"),
        (0, {"KUAKA_STATE": "/k", "KUAKA_RUNTIME": "/q"}, "/k", "/q"),
        (ORDINARY_UID, {"KUAKA_STATE": "/k", "KUAKA_RUNTIME": "/q", "XDG_STATE_HOME": "/s"}, "/k", "/q"),
        (ORDINARY_UID, {"XDG_STATE_HOME": "/s", "XDG_RUNTIME_DIR": "/r", "HOME": "/h"}, "/s/kuaka", "/r/kuaka"),
        (ORDINARY_UID, {"HOME": "/h"}, "/h/.local/state/kuaka", "/h/.local/state/kuaka/run"),
        (
            ORDINARY_UID,
            {"XDG_STATE_HOME": "s", "XDG_RUNTIME_DIR": "", "KUAKA_STATE": "", "HOME": "/h"},
            "/h/.local/state/kuaka",
            "/h/.local/state/kuaka/run",
        ),
        (ORDINARY_UID, {"KUAKA_STATE": "/k"}, "/k", "/k/run"),
    ],
)
@pytest.mark.usefixtures("paths_only")
def test_an_explicit_wish_wins_then_root_has_the_systems_places_and_others_xdgs(
    uid: int, environ: dict[str, str], state: str, runtime: str
) -> None:
    assert state_directory(environ, uid) == Path(state)
    assert runtime_directory(environ, uid) == Path(runtime)


@BOTH
@pytest.mark.usefixtures("short")
def test_a_directory_is_created_private_with_its_parents(tmp_path: Path, choose: Chooser, variable: str) -> None:
    path = tmp_path / "parent" / "mine"
    before = os.umask(0)
    try:
        assert choose({variable: str(path)}, None) == path
    finally:
        os.umask(before)
    assert [stat.S_IMODE(made.stat().st_mode) for made in (path, path.parent)] == [0o700, 0o700]
    assert choose({variable: str(path)}, None) == path


@BOTH
@pytest.mark.parametrize("mode", [0o770, 0o702, 0o777])
@pytest.mark.usefixtures("short")
def test_a_directory_that_others_can_write_to_is_refused(
    tmp_path: Path, choose: Chooser, variable: str, mode: int
) -> None:
    path = tmp_path / "open"
    path.mkdir()
    path.chmod(mode)
    with pytest.raises(KuakaError, match=f"mode {mode:04o}, others can write to it: chmod 700"):
        choose({variable: str(path)}, None)


@BOTH
@pytest.mark.usefixtures("short")
def test_a_directory_of_someone_else_is_refused(tmp_path: Path, choose: Chooser, variable: str) -> None:
    with pytest.raises(KuakaError, match=f"not owned by this user .*: set {variable}") as caught:
        choose({variable: str(tmp_path)}, os.geteuid() + 1)
    assert "\n" not in str(caught.value)


@BOTH
@pytest.mark.usefixtures("short")
def test_a_link_to_a_directory_is_followed_when_both_are_mine(tmp_path: Path, choose: Chooser, variable: str) -> None:
    link = tmp_path / "link"
    (tmp_path / "real").mkdir(mode=0o700)
    link.symlink_to(tmp_path / "real")
    assert choose({variable: str(link)}, None) == link


@BOTH
@pytest.mark.parametrize("path", ["/proc/kuaka", "/dev/null", "/dev/null/kuaka"])
def test_a_place_that_cannot_hold_a_directory_is_one_line(choose: Chooser, variable: str, path: str) -> None:
    with pytest.raises(KuakaError, match=f"cannot use directory {path}: .*: set {variable}") as caught:
        choose({variable: path}, None)
    assert "\n" not in str(caught.value)


@BOTH
def test_a_relative_wish_is_refused(choose: Chooser, variable: str) -> None:
    with pytest.raises(UsageError, match=f"{variable} is 'state': give an absolute path"):
        choose({variable: "state"}, None)


def test_no_home_is_one_line() -> None:
    with pytest.raises(UsageError, match=r"no home directory .*: set KUAKA_STATE"):
        state_directory({}, ORDINARY_UID)


@pytest.mark.usefixtures("paths_only")
def test_a_runtime_directory_leaves_room_for_the_names_of_sockets() -> None:
    longest = MAX_SOCKET_PATH_BYTES - 1 - MAX_SOCKET_NAME_BYTES
    path = "/" + "x" * (longest - 1)
    assert runtime_directory({"KUAKA_RUNTIME": path}, 0) == Path(path)
    with pytest.raises(UsageError, match=f"too long .*: set KUAKA_RUNTIME to a path of at most {longest} bytes"):
        runtime_directory({"KUAKA_RUNTIME": path + "x"}, 0)
