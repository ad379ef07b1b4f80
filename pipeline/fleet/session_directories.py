"""Where a host keeps the sockets of one session: a directory in its own, which QEMU's user can enter where it must."""

import os
import pwd
import shutil
from pathlib import Path

from pipeline.errors import MigrationError, SpecError
from pipeline.fleet.orders import session_directory


class SessionDirectories:
    """The sessions' directories of one host, in `base`."""

    def __init__(self, base: Path) -> None:
        self._base = base

    def make(self, session_id: str, socket_user: str | None) -> Path:
        """The session's directory, made if missing. Raises `KuakaError`."""
        directory = Path(session_directory(str(self._base), session_id))
        uid = uid_of(socket_user)
        try:
            directory.mkdir(mode=0o700, exist_ok=True)
            if uid is not None:
                # QEMU's user must reach its sockets: it owns the session's directory, and may pass through ours.
                os.chown(directory, uid, -1)
                self._base.chmod(0o711)
        except OSError as error:
            raise MigrationError(f"cannot make {directory} for sockets: {error.strerror}") from None
        return directory

    def remove(self, session_id: str) -> None:
        """Remove it with all that is in it; harmless when it is not there."""
        shutil.rmtree(session_directory(str(self._base), session_id), ignore_errors=True)


def uid_of(user: str | None) -> int | None:
    """The number of a user of this host, None for None. Raises `SpecError`."""
    if user is None:
        return None
    try:
        return pwd.getpwnam(user).pw_uid
    except KeyError:
        raise SpecError(f"socketUser {user!r} does not exist on this host: name a user that QEMU runs as") from None
