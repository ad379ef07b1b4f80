"""Where a demo keeps its guests: a directory for sockets, one for RAM, and the process that removes both in the end."""

import contextlib
import os
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from pipeline.byte_amounts import show_bytes
from pipeline.demo.removal import watch_command
from pipeline.errors import KuakaError, UsageError
from pipeline.fleet.directories import runtime_directory

_SHARED_MEMORY = Path("/dev/shm")
#: Left to everybody else wherever guests' RAM is put.
_SPARE_BYTES = 64 << 20
_REMOVAL_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class DemoPlace:
    """`sockets`: QMP sockets and pid files, short paths; `ram`: the files that are the guests' memory, and disks."""

    sockets: Path
    ram: Path


@contextlib.contextmanager
def demo_place(ram_bytes: int) -> Iterator[DemoPlace]:
    """Directories with room for `ram_bytes` of RAM; whatever is in them or was started from them is gone afterwards.

    Raises `UsageError` when there is no room. What runs must have its pid file among the sockets.
    """
    base = choose_ram_directory(ram_bytes, (_SHARED_MEMORY, Path(tempfile.gettempdir())))
    name = f"demo-{secrets.token_hex(4)}"
    place = DemoPlace(runtime_directory() / name, base / f"kuaka-{name}")
    with _removed_in_the_end((place.sockets, place.ram)):
        for directory in (place.sockets, place.ram):
            directory.mkdir(mode=0o700)
        yield place


def choose_ram_directory(ram_bytes: int, candidates: Sequence[Path]) -> Path:
    """The first of `candidates` that has room for `ram_bytes`; raises `UsageError` in one line when none has."""
    free = [(directory, _free_bytes(directory)) for directory in candidates]
    for directory, free_bytes in free:
        if free_bytes >= ram_bytes + _SPARE_BYTES:
            return directory
    has = ", ".join(f"{directory} has {show_bytes(free_bytes)}" for directory, free_bytes in free)
    raise UsageError(
        f"both ends of all guests need {show_bytes(ram_bytes)} and {show_bytes(_SPARE_BYTES)} to spare, {has}:"
        " use fewer --vms or less --memory"
    )


def _free_bytes(directory: Path) -> int:
    if not os.access(directory, os.W_OK | os.X_OK):
        return 0
    free = shutil.disk_usage(directory).free
    # What is in /dev/shm is in memory, whatever the size of that file system says.
    return min(free, int(psutil.virtual_memory().available)) if directory == _SHARED_MEMORY else free


@contextlib.contextmanager
def _removed_in_the_end(directories: Sequence[Path]) -> Iterator[None]:
    try:
        # A session of its own: Ctrl-C is for the demo, which then lets this one do its work.
        remover = subprocess.Popen(
            watch_command(directories), stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True
        )
    except OSError as error:
        raise KuakaError(f"cannot start the process that cleans up: {error.strerror}") from None
    try:
        yield
    finally:
        if remover.stdin is not None:
            remover.stdin.close()
        remover.wait(_REMOVAL_TIMEOUT_S)
