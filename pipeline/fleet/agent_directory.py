"""An agent's own directory for sockets, in the runtime directory and locked while the agent lives.

The rule: a directory whose lock is free is nobody's any more, and whoever makes the next one removes it. The kernel
gives the lock back however the agent ends.
"""

import contextlib
import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Self

_PREFIX = "agent-"
_NAME_BYTES = 3


class AgentDirectory:
    """`path` is a directory of mode 0700 that nobody else uses."""

    def __init__(self, path: Path, lock: int) -> None:
        self.path = path
        self._lock = lock

    @classmethod
    def create(cls, runtime: Path) -> Self:
        """Make one in `runtime`; those that dead agents left there are removed. Raises OSError."""
        with _locked(runtime):
            for left in runtime.glob(f"{_PREFIX}*"):
                _remove_unless_locked(left)
            path = runtime / f"{_PREFIX}{secrets.token_hex(_NAME_BYTES)}"
            path.mkdir(mode=0o700)
            lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            fcntl.flock(lock, fcntl.LOCK_EX)
        return cls(path, lock)

    def remove(self) -> None:
        """Remove it with all that is in it."""
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock)


@contextlib.contextmanager
def _locked(runtime: Path) -> Iterator[None]:
    """No other agent makes or removes directories meanwhile: one just made is not locked yet."""
    descriptor = os.open(runtime, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _remove_unless_locked(path: Path) -> None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(path, ignore_errors=True)
    except BlockingIOError:
        # Its agent lives.
        return
    finally:
        os.close(descriptor)
