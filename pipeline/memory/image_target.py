"""The image that arrives: invisible under its name until all of it is there, on disk, and proven.

The rule: the final name appears in one step, with the whole image behind it, or not at all. Until then the bytes are
in a partial file: a hidden one beside the final name, or an existing file that the user gives up for reuse because
its blocks are there already. One coordinator makes, commits or aborts it; workers fill it through `TargetWriter`.

    create --> partial, 0600 --> workers write and verify extents --> commit --> final name
                    |                         |                          |
                    +--------------------- abort -----------------------+--> a hidden file is removed,
                                                                             a reused one keeps its old name

What a crash leaves: a hidden file named after its image and session, which the next command removes by that name from
the journal; never a final name. A reused file stays under the name it had, half overwritten: it looks like what it was
given as, scratch, and never like an image.
"""

import contextlib
import errno
import fcntl
import os
import re
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Self

from pipeline.errors import KuakaError
from pipeline.memory.image_extents import ExtentDigest, file_error, image_digest
from pipeline.memory.image_writer import write_error
from pipeline.memory.pages import PAGE_BYTES

_SESSION = re.compile(r"[0-9A-Za-z_-]{1,64}")
_OWNER_ONLY = 0o600
#: Extended attribute of a committed image: the session that it came by.
_SIGNATURE = "user.kuaka.session"


class TargetImage:
    """The coordinator's hold on one arriving image; workers open `path` with `size_bytes` and `reused`."""

    def __init__(
        self,
        descriptor: int,
        path: Path,
        final_path: Path,
        size_bytes: int,
        session: str,
        *,
        reused: bool,
        overwrite: bool,
    ) -> None:
        #: Where the bytes go until the commit.
        self.path = path
        self.final_path = final_path
        self.size_bytes = size_bytes
        self.reused = reused
        self._session = session
        self._descriptor = descriptor
        self._overwrite = overwrite
        self._open = True

    @classmethod
    def create(
        cls,
        final_path: Path,
        size_bytes: int,
        session: str,
        *,
        data_bytes: int = 0,
        reuse: Path | None = None,
        overwrite: bool = False,
    ) -> Self:
        """Make the partial file, or adopt `reuse`, whose contents are lost from here on.

        `data_bytes` is what the source has allocated; if the file system has less room than that, nothing is begun.
        Raises `KuakaError` for that, for a final name that is taken (unless `overwrite`), and for whatever the file
        system refuses.
        """
        if size_bytes <= 0 or size_bytes % PAGE_BYTES or not _SESSION.fullmatch(session):
            raise ValueError(f"no image has {size_bytes} bytes, or no session is called {session!r}")
        if not overwrite and os.path.lexists(final_path):
            raise _taken(final_path)
        if reuse is None:
            path = partial_path(final_path, session)
            descriptor = _create_partial(path)
        else:
            path = reuse
            descriptor = _adopt(path, final_path)
        image = cls(descriptor, path, final_path, size_bytes, session, reused=reuse is not None, overwrite=overwrite)
        try:
            image._check_room(data_bytes)
            image._set_size()
        except BaseException:
            image.abort()
            raise
        return image

    def commit(self, extents: Iterable[ExtentDigest], digest: bytes, *, mode: int = _OWNER_ONLY) -> None:
        """Give the image its name, if its verified `extents` cover it and have the image digest of the source.

        Everything is on disk before the name is, and the name before this returns. Raises `KuakaError`, and the image
        has no name: call `abort` then.
        """
        if image_digest(extents, self.size_bytes) != digest:
            raise KuakaError(f"{self.final_path}: the image that arrived is not the one that was sent: it gets no name")
        try:
            self._check_still_ours()
            self._sign()
            os.fchmod(self._descriptor, mode)
            os.fsync(self._descriptor)
        except OSError as error:
            raise write_error(self.path, self._descriptor, self.size_bytes, error) from None
        _give_name(self.path, self.final_path, overwrite=self._overwrite)
        self._close()

    def abort(self) -> None:
        """Give up: remove the hidden file, or let go of a reused one as it is. After a commit this does nothing."""
        if not self._open:
            return
        if not self.reused:
            with contextlib.suppress(OSError):
                # What cannot be removed now is left to the next command; the reason for giving up matters more.
                self.path.unlink()
        self._close()

    def _check_room(self, data_bytes: int) -> None:
        space = os.fstatvfs(self._descriptor)
        needed = data_bytes - os.fstat(self._descriptor).st_blocks * 512
        free = space.f_bavail * space.f_frsize
        # A tmpfs without a limit reports no blocks at all.
        if space.f_blocks and needed > free:
            raise KuakaError(f"{self.final_path}: {needed} bytes needed, {free} free on its file system: make room")

    def _set_size(self) -> None:
        try:
            os.ftruncate(self._descriptor, self.size_bytes)
        except OSError as error:
            raise write_error(self.path, self._descriptor, self.size_bytes, error) from None

    def _check_still_ours(self) -> None:
        ours, named = os.fstat(self._descriptor), os.lstat(self.path)
        if (ours.st_dev, ours.st_ino, ours.st_size) != (named.st_dev, named.st_ino, self.size_bytes):
            raise KuakaError(f"{self.path} was replaced or resized by somebody else: {self.final_path} gets no name")

    def _sign(self) -> None:
        """Before it has its name and perhaps a mode that forbids it: see `is_committed`."""
        with contextlib.suppress(OSError):
            os.setxattr(self._descriptor, _SIGNATURE, self._session.encode())

    def _close(self) -> None:
        self._open = False
        os.close(self._descriptor)


def is_committed(final_path: Path, session: str) -> bool:
    """Whether the image under that name came by that session; False where its file system cannot keep such a note."""
    try:
        return os.getxattr(final_path, _SIGNATURE, follow_symlinks=False) == session.encode()
    except OSError:
        return False


def partial_path(final_path: Path, session: str) -> Path:
    """The hidden name beside `final_path` that an arriving image has."""
    return final_path.with_name(f".{final_path.name}.kuaka-{session}.partial")


def _create_partial(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, _OWNER_ONLY)
    except OSError as error:
        raise file_error(path, "cannot be created", error) from None


def _adopt(path: Path, final_path: Path) -> int:
    """Open a file for reuse, for this session alone."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        raise file_error(path, "cannot be reused", error) from None
    try:
        _check_adoptable(descriptor, path, final_path)
        os.fchmod(descriptor, _OWNER_ONLY)
    except OSError as error:
        os.close(descriptor)
        raise file_error(path, "cannot be reused", error) from None
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _check_adoptable(descriptor: int, path: Path, final_path: Path) -> None:
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
        raise KuakaError(f"{path} cannot be reused: it must be a regular file with no other name")
    if os.path.lexists(final_path) and os.path.samestat(status, final_path.lstat()):
        raise KuakaError(f"{path} cannot be reused under its own name: half an image would look like a whole one")
    if status.st_dev != final_path.parent.stat().st_dev:
        raise KuakaError(f"{path} cannot be reused: it is on another file system than {final_path}")
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise KuakaError(f"{path} cannot be reused: another migration does") from None


def _give_name(path: Path, final_path: Path, *, overwrite: bool) -> None:
    """Rename; without `overwrite` by a link, which fails if the name is taken where a rename would not."""
    try:
        if overwrite:
            path.replace(final_path)
        else:
            os.link(path, final_path, follow_symlinks=False)
            path.unlink(missing_ok=True)
        _sync_directory(final_path.parent)
    except FileExistsError:
        raise _taken(final_path) from None
    except OSError as error:
        raise file_error(final_path, _naming_failed(error), error) from None


def _naming_failed(error: OSError) -> str:
    linkless = error.errno in (errno.EPERM, errno.EOPNOTSUPP)
    return "cannot be named without overwriting on this file system" if linkless else "cannot be named"


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _taken(final_path: Path) -> KuakaError:
    return KuakaError(f"{final_path} exists already: remove it, choose another name, or allow overwriting")
