"""A demo guest in a real QEMU, driven over QMP from one thread, with its RAM in sight.

The rule: what it starts it ends, whatever the test does. The RAM file loses its name once QEMU has it, so nothing
stays.
"""

import json
import mmap
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest

from pipeline.demo.guest import GuestParameters, boot_image, is_ready, read_steps

QEMU_7_2 = "qemu-system-x86_64"
QEMU_10_0 = str(Path(__file__).parents[2] / ".cache" / "qemu-10.0" / "qemu-system-x86_64")


def require_tool(name: str) -> str:
    """The path of an executable; without it the test fails in CI and is skipped elsewhere."""
    if found := shutil.which(name):
        return found
    if os.environ.get("CI"):
        pytest.fail(f"{name} is missing: run `make setup`")
    pytest.skip(f"{name} is missing: run `make setup`")


def wait_until(condition: Callable[[], bool], what: str, timeout_s: float = 20) -> None:
    """Wait for `condition`; fails the test after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"not within {timeout_s} s: {what}")
        time.sleep(0.005)


class RunningGuest:
    """QEMU with a demo guest; `ram` is its whole RAM block, shared and writable. Use it in a `with` statement."""

    def __init__(
        self,
        folder: Path,
        parameters: GuestParameters,
        qemu: str = QEMU_7_2,
        machine: str = "pc-i440fx-7.2",
        incoming: bool = False,
        memory_bytes: int | None = None,
        options: Sequence[str] = (),
    ) -> None:
        self.parameters = parameters
        folder.mkdir()
        self.folder = folder
        size = memory_bytes or parameters.memory_bytes
        ram_file = Path("/dev/shm") / f"kuaka-test-{os.getpid()}-{folder.name}"
        disk = folder / "guest.img"
        disk.write_bytes(boot_image(parameters))
        with ram_file.open("xb+") as file:
            file.truncate(size)
            self.ram = mmap.mmap(file.fileno(), size)
        command = [
            *(require_tool(qemu), "-accel", "tcg", "-machine", f"{machine},memory-backend=ram", "-m", f"{size >> 10}K"),
            *("-object", f"memory-backend-file,id=ram,share=on,size={size},mem-path={ram_file}"),
            *("-nodefaults", "-display", "none", "-no-reboot"),
            *("-drive", f"file={disk},format=raw,if=ide,file.locking=off"),
            *("-qmp", f"unix:{folder}/qmp,server=on,wait=off"),
            *(("-incoming", "defer", "-S") if incoming else ()),
            *options,
        ]
        try:
            self._process = subprocess.Popen(command)
            self._connect()
        finally:
            ram_file.unlink()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        self._qmp.close()

    def kill(self) -> None:
        """SIGKILL QEMU."""
        self._process.kill()
        self._process.wait()

    @property
    def has_ended(self) -> bool:
        """Whether QEMU's process has gone."""
        return self._process.poll() is not None

    def _connect(self) -> None:
        path = str(self.folder / "qmp")
        self._qmp = socket.socket(socket.AF_UNIX)
        try:
            wait_until(lambda: self._process.poll() is not None or self._qmp.connect_ex(path) == 0, "QMP connection")
            assert self._process.poll() is None, "QEMU ended at once"
            self._qmp.settimeout(20)
            self._lines = self._qmp.makefile("rw")
            self._lines.readline()
            self.qmp("qmp_capabilities")
        except BaseException:
            self._process.kill()
            self._process.wait()
            self._qmp.close()
            raise

    def qmp(self, command: str, **arguments: Any) -> Any:
        """Run one QMP command and return what it returns."""
        self._lines.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
        self._lines.flush()
        while True:
            reply = json.loads(self._lines.readline())
            assert "error" not in reply, reply
            if "return" in reply:
                return reply["return"]

    @property
    def steps(self) -> int:
        """Steps the guest has completed so far."""
        return read_steps(self.ram)

    def wait_ready(self, timeout_s: float = 20) -> None:
        """Wait until memory is filled."""
        wait_until(lambda: is_ready(self.ram), "guest ready", timeout_s)

    def wait_steps(self, count: int) -> None:
        """Wait until `count` steps more are done."""
        target = self.steps + count
        wait_until(lambda: self.steps >= target, f"{count} steps more")

    def migrate_to(self, destination: "RunningGuest", channels: int, timeout_s: float = 30) -> None:
        """A plain QEMU-to-QEMU multifd migration; returns when the source reports `completed`."""
        uri = f"unix:{destination.folder}/stream"
        for guest in (self, destination):
            names = ("multifd", "return-path")
            guest.qmp("migrate-set-capabilities", capabilities=[{"capability": name, "state": True} for name in names])
            guest.qmp("migrate-set-parameters", **{"multifd-channels": channels, "max-bandwidth": 10**10})
        destination.qmp("migrate-incoming", uri=uri)
        self.qmp("migrate", uri=uri)

        def completed() -> bool:
            status = self.qmp("query-migrate").get("status")
            assert status not in ("failed", "cancelled")
            return bool(status == "completed")

        wait_until(completed, "migration completed", timeout_s)
