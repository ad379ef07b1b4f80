"""A demo guest and the means to migrate it for real: a destination that `prepare` starts and `cleanup` removes.

The rule: everything is in one short directory (unix sockets have short names), and `left_behind` says what a migration
left of what it started: a destination QEMU, sockets, directories.
"""

import contextlib
import json
import mmap
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil

from pipeline.demo.guest import ODD_MEMORY_BYTES, GuestParameters, boot_image, read_steps
from pipeline.demo.ram_check import RamComparison, compare
from tests.demo.running_guest import QEMU_7_2, RunningGuest, require_tool, wait_until

MIB = 1 << 20
PARAMETERS = GuestParameters(64 * MIB + ODD_MEMORY_BYTES, dirty_rate_bytes_s=8 * MIB)
MACHINE = "pc-i440fx-7.2"
#: A migration that something went wrong with has ended within this time.
LIMIT_S = 5.0


class LivePair:
    """A running source guest, its QMP for kuaka at `source_qmp`, and where its destination will be."""

    def __init__(
        self,
        home: Path,
        parameters: GuestParameters = PARAMETERS,
        destination_qemu: str = QEMU_7_2,
        source_qemu: str = QEMU_7_2,
        machine: str = MACHINE,
    ) -> None:
        self.home = home
        self.parameters = parameters
        self.source_qmp = home / "source" / "kuaka"
        self.destination_qmp = home / "destination.qmp"
        self.prepare = home / "prepare"
        self.cleanup = home / "cleanup"
        self._pid_file = home / "destination.pid"
        self._ram_file = home / "destination.ram"
        self._qemu = destination_qemu
        self._machine = machine
        (home / "guest.img").write_bytes(boot_image(parameters))
        self.write_prepare()
        self._write(self.cleanup, self._cleanup_script())
        self.source = RunningGuest(
            home / "source",
            parameters,
            source_qemu,
            machine,
            options=("-qmp", f"unix:{self.source_qmp},server=on,wait=off"),
        )
        self.source.wait_ready()

    def close(self) -> None:
        """End both guests."""
        self.kill_destination()
        self.source.__exit__(None, None, None)

    def write_prepare(
        self, start: str = "-incoming defer -S", machine: str = "", memory_bytes: int = 0, more: str = ""
    ) -> None:
        """Make `prepare` start a destination of another kind."""
        size = memory_bytes or self.parameters.memory_bytes
        command = (
            f"exec {require_tool(self._qemu)} -accel tcg -m {size >> 10}K"
            f" -machine {machine or self._machine},memory-backend=ram"
            f" -object memory-backend-file,id=ram,share=on,size={size},mem-path={self._ram_file}"
            f" -nodefaults -display none -no-reboot"
            f" -drive file={self.home}/guest.img,format=raw,if=ide,file.locking=off"
            f" -qmp unix:$KUAKA_QMP,server=on,wait=off {start} -daemonize -pidfile {self._pid_file} {more}"
        )
        self._write(self.prepare, f"rm -f {self._ram_file}\n{command}\n")

    def spec(self, **settings: Any) -> Path:
        """A spec file that migrates this guest from host a to host b."""
        virtual_machine = {
            "name": "vm1",
            "kind": "qemu",
            # Both QEMUs have the same boot sector's file.
            "sharedStorage": True,
            "source": {"host": "a", "qmp": str(self.source_qmp)},
            "destination": {
                "host": "b",
                "qmp": str(self.destination_qmp),
                "prepare": [str(self.prepare)],
                "cleanup": [str(self.cleanup)],
            },
            **settings.pop("vm", {}),
        }
        spec = {"hosts": [{"name": "a"}, {"name": "b"}], "codec": "none", "channels": 2, **settings}
        path = self.home / "spec.yaml"
        body = {"apiVersion": "kuaka/v1", "kind": "Fleet", "metadata": {"name": "test"}}
        path.write_text(json.dumps({**body, "spec": {**spec, "virtualMachines": [virtual_machine]}}))
        return path

    @property
    def destination_pid(self) -> int | None:
        """The destination QEMU, None where there is none."""
        with contextlib.suppress(FileNotFoundError, ValueError):
            pid = int(self._pid_file.read_text())
            if psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                return pid
        return None

    def kill_destination(self) -> None:
        """SIGKILL the destination QEMU, if there is one."""
        if (pid := self.destination_pid) is not None:
            os.kill(pid, signal.SIGKILL)
            wait_until(lambda: self.destination_pid is None, "the destination has ended")

    def wait_moving(self, transferred_bytes: int = 4 * MIB) -> None:
        """Wait until the migration has moved so much of the guest."""

        def moved() -> bool:
            answer = self.source.qmp("query-migrate")
            return bool(
                answer.get("status") == "active" and answer.get("ram", {}).get("transferred", 0) > transferred_bytes
            )

        wait_until(moved, "the migration is under way", 60)

    def source_runs_on(self) -> bool:
        """Whether the source guest runs and its memory changes."""
        if not self.source.qmp("query-status")["running"]:
            return False
        before = self.source.steps
        deadline = time.monotonic() + 10
        while self.source.steps == before and time.monotonic() < deadline:
            time.sleep(0.01)
        return self.source.steps > before

    def compared(self) -> RamComparison:
        """Stop the destination guest and compare: the guest has been migrated there."""
        with raw_qmp(self.destination_qmp) as qmp:
            assert qmp("query-status")["status"] == "running"
            qmp("stop")
            with self._ram_file.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as ram:
                copy = bytes(ram)
        return compare(self.source.ram, copy, self.parameters)

    def start_destination(self) -> None:
        """Run `prepare` without kuaka."""
        subprocess.run([self.prepare], check=True, env={**os.environ, "KUAKA_QMP": str(self.destination_qmp)})

    def destination_steps_since_started(self) -> int:
        """Steps that the destination did beyond those it can have got from the source; for one that has ended."""
        with self._ram_file.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as ram:
            return max(0, read_steps(bytes(ram)) - self.source.steps)

    def left_behind(self, *hosts: str) -> list[str]:
        """What is there besides the source guest, the files of the test and the directories of these hosts."""
        left = [f"destination QEMU {pid}" for pid in (self.destination_pid,) if pid is not None]
        left += [str(path) for path in (self.home / "run").rglob("*") if path.name not in hosts]
        left += [str(path) for path in self.home.iterdir() if path.is_socket() and path != self.destination_qmp]
        return left

    def _cleanup_script(self) -> str:
        return (
            f"[ -e {self._pid_file} ] || exit 0\npid=$(cat {self._pid_file})\nkill -KILL $pid 2>/dev/null\n"
            f"while kill -0 $pid 2>/dev/null; do sleep 0.02; done\nrm -f {self._pid_file}\n"
        )

    @staticmethod
    def _write(path: Path, script: str) -> None:
        path.write_text(f"#!/bin/sh\n{script}")
        path.chmod(0o700)


@contextlib.contextmanager
def raw_qmp(path: Path) -> Iterator[Callable[..., Any]]:
    """QMP commands to the QEMU at `path`."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(20)
        sock.connect(str(path))
        with sock.makefile("rw") as lines:
            lines.readline()

            def execute(command: str, **arguments: Any) -> Any:
                lines.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
                lines.flush()
                while "return" not in (reply := json.loads(lines.readline())):
                    assert "error" not in reply, reply
                return reply["return"]

            execute("qmp_capabilities")
            yield execute


@contextlib.contextmanager
def short_directory() -> Iterator[Path]:
    """A directory whose name leaves room for those of unix sockets; QEMU's memory in it is memory."""
    path = Path(tempfile.mkdtemp(prefix="kf-", dir="/dev/shm"))
    try:
        (path / "run").mkdir(mode=0o700)
        (path / "state").mkdir(mode=0o700)
        yield path
    finally:
        shutil.rmtree(path)
