"""Which QEMUs there are and which is meant by "7.2": the system's, and the one that `make setup` unpacks.

The rule: a version is what the program says of itself, never what its folder is called.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import UsageError

_PROGRAM = "qemu-system-x86_64"
#: Where `make setup` leaves QEMU 10.0, under the working directory or the source tree.
_CACHED = Path(".cache") / "qemu-10.0" / _PROGRAM
_SOURCE_TREE = Path(__file__).parents[2]
_SAYS_VERSION = re.compile(r"QEMU emulator version (\d+(?:\.\d+)+)")
_WISHED_VERSION = re.compile(r"\d+(\.\d+){0,2}")
_MACHINE = re.compile(r"^pc-i440fx-(\d+)\.(\d+) ", re.MULTILINE)
_ANSWER_TIMEOUT_S = 20.0


@dataclass(frozen=True, slots=True)
class QemuBinary:
    """A QEMU program and its version, e.g. (7, 2, 22)."""

    path: Path
    version: tuple[int, ...]

    @property
    def name(self) -> str:
        """Its version as people write it, e.g. 7.2."""
        return ".".join(map(str, self.version[:2]))

    @property
    def tracks_dirty_pages_in_words(self) -> bool:
        """Whether RAM of any size can be migrated from it without KVM; see `guest.ODD_MEMORY_BYTES`."""
        return self.version >= (9, 0)

    @property
    def has_zero_page_detection(self) -> bool:
        """Whether the migration parameter of that name exists (QEMU 9.0)."""
        return self.version >= (9, 0)


def available_qemus(environ: Mapping[str, str] = os.environ) -> list[QemuBinary]:
    """Every QEMU of the usual places that starts, those of $PATH first."""
    found: dict[tuple[int, ...], QemuBinary] = {}
    asked: set[Path] = set()
    for path in _places(environ):
        # On a merged /usr the same program is in two folders of PATH.
        if (program := path.resolve()) not in asked and (binary := _ask(path)):
            found.setdefault(binary.version[:2], binary)
        asked.add(program)
    return list(found.values())


def choose_qemu(wish: str | None, there: list[QemuBinary]) -> QemuBinary:
    """The QEMU meant by a version (7.2), by a path, or the first of those `there` for None. Raises `UsageError`."""
    if wish is not None and not _WISHED_VERSION.fullmatch(wish):
        path = Path(wish).absolute()
        binary = _ask(path)
        if binary is None:
            raise UsageError(f"QEMU {wish!r} is neither a version nor a QEMU program: {_what_there_is(there)}")
        return binary
    numbers = tuple(int(part) for part in wish.split(".")) if wish else ()
    for binary in there:
        if binary.version[: len(numbers)] == numbers:
            return binary
    raise UsageError(f"there is no QEMU{' ' + wish if wish else ''} here: {_what_there_is(there)}")


def newest_machine(source: QemuBinary, destination: QemuBinary) -> str:
    """The newest i440fx machine type that both have. Raises `UsageError`."""
    common = _machines(source) & _machines(destination)
    if not common:
        raise UsageError(f"QEMU {source.name} and {destination.name} have no pc-i440fx machine type in common")
    return "pc-i440fx-{}.{}".format(*max(common))


def _what_there_is(there: list[QemuBinary]) -> str:
    if not there:
        return "none was found in PATH, nor in .cache: run `make setup`, or give the path of one"
    return f"there is {', '.join(f'{binary.name} ({binary.path})' for binary in there)}"


def _places(environ: Mapping[str, str]) -> Iterator[Path]:
    for folder in environ.get("PATH", os.defpath).split(os.pathsep):
        if found := shutil.which(_PROGRAM, path=folder or "."):
            yield Path(found).absolute()
    for root in (Path.cwd(), _SOURCE_TREE):
        if os.access(root / _CACHED, os.X_OK):
            yield root / _CACHED


def _ask(path: Path) -> QemuBinary | None:
    answer = _run(path, "--version")
    version = _SAYS_VERSION.search(answer)
    return QemuBinary(path, tuple(int(part) for part in version[1].split("."))) if version else None


def _machines(binary: QemuBinary) -> set[tuple[int, int]]:
    return {(int(major), int(minor)) for major, minor in _MACHINE.findall(_run(binary.path, "-machine", "help"))}


def _run(path: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(
            (path, *arguments),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_ANSWER_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout
