"""What a run looks like: progress on stderr while it lasts, a table or JSON on stdout when it is over."""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, Self

from rich import box
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, TaskID, TextColumn, TimeElapsedColumn, TransferSpeedColumn
from rich.progress import Progress as Bars
from rich.table import Table

from pipeline.errors import ExitCode
from pipeline.fleet.command import FinishedRun
from pipeline.fleet.orders import MigrationProgress
from pipeline.fleet.results import MigrationResult, exit_code, to_json
from pipeline.output import Output, structured
from pipeline.say import say
from pipeline.terminal import results_console

#: More bars than this do not fit a screen; the rest is summed up.
_MAX_BARS = 20
#: All columns fit a terminal of this width.
_WIDE_COLUMNS = 130


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
                self._tasks[vm] = self._bars.add_task(vm, total=None)
            # How much there is to move is not known before the source was looked at.
            self._bars.update(self._tasks[vm], completed=part.counters.raw_bytes, total=part.total_bytes or None)


def show_results(finished: FinishedRun, output: Output) -> ExitCode:
    """Print the results on stdout; returns what the command ends with."""
    if output is not Output.TABLE:
        sys.stdout.write(structured(to_json(finished.results, finished.wall_s), output))
    else:
        console = results_console()
        console.print(_table(finished, console.width))
        for result in finished.results:
            if result.error is not None:
                say(f"{result.vm}: {result.error}")
    return exit_code(finished.results)


@dataclass(frozen=True, slots=True)
class _Column:
    heading: str
    cell: Callable[[MigrationResult], str]
    justify: Literal["left", "right"] = "right"
    #: Shown on a narrow terminal, too; a cell that is cut says nothing.
    always: bool = True


def _table(finished: FinishedRun, columns: int) -> Table:
    count = len(finished.results)
    title = f"{count} {'migration' if count == 1 else 'migrations'} in {finished.wall_s:.1f} s"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    shared = any(result.service_class is not None for result in finished.results)
    every = _COLUMNS + (_DEVICE_COLUMNS if shared else ())
    shown = [column for column in every if column.always or columns >= _WIDE_COLUMNS]
    for column in shown:
        # Names may be long: only they are broken, over several lines.
        table.add_column(column.heading, justify=column.justify, no_wrap=column.heading != "VM", overflow="fold")
    for result in finished.results:
        table.add_row(*(column.cell(result) for column in shown))
    return table


def _codecs(result: MigrationResult) -> str:
    return " ".join(f"{name} {pages}" for name, pages in sorted(result.codec_pages.items()))


def _verified(result: MigrationResult) -> str:
    if result.verified is None:
        return "not compared"
    return "identical" if result.verified else f"{result.wrong_pages} WRONG PAGES"


def _milliseconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f} ms"


def _mebibytes(value: int) -> str:
    return f"{value / (1 << 20):.1f} MiB"


_COLUMNS = (
    _Column("VM", lambda result: result.vm, "left"),
    _Column("status", lambda result: result.status, "left"),
    _Column("RAM", _verified, "left"),
    _Column("total", lambda result: _milliseconds(result.total_ms)),
    _Column("downtime", lambda result: _milliseconds(result.downtime_ms)),
    _Column("rounds", lambda result: "-" if result.rounds is None else str(result.rounds), always=False),
    _Column("pages", lambda result: str(result.pages), always=False),
    _Column("zero", lambda result: str(result.zero_pages), always=False),
    _Column("raw", lambda result: _mebibytes(result.raw_bytes)),
    _Column("wire", lambda result: _mebibytes(result.wire_bytes)),
    _Column("codec", _codecs, "left", always=False),
)
#: Where accelerators are shared.
_DEVICE_COLUMNS = (
    _Column("device", lambda result: str(result.accelerator_pages)),
    _Column("CPU", lambda result: str(result.cpu_pages)),
    _Column("busy", lambda result: str(result.busy_retries), always=False),
    _Column("wait", lambda result: _milliseconds(result.wait_ms), always=False),
    _Column("ticket", lambda result: _milliseconds(result.ticket_wait_ms), always=False),
)
