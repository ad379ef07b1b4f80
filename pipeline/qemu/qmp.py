"""Talking to a QEMU by QMP: the `qemu.qmp` library, errors a user can act on, the facts a migration is checked by."""

import asyncio
import os
import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from qemu.qmp import EventListener, ExecInterruptedError, ExecuteError, Message, QMPClient, QMPError, Runstate

from pipeline.errors import MigrationError, SpecError
from pipeline.qemu.disks import DiskNames, writable_disks

_CONNECT_TIMEOUT_S = 5.0
#: A QEMU whose main loop does not answer for this long is not going to migrate.
_COMMAND_TIMEOUT_S = 30.0
_CREDENTIALS = struct.Struct("3i")


@dataclass(frozen=True, slots=True)
class QemuFacts:
    """What both ends of a migration must agree on, and what this QEMU can do."""

    version: tuple[int, int, int]
    uuid: str
    machine: str
    ram_bytes: int
    #: QEMU's run state: running, paused, inmigrate, ...
    status: str
    capabilities: Mapping[str, bool]
    parameters: Mapping[str, Any]
    #: Command line of the process behind the socket; empty where it cannot be read.
    arguments: tuple[str, ...]
    writable_disks: tuple[DiskNames, ...] = ()

    @property
    def native_zero_pages(self) -> bool:
        """Whether multifd packets may list zero pages (QEMU 9.0)."""
        return self.version >= (9, 0, 0)


class Qmp:
    """One QMP connection, an async context; `name` is how messages call this QEMU."""

    def __init__(self, path: Path, name: str) -> None:
        self.path = path
        self.name = name
        self._client = QMPClient(f"kuaka {name}")
        self.events = EventListener(("STOP", "RESUME", "MIGRATION", "SHUTDOWN"))
        self._peer_pid = 0

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.disconnect()

    async def connect(self) -> None:
        """Connect and negotiate; raises `SpecError`, for a QEMU that cannot be reached before anything moved."""
        try:
            # In a thread: a listener whose backlog is full blocks whoever connects.
            sock = await asyncio.to_thread(_connected, self.path)
        except OSError as error:
            raise SpecError(
                f"{self.name}: no QMP socket answers at {self.path}: {error.strerror or error};"
                " start QEMU with -qmp unix:PATH,server=on,wait=off"
            ) from None
        self._peer_pid = _peer_pid(sock)
        self._client.register_listener(self.events)
        try:
            async with asyncio.timeout(_CONNECT_TIMEOUT_S):
                await self._client.connect(sock)
        except (QMPError, TimeoutError):
            sock.close()
            raise SpecError(
                f"{self.name}: {self.path} does not answer like QMP: is another client connected to it?"
            ) from None

    async def disconnect(self) -> None:
        """Close the connection; a QEMU that has died does not mind."""
        try:
            await self._client.disconnect()
        except (QMPError, OSError, EOFError):
            return

    async def execute(self, command: str, **arguments: Any) -> Any:
        """Run a command (underscores in argument names become hyphens); raises `MigrationError` with QEMU's words."""
        named = {name.replace("_", "-"): value for name, value in arguments.items()}
        try:
            async with asyncio.timeout(_COMMAND_TIMEOUT_S):
                return await self._client.execute(command, named)
        except ExecuteError as error:
            raise MigrationError(f"{self.name}: QEMU refused {command}: {error}") from None
        except (QMPError, ExecInterruptedError, EOFError, OSError):
            raise MigrationError(f"{self.name}: QEMU has gone (during {command})") from None
        except TimeoutError:
            raise MigrationError(
                f"{self.name}: QEMU did not answer {command} within {_COMMAND_TIMEOUT_S:g} s"
            ) from None

    async def facts(self) -> QemuFacts:
        """Ask for everything that a migration is checked by; raises `MigrationError`."""
        version = (await self.execute("query-version"))["qemu"]
        capabilities = await self.execute("query-migrate-capabilities")
        memory = await self.execute("query-memory-size-summary")
        machine = await self.execute("qom-get", path="/machine", property="type")
        return QemuFacts(
            (version["major"], version["minor"], version["micro"]),
            (await self.execute("query-uuid"))["UUID"],
            machine.removesuffix("-machine"),
            memory["base-memory"] + memory.get("plugged-memory", 0),
            (await self.execute("query-status"))["status"],
            {entry["capability"]: entry["state"] for entry in capabilities},
            await self.execute("query-migrate-parameters"),
            self._arguments(),
            writable_disks(await self.execute("query-block")),
        )

    async def next_event(self, *names: str) -> Message:
        """The next event of one of these names; raises `MigrationError` when QEMU goes."""
        while True:
            try:
                event = await self._wait_event()
            except asyncio.CancelledError:
                raise
            except (QMPError, EOFError, OSError):
                raise MigrationError(f"{self.name}: QEMU has gone") from None
            if event["event"] in names:
                return event

    def waiting_events(self, *names: str) -> list[Message]:
        """The events of these names that have arrived already; others are dropped."""
        return [event for event in self.events.clear() if event["event"] in names]

    async def _wait_event(self) -> Message:
        if not self.events.empty():
            return await self.events.get()
        if self._client.runstate is not Runstate.RUNNING:
            raise EOFError
        getting = asyncio.ensure_future(self.events.get())
        dying = asyncio.ensure_future(self._client.runstate_changed())
        try:
            await asyncio.wait((getting, dying), return_when=asyncio.FIRST_COMPLETED)
            if getting.done():
                return getting.result()
            raise EOFError
        finally:
            getting.cancel()
            dying.cancel()

    def _arguments(self) -> tuple[str, ...]:
        try:
            words = Path(f"/proc/{self._peer_pid}/cmdline").read_bytes().split(b"\0")
        except OSError:
            return ()
        return tuple(os.fsdecode(word) for word in words if word)


def event_time_ns(event: Message) -> int:
    """When QEMU says an event happened: its host's real-time clock."""
    stamp: Any = event["timestamp"]
    return int(stamp["seconds"]) * 10**9 + int(stamp["microseconds"]) * 1000


def _connected(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    try:
        sock.settimeout(_CONNECT_TIMEOUT_S)
        sock.connect(str(path))
        sock.setblocking(False)
    except BaseException:
        sock.close()
        raise
    return sock


def is_there(path: Path) -> bool:
    """Whether a QEMU holds the QMP socket at `path`, be it busy or hanging; False only when there is certainly none.

    Blocks for up to a second where the listener's backlog is full."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(1.0)
        try:
            sock.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError:
            # A full backlog, a socket of another user: something is there.
            return True
    return True


def pid_behind(path: Path) -> int | None:
    """The process that listens at `path`, also when it hangs; None where there is none or it cannot be seen."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(1.0)
        try:
            sock.connect(str(path))
        except OSError:
            return None
        return _peer_pid(sock) or None


def _peer_pid(sock: socket.socket) -> int:
    """Who called listen() on the other end; 0 for a process of another pid namespace."""
    pid: int = _CREDENTIALS.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))[0]
    return pid
