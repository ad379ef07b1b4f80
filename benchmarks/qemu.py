"""QEMU processes for the benchmarks, driven over QMP from one thread; every one is ended by its pid."""

import json
import socket
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from benchmarks.namespaces import LOOPBACK, Place

QEMU = "qemu-system-x86_64"
_START_TIMEOUT_S = 60.0
_REPLY_TIMEOUT_S = 120.0


@dataclass(slots=True)
class Qemu:
    """One QEMU; use it in a `with` statement. `memory` is its memory-backend-... option without id and size."""

    socket_path: Path
    memory_bytes: int
    memory: str
    options: tuple[str, ...] = ()
    place: Place = LOOPBACK
    events: list[dict[str, Any]] = field(default_factory=list)
    _process: "subprocess.Popen[bytes] | None" = None
    _sock: socket.socket | None = None
    _pending: bytes = b""

    @property
    def pid(self) -> int:
        """Its process."""
        assert self._process is not None
        return self._process.pid

    def __enter__(self) -> Self:
        backend = f"{self.memory},id=ram,size={self.memory_bytes}"
        with self.place.entered():
            self._process = subprocess.Popen(
                [
                    *(QEMU, "-accel", "tcg", "-m", str(self.memory_bytes >> 20), "-object", backend),
                    *("-machine", "pc,memory-backend=ram", "-nodefaults", "-display", "none", "-no-reboot"),
                    *("-qmp", f"unix:{self.socket_path},server=on,wait=off"),
                    *self.options,
                ],
                stdin=subprocess.DEVNULL,
                # Not a session of its own: the kernel shares CPUs out between sessions (autogroup), and Ctrl-C is ours.
                process_group=0,
            )
        try:
            self._connect()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def execute(self, command: str, **arguments: Any) -> Any:
        """One QMP command; events that come meanwhile are kept. Raises RuntimeError with QEMU's reason."""
        assert self._sock is not None
        self._sock.sendall(json.dumps({"execute": command, "arguments": arguments}).encode())
        while True:
            message = self._receive(_REPLY_TIMEOUT_S)
            if "return" in message:
                return message["return"]
            if "error" in message:
                raise RuntimeError(f"{command}: {message['error']['desc']}")
            self.events.append(message)

    def await_event(self, name: str, timeout_s: float, **data: Any) -> dict[str, Any]:
        """The first event of this name whose data has these values, kept ones included. Raises TimeoutError."""
        seen = 0
        deadline = time.monotonic() + timeout_s
        while True:
            for event in self.events[seen:]:
                if event.get("event") == name and all(event["data"].get(key) == data[key] for key in data):
                    return event
            seen = len(self.events)
            self.events.append(self._receive(deadline - time.monotonic()))
            if self.events[-1].get("data", {}).get("status") == "failed":
                raise RuntimeError(f"migration failed: {self.execute('query-migrate').get('error-desc', 'no reason')}")

    def _connect(self) -> None:
        deadline = time.monotonic() + _START_TIMEOUT_S
        self._sock = socket.socket(socket.AF_UNIX)
        while self._sock.connect_ex(str(self.socket_path)):
            assert self._process is not None
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"QEMU did not start (exit code {self._process.poll()})")
            time.sleep(0.01)
        self._receive(_START_TIMEOUT_S)
        self.execute("qmp_capabilities")

    def _receive(self, timeout_s: float) -> dict[str, Any]:
        assert self._sock is not None
        self._sock.settimeout(max(0.001, timeout_s))
        while b"\n" not in self._pending:
            data = self._sock.recv(1 << 16)
            if not data:
                raise RuntimeError("QEMU has gone")
            self._pending += data
        line, _, self._pending = self._pending.partition(b"\n")
        message: dict[str, Any] = json.loads(line)
        return message

    def _end(self) -> None:
        if self._sock is not None:
            self._sock.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self.socket_path.unlink(missing_ok=True)


def event_time_s(event: dict[str, Any]) -> float:
    """When QEMU sent an event, on the clock of this machine."""
    stamp = event["timestamp"]
    return float(stamp["seconds"]) + float(stamp["microseconds"]) / 1e6
