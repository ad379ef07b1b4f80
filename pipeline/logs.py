"""What agents and the controller log: plain lines, or one JSON object per line where $KUAKA_LOG is `json`.

An object says when, how grave, who (role, host, process), what, and which migration is meant. The latter is not passed
from call to call: whoever begins with a migration says so (`log_about`), and what runs for it from then on, tasks that
it starts too, logs with its ids. A call's own `extra` goes first.
"""

import json
import logging
import os
import sys
from collections.abc import Mapping
from contextvars import ContextVar
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, TextIO

VARIABLE = "KUAKA_LOG"
_JSON = "json"
#: Ours; what Ray and others log is theirs to set up.
_LOGGERS = ("pipeline", "scheduler")
#: Of a migration: the fleet's id, the machine's name, the attempt's session.
_IDS = ("fleet", "vm", "migration")

_about: ContextVar[Mapping[str, str]] = ContextVar("about", default=MappingProxyType({}))


def log_about(**ids: str) -> None:
    """Whatever this task logs from now on, and tasks that it starts, is about the `fleet`, `vm` or `migration`."""
    _about.set({**_about.get(), **ids})


class JsonFormatter(logging.Formatter):
    """One object per line; ASCII, so that no name or error breaks a line or a terminal."""

    def __init__(self, role: str, host: str) -> None:
        super().__init__()
        self._who = {"role": role, "host": host}

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        fields: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            **self._who,
            "process": record.process,
            "logger": record.name,
            "message": record.getMessage(),
            **_about.get(),
            **{name: value for name in _IDS if (value := getattr(record, name, None)) is not None},
        }
        if record.exc_info:
            fields["error"] = self.formatException(record.exc_info)
        return json.dumps(fields, default=str)


def set_up_logs(role: str, host: str, *, environ: Mapping[str, str] = os.environ, stream: TextIO | None = None) -> None:
    """Log as $KUAKA_LOG says, from information on where that is JSON; nothing is changed where it is not."""
    if environ.get(VARIABLE) != _JSON:
        return
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter(role, host))
    for name in _LOGGERS:
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.setLevel(logging.INFO)
        # The line is said once.
        logger.propagate = False
