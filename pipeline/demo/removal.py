"""Removing what a demo has started: QEMUs by their pid files, then its directories. Also a process that does it.

The rule: whatever happens to `kuaka demo`, a kill that cannot be caught included, nothing of it stays. So the demo
itself removes nothing: `python -m pipeline.demo.removal` waits for the end of its standard input, a pipe that only the
demo holds, and then removes everything. `python -m pipeline.demo.removal PID_FILE FILE...` is one guest's cleanup.

A pid file counts only while its process was started with that file's name: a number may have been given to another.
"""

import contextlib
import os
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

PID_SUFFIX = ".pid"
_WATCH = "--when-stdin-ends"
#: A QEMU that had made its pid file has written its number into it by then.
_WRITTEN_S = 0.2


def end_qemu(pid_file: Path, started_as: Path | None = None) -> None:
    """End the QEMU of this pid file, if it runs; `started_as` is what the file was called when it was started."""
    with contextlib.suppress(OSError, ValueError):
        pid = int(pid_file.read_text())
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        if os.fsencode(started_as or pid_file) in words:
            os.kill(pid, signal.SIGKILL)


def remove_demo(directories: Sequence[Path]) -> None:
    """End every QEMU whose pid file is in one of `directories`, and remove them."""
    for directory in directories:
        # Under another name first: a QEMU that is just starting cannot make its pid file any more, and ends.
        going = directory.with_name(f"{directory.name}.removed")
        with contextlib.suppress(FileNotFoundError):
            directory.rename(going)
            time.sleep(_WRITTEN_S if any(going.glob("*" + PID_SUFFIX)) else 0)
            for pid_file in going.glob("*" + PID_SUFFIX):
                end_qemu(pid_file, directory / pid_file.name)
            shutil.rmtree(going, ignore_errors=True)


def watch_command(directories: Sequence[Path]) -> tuple[str, ...]:
    """The process that removes everything when its standard input ends."""
    return (sys.executable, "-m", __name__, _WATCH, *map(str, directories))


def cleanup_command(pid_file: Path, *files: Path) -> tuple[str, ...]:
    """What ends one QEMU and removes its files."""
    return (sys.executable, "-m", __name__, str(pid_file), *map(str, files))


def main(arguments: Sequence[str]) -> None:
    """See the module."""
    if arguments[0] == _WATCH:
        while os.read(sys.stdin.fileno(), 4096):
            pass
        remove_demo([Path(name) for name in arguments[1:]])
        return
    for name in arguments:
        if name.endswith(PID_SUFFIX):
            end_qemu(Path(name))
        Path(name).unlink(missing_ok=True)


if __name__ == "__main__":
    main(sys.argv[1:])
