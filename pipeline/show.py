"""What a run looks like: progress on stderr while it lasts, a table or JSON on stdout when it is over."""

import json
import sys
from collections.abc import Mapping
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, TaskID, TextColumn, TimeElapsedColumn, TransferSpeedColumn
from rich.progress import Progress as Bars
from rich.table import Table

from pipeline.errors import ExitCode
from pipeline.fleet.command import FinishedRun
from pipeline.fleet.orders import MigrationProgress
from pipeline.fleet.results import MigrationResult, exit_code, to_json

#: More bars than this do not fit a screen; the rest is summed up.
_MAX_BARS = 20
_PIPE_COLUMNS = 200


class Progress:
    """Bars of what has been moved, on stderr; silent where that is not a terminal."""

    def __init__(self) -> None:
        console = Console(stderr=True)
        self._bars = Bars(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(binary_units=True),
            TransferSpeedColumn(),
            TimeElapsedColumn(),
            console=console,
            disable=not console.is_terminal,
            transient=True,
        )
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def update(self, progress: Mapping[str, MigrationProgress]) -> None:
        """Show how far each migration has come."""
        for vm, part in progress.items():
            if vm not in self._tasks:
                if len(self._tasks) >= _MAX_BARS:
                    continue
                self._tasks[vm] = self._bars.add_task(vm, total=part.total_bytes or None)
            self._bars.update(self._tasks[vm], completed=part.counters.raw_bytes)


def say(text: str) -> None:
    """A line on stderr."""
    sys.stderr.write(f"kuaka: {text}\n")


def show_results(finished: FinishedRun, *, as_json: bool) -> ExitCode:
    """Print the results on stdout; returns what the command ends with."""
    if as_json:
        sys.stdout.write(json.dumps(to_json(finished.results, finished.wall_s), indent=2) + "\n")
    else:
        console = Console()
        # A pipe has no width: nothing is cut there.
        (console if console.is_terminal else Console(width=_PIPE_COLUMNS)).print(_table(finished))
        for result in finished.results:
            if result.error is not None:
                say(f"{result.vm}: {result.error}")
    return exit_code(finished.results)


def _table(finished: FinishedRun) -> Table:
    table = Table(title=f"{len(finished.results)} migrations in {finished.wall_s:.1f} s", title_justify="left")
    for heading in ("VM", "status", "RAM", "total", "downtime", "rounds", "pages", "zero", "raw", "wire", "codec"):
        table.add_column(heading, justify="left" if heading in ("VM", "status", "RAM", "codec") else "right")
    for result in finished.results:
        table.add_row(
            result.vm,
            result.status,
            _verified(result),
            _milliseconds(result.total_ms),
            _milliseconds(result.downtime_ms),
            "-" if result.rounds is None else str(result.rounds),
            str(result.pages),
            str(result.zero_pages),
            _mebibytes(result.raw_bytes),
            _mebibytes(result.wire_bytes),
            " ".join(f"{name} {pages}" for name, pages in sorted(result.codec_pages.items())),
        )
    return table


def _verified(result: MigrationResult) -> str:
    if result.verified is None:
        return "not compared"
    return "identical" if result.verified else f"{result.wrong_pages} WRONG PAGES"


def _milliseconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f} ms"


def _mebibytes(value: int) -> str:
    return f"{value / (1 << 20):.1f} MiB"
