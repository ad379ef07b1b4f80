"""Running a VM's `prepare` and `cleanup` commands on its destination host.

The commands are the operator's: they start a fresh destination QEMU for an attempt, and remove it. They get the paths
they need in their environment and may leave processes behind (that is what `prepare` is for), so only the command
itself is waited for.
"""

import asyncio
import os
import signal
from collections.abc import Mapping

from pipeline.errors import MigrationError
from pipeline.fleet.spec import Command

#: A prepare command that takes longer does not come back.
COMMAND_TIMEOUT_S = 60.0
#: A command that is not wanted any more may end by itself within this time.
_GRACE_S = 2.0
_SHOWN_BYTES = 400


async def run_command(what: str, command: Command, environment: Mapping[str, str]) -> None:
    """Run it to its end; raises `MigrationError` with its last words when it fails."""
    argv = ("/bin/sh", "-c", command) if isinstance(command, str) else command
    read_end, write_end = os.pipe()
    try:
        process = await asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=write_end,
            stderr=write_end,
            env={**os.environ, **environment},
            start_new_session=True,
        )
    except OSError as error:
        os.close(read_end)
        raise MigrationError(f"{what}: cannot run {argv[0]}: {error.strerror}") from None
    finally:
        os.close(write_end)
    try:
        code = await _wait(process)
        if code:
            raise MigrationError(f"{what} failed with exit code {code}: {_last_words(read_end)}")
    except TimeoutError:
        raise MigrationError(f"{what} took longer than {COMMAND_TIMEOUT_S:g} s and was killed") from None
    finally:
        os.close(read_end)


async def _wait(process: asyncio.subprocess.Process) -> int:
    """The exit code. It never runs on when this has ended, whatever ended it."""
    ending = asyncio.ensure_future(process.wait())
    try:
        return await asyncio.wait_for(asyncio.shield(ending), COMMAND_TIMEOUT_S)
    except asyncio.CancelledError:
        # Killed half-way it may leave a QEMU that nobody has written down yet.
        await asyncio.wait((ending,), timeout=_GRACE_S)
        raise
    finally:
        if not ending.done():
            os.killpg(process.pid, signal.SIGKILL)
            await ending


def _last_words(descriptor: int) -> str:
    # What the command leaves running may hold the pipe open: take what is there, never wait for its end.
    os.set_blocking(descriptor, False)
    try:
        said = os.read(descriptor, 1 << 16)
    except BlockingIOError:
        said = b""
    return " ".join(said[-_SHOWN_BYTES:].decode("utf-8", "replace").split()) or "it said nothing"
