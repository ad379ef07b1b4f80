"""A QEMU's QMP socket without a QEMU: answers from a script, and what was asked in order."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

#: What a source of 64 MiB says that has not migrated yet.
ANSWERS: dict[str, Any] = {
    "query-version": {"qemu": {"major": 7, "minor": 2, "micro": 0}, "package": ""},
    "query-migrate-capabilities": [
        {"capability": "multifd", "state": False},
        {"capability": "return-path", "state": False},
    ],
    "query-memory-size-summary": {"base-memory": 64 << 20},
    "qom-get": "pc-i440fx-7.2-machine",
    "query-uuid": {"UUID": "00000000-0000-0000-0000-000000000000"},
    "query-status": {"status": "running"},
    "query-migrate-parameters": {"multifd-channels": 2, "downtime-limit": 300},
}


class QmpServer:
    """Serves QMP at `path`; a QEMU that refuses everything while its migration is being given up, as the real one."""

    def __init__(self, path: Path, **answers: Any) -> None:
        """`answers` instead of `ANSWERS`, underscores for hyphens."""
        self._path = path
        self._answers = ANSWERS | {command.replace("_", "-"): answer for command, answer in answers.items()}
        self.asked: list[str] = []
        #: The arguments of each of `asked`.
        self.arguments: list[dict[str, Any]] = []
        self.status = "none"
        #: Awaited before the answer to a command.
        self.before: dict[str, Callable[[], Awaitable[None]]] = {}
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_unix_server(self._serve, str(self._path))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        version = ANSWERS["query-version"]
        writer.write(json.dumps({"QMP": {"version": version, "capabilities": []}}).encode() + b"\n")
        # The library waits for each answer, and ends no line.
        while data := await reader.read(1 << 16):
            message = json.loads(data)
            command = message["execute"]
            if command in self.before:
                await self.before[command]()
            self.asked.append(command)
            self.arguments.append(message.get("arguments", {}))
            identity = {name: message[name] for name in ("id",) if name in message}
            writer.write(json.dumps({**self._answer(command), **identity}).encode() + b"\n")
        writer.close()

    def _answer(self, command: str) -> dict[str, Any]:
        if command in ("migrate", "migrate-set-capabilities") and self.status in ("active", "cancelling"):
            return {"error": {"class": "GenericError", "desc": "There's a migration process in progress"}}
        if command == "migrate":
            self.status = "active"
        elif command == "migrate_cancel" and self.status == "active":
            self.status = "cancelling"
        elif command == "query-migrate":
            more = self._answers.get(command, {})
            return {"return": {} if self.status == "none" else {"status": self.status, **more}}
        return {"return": self._answers.get(command, {})}
