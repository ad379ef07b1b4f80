"""Running a VM's `prepare` and `cleanup` commands on its destination host.

The commands are the operator's: they start a fresh destination QEMU for an attempt, and remove it. They get the paths
they need in their environment and may leave processes behind (that is what `prepare` is for), so only the command
itself is waited for.
"""

import asyncio
import contextlib
import os
import signal
from collections.abc import Mapping, Sequence

from pipeline.errors import MigrationError, one_line

#: A command on the destination host: a list of words run as they are, or one string for /bin/sh -c.
Command = tuple[str, ...] | str

#: A prepare command that takes longer does not come back.
COMMAND_TIMEOUT_S = 60.0
#: A command that is not wanted any more may end by itself within this time.
_GRACE_S = 2.0
_SHOWN_BYTES = 400
#: All that a pipe holds.
_READ_BYTES = 1 << 16


async def run_command(what: str, command: Command, environment: Mapping[str, str]) -> None:
    """Run it to its end; raises `MigrationError` with its last words when it fails."""
    argv = ("/bin/sh", "-c", command) if isinstance(command, str) else command
    read_end, write_end = os.pipe()
    try:
        process = await _start(argv, {**os.environ, **environment}, write_end)
    except OSError as error:
        os.close(read_end)
        raise MigrationError(f"{what}: cannot run {argv[0]}: {error.strerror}") from None
    finally:
        os.close(write_end)
    said = _LastWords(read_end)
    try:
        code = await _wait(process)
        if code:
            raise MigrationError(f"{what} failed with exit code {code}: {said.text()}")
    except TimeoutError:
        raise MigrationError(f"{what} took longer than {COMMAND_TIMEOUT_S:g} s and was killed") from None
    finally:
        said.close()


async def _start(argv: Sequence[str], environment: Mapping[str, str], output: int) -> asyncio.subprocess.Process:
    starting = asyncio.ensure_future(
        asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=environment,
            start_new_session=True,
        )
    )
    task = asyncio.current_task()
    try:
        return await asyncio.shield(starting)
    except asyncio.CancelledError:
        # It may run already: whoever waits for it is cancelled instead, and deals with that.
        process = await starting
        if task is not None:
            task.cancel()
        return process


async def _wait(process: asyncio.subprocess.Process) -> int:
    """The exit code. It never runs on when this has ended, whatever ended it."""
    ending = asyncio.ensure_future(process.wait())
    try:
        async with asyncio.timeout(COMMAND_TIMEOUT_S):
            return await asyncio.shield(ending)
    except asyncio.CancelledError:
        # Killed half-way it may leave a QEMU that nobody has written down yet.
        await asyncio.wait((ending,), timeout=_GRACE_S)
        raise
    finally:
        if not ending.done():
            os.killpg(process.pid, signal.SIGKILL)
            await ending


class _LastWords:
    """What a command says, read while it runs, so that a full pipe never stops it; the end of it is kept."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._said = b""
        os.set_blocking(descriptor, False)
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(descriptor, self._read)

    def text(self) -> str:
        """Its end, on one line. What the command leaves running may go on talking: that is not waited for."""
        self._read()
        return one_line(" ".join(self._said.decode("utf-8", "replace").split())) or "it said nothing"

    def close(self) -> None:
        """Listen no longer."""
        self._loop.remove_reader(self._descriptor)
        os.close(self._descriptor)

    def _read(self) -> None:
        with contextlib.suppress(BlockingIOError):
            data = os.read(self._descriptor, _READ_BYTES)
            self._said = (self._said + data)[-_SHOWN_BYTES:]
            if not data:
                self._loop.remove_reader(self._descriptor)
