"""Where kuaka keeps what outlives a command (state: the journal) and what does not (runtime: sockets).

The rule: both directories belong to this user alone. They are created 0700, and one that someone else owns or can
write to is refused: whoever can swap a file in it could make kuaka continue the wrong guest. An explicit wish
($KUAKA_STATE, $KUAKA_RUNTIME) wins, then root uses the system's places, everyone else the XDG base directories.
"""

import contextlib
import os
import stat
from collections.abc import Mapping
from pathlib import Path

from pipeline.errors import KuakaError, UsageError

STATE_VARIABLE = "KUAKA_STATE"
RUNTIME_VARIABLE = "KUAKA_RUNTIME"
#: sizeof(sun_path) is 108 on Linux, with the NUL that ends it.
MAX_SOCKET_PATH_BYTES = 107
#: What a socket may be called in the runtime directory: room for a session, a role and the name it has while being
#: made.
MAX_SOCKET_NAME_BYTES = 60
_PRIVATE = 0o700


def state_directory(environ: Mapping[str, str] = os.environ, uid: int | None = None) -> Path:
    """The directory for what must survive, made if missing; raises `KuakaError` or `UsageError` in one line."""
    uid = os.geteuid() if uid is None else uid
    return _private(_state_path(environ, uid), uid, STATE_VARIABLE)


def runtime_directory(environ: Mapping[str, str] = os.environ, uid: int | None = None) -> Path:
    """The directory for sockets, made if missing; raises `KuakaError` or `UsageError` in one line."""
    uid = os.geteuid() if uid is None else uid
    path = _runtime_path(environ, uid)
    if len(os.fsencode(path)) + 1 + MAX_SOCKET_NAME_BYTES > MAX_SOCKET_PATH_BYTES:
        raise UsageError(
            f"runtime directory {path} is too long for the sockets in it: set {RUNTIME_VARIABLE} to a path of at most"
            f" {MAX_SOCKET_PATH_BYTES - 1 - MAX_SOCKET_NAME_BYTES} bytes"
        )
    return _private(path, uid, RUNTIME_VARIABLE)


def metrics_directory() -> Path | None:
    """Where exporters announce themselves; None where there is no state directory to be had."""
    with contextlib.suppress(KuakaError):
        return state_directory() / "metrics"
    return None


def _state_path(environ: Mapping[str, str], uid: int) -> Path:
    wish = _wish(environ, STATE_VARIABLE)
    if wish is not None:
        return wish
    if uid == 0:
        return Path("/var/lib/kuaka")
    return (_xdg(environ, "XDG_STATE_HOME") or _home(environ, STATE_VARIABLE) / ".local" / "state") / "kuaka"


def _runtime_path(environ: Mapping[str, str], uid: int) -> Path:
    wish = _wish(environ, RUNTIME_VARIABLE)
    if wish is not None:
        return wish
    if uid == 0:
        return Path("/run/kuaka")
    base = _xdg(environ, "XDG_RUNTIME_DIR")
    # No login session, no XDG_RUNTIME_DIR; a directory under /tmp could be someone else's before it is ours.
    return base / "kuaka" if base else _private(_state_path(environ, uid), uid, STATE_VARIABLE) / "run"


def _wish(environ: Mapping[str, str], variable: str) -> Path | None:
    value = environ.get(variable)
    if not value:
        return None
    if not Path(value).is_absolute():
        raise UsageError(f"{variable} is {value!r}: give an absolute path, other processes of kuaka use it, too")
    return Path(value)


def _xdg(environ: Mapping[str, str], variable: str) -> Path | None:
    # The specification has relative paths ignored.
    value = environ.get(variable, "")
    return Path(value) if Path(value).is_absolute() else None


def _home(environ: Mapping[str, str], variable: str) -> Path:
    home = environ.get("HOME", "")
    if not Path(home).is_absolute():
        raise UsageError(f"no home directory to keep state in: set {variable} to a directory")
    return Path(home)


def _private(path: Path, uid: int, variable: str) -> Path:
    try:
        _make(path)
        # What is used is what was looked at: the descriptor's directory, and the link that leads to it, if one does.
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            status = os.fstat(descriptor)
        finally:
            os.close(descriptor)
        owners = {status.st_uid, path.lstat().st_uid}
    except OSError as error:
        raise KuakaError(f"cannot use directory {path}: {error.strerror}: set {variable} to another one") from None
    if owners != {uid}:
        raise KuakaError(f"directory {path} is not owned by this user (uid {uid}): set {variable} to another one")
    mode = stat.S_IMODE(status.st_mode)
    if mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise KuakaError(f"directory {path} has mode {mode:04o}, others can write to it: chmod 700 {path}")
    return path


def _make(path: Path) -> None:
    # Parents as XDG asks: 0700, where Path.mkdir would give them the umask's mode.
    for parent in (*reversed(path.parents), path):
        try:
            parent.mkdir(mode=_PRIVATE)
        except FileExistsError:
            continue
        except OSError:
            if not parent.is_dir():
                raise
