"""Stand-in libraries are compiled where they are needed: C sources ship, binaries do not.

A library's name in the cache holds a digest of everything it is made of, so an old one is never taken for a new one,
and it appears by a rename: several processes may build at once, and none loads half a file.
"""

import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

SOURCES = Path(__file__).parent
_COMPILERS = ("cc", "gcc", "clang")
_FLAGS = ("-shared", "-fPIC", "-O2", "-std=gnu11", "-Wall", "-Wextra", "-Werror")
#: Every stand-in is linked with it.
_CLIENT = "emulated_client"
_COMPILE_TIMEOUT_S = 120


class StandInError(Exception):
    """A stand-in library cannot be had; the message is one line that says why and what to do."""


def build(name: str, directory: Path) -> Path:
    """The shared library made of `<name>.c`, compiled into `directory` unless it is there. Raises `StandInError`."""
    compiler = next((found for each in _COMPILERS if (found := shutil.which(each))), None)
    if compiler is None:
        raise StandInError(f"stand-in {name} needs a C compiler: install gcc and libc6-dev (make setup does)")
    sources = sorted({SOURCES / f"{name}.c", SOURCES / f"{_CLIENT}.c"})
    try:
        library = directory / f"{name}-{_digest(sources)}.so"
        if not library.exists():
            directory.mkdir(parents=True, exist_ok=True)
            _compile(compiler, name, sources, library)
    except (OSError, subprocess.SubprocessError) as error:
        raise StandInError(f"stand-in {name} cannot be built in {directory}: {error}") from None
    return library


def _digest(sources: list[Path]) -> str:
    digest = hashlib.sha256(" ".join(_FLAGS).encode())
    for source in [*sources, *sorted(SOURCES.glob("*.h"))]:
        digest.update(source.name.encode() + source.read_bytes())
    return digest.hexdigest()[:16]


def _compile(compiler: str, name: str, sources: list[Path], library: Path) -> None:
    descriptor, unfinished = tempfile.mkstemp(dir=library.parent, prefix=f".{name}-")
    os.close(descriptor)
    command = [compiler, *_FLAGS, "-o", unfinished, *map(str, sources)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_COMPILE_TIMEOUT_S, check=False)
        if done.returncode:
            said = next((line for line in done.stderr.splitlines() if "error" in line), f"exit code {done.returncode}")
            raise StandInError(f"stand-in {name} does not compile: {said}")
        Path(unfinished).replace(library)
    finally:
        Path(unfinished).unlink(missing_ok=True)
