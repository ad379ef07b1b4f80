"""Commands for fleets that a controller on the cluster has: submitted, looked at, steered, waited for.

The controller does not need the command that asked for something. Whoever waits and is interrupted leaves the fleet
running, and is told how to come back.
"""

import contextlib
import json
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from pipeline.api import Fleet, SubmittedFleet
from pipeline.byte_amounts import parse_rate
from pipeline.errors import ExitCode, InterruptedMigration, KuakaError, UsageError
from pipeline.fleet.command import FinishedRun
from pipeline.fleet.fleet_status import FleetState, FleetStatus, MigrationStatus
from pipeline.fleet.joined import joined_controller
from pipeline.fleet.lifecycle import FINAL, State
from pipeline.fleet.pool_looks import PoolLooks
from pipeline.output import Output, structured
from pipeline.say import say
from pipeline.show import show_results
from pipeline.terminal import results_console
from pipeline.top import Rates, moved, view

if TYPE_CHECKING:
    from pipeline.fleet.controller_actor import ControllerHandle

_LOOK_S = 0.5
#: Rows of a live table that no terminal bounds, and what a terminal has besides them.
_MOST_ROWS = 40
_FRAME_ROWS = 7
_POOLS_FRAME_ROWS = 5
#: A controller that died is back within this time; until then it does not answer.
_PATIENCE_S = 60.0


def submit(path: Path, fleet_id: str | None, address: str, workers: int) -> None:
    """Hand the spec in the file to the cluster's controller. Raises `KuakaError`."""
    fleet = Fleet.load(path).submit(address, fleet_id=fleet_id, workers=workers)
    known = "is submitted" if fleet.new else "was submitted before"
    say(f"fleet {fleet.id} {known}: kuaka attach {fleet.id} --address {address} waits for it")


def migrate(path: Path, fleet_id: str | None, address: str, workers: int, output: Output) -> ExitCode:
    """Hand the spec in the file to the cluster's controller, wait, and print the results; what the command ends with.

    SIGTERM, by which a Ray job is stopped, cancels the fleet; Ctrl-C leaves it running. Raises `KuakaError`.
    """
    loaded, stopped_by = Fleet.load(path), (signal.SIGTERM,)
    with loaded.submitted(address, fleet_id=fleet_id, workers=workers, cancelled_by=stopped_by) as fleet:
        known = "is submitted" if fleet.new else "was submitted before"
        say(f"fleet {fleet.id} {known}: Ctrl-C leaves it running, kuaka cancel {fleet.id} ends it")
        return _wait(fleet, output)


def attach(fleet: str, address: str, output: Output) -> ExitCode:
    """Wait for a fleet, then print its results; what the command ends with."""
    with SubmittedFleet(fleet, address) as submitted:
        return _wait(submitted, output)


def _wait(fleet: SubmittedFleet, output: Output) -> ExitCode:
    began_s = time.monotonic()
    try:
        results = fleet.wait(on_status=_News().tell)
    except KeyboardInterrupt:
        address = f"--address {fleet.address}"
        say(f"fleet {fleet.id} goes on: kuaka attach {fleet.id} {address} waits for it, kuaka cancel ends it")
        raise InterruptedMigration(f"no longer waiting for fleet {fleet.id}") from None
    return show_results(FinishedRun(results, time.monotonic() - began_s, abandoned=False), output)


def show_status(fleet: str | None, address: str, output: Output, *, watch: bool, rows: int | None = None) -> ExitCode:
    """Print where a fleet is, or all of them; `watch` goes on until it has finished or Ctrl-C, with `rows` at most."""
    with joined_controller(address) as controller:
        if watch and output is Output.TABLE:
            _watch(controller, fleet, rows)
        elif output is not Output.TABLE:
            sys.stdout.write(structured(to_json(controller.status(fleet)), output))
        else:
            console = results_console()
            console.print(_table(controller.status(fleet)))
    return ExitCode.OK


def show_events(fleet: str, address: str, output: Output) -> ExitCode:
    """Print what happened to a fleet, oldest first."""
    for event in SubmittedFleet(fleet, address).events():
        if output is Output.JSON:
            sys.stdout.write(json.dumps(asdict(event)) + "\n")
        elif output is Output.YAML:
            sys.stdout.write(structured([asdict(event)], output))
        else:
            at = time.strftime("%H:%M:%S", time.localtime(event.time_ns // 10**9))
            sys.stdout.write(f"{at}  {event.vm or '-'}  {event.state or '-'}  {event.reason}\n")
    return ExitCode.OK


def steer(fleet: str, address: str, call: Callable[[SubmittedFleet], None], done: str) -> ExitCode:
    """Ask the controller for something, and say that it knows."""
    call(SubmittedFleet(fleet, address))
    say(done)
    return ExitCode.OK


def bandwidth(text: str) -> int | None:
    """Bytes per second, None for `none`. Raises `UsageError`."""
    if text == "none":
        return None
    try:
        return parse_rate(text)
    except ValueError as error:
        raise UsageError(f"{error}; none lifts the cap") from None


def to_json(fleets: Sequence[FleetStatus]) -> dict[str, Any]:
    """The documented JSON object (docs/controller.md)."""
    return {
        "fleets": [
            {
                "fleet": fleet.fleet,
                "state": fleet.state,
                "submitted_ns": fleet.submitted_ns,
                "migrations": [_migration_json(each) for each in fleet.migrations],
            }
            for fleet in fleets
        ]
    }


def _migration_json(migration: MigrationStatus) -> dict[str, Any]:
    progress = migration.progress
    return {
        "vm": migration.vm,
        "state": migration.state,
        "attempt": migration.attempt,
        "reason": migration.reason,
        "raw_bytes": None if progress is None else progress.counters.raw_bytes,
        "wire_bytes": None if progress is None else progress.counters.wire_bytes,
        "total_bytes": None if progress is None else progress.total_bytes,
    }


class _News:
    """What is new in a status, a line each on stderr."""

    def __init__(self) -> None:
        self._said: dict[str, str] = {}

    def tell(self, status: FleetStatus) -> None:
        for migration in status.migrations:
            news = f"{migration.state}: {migration.reason}" if migration.state is not State.PENDING else "Pending"
            if self._said.get(migration.vm, "Pending") != news:
                self._said[migration.vm] = news
                say(f"{migration.vm}: {news}")


def _watch(controller: "ControllerHandle", fleet: str | None, rows: int | None) -> None:
    # Only now: it imports Ray, which reads its environment then.
    from pipeline.fleet.cluster import ask_scheduler

    rates, pool_looks = Rates(), PoolLooks(ask_scheduler)
    silent_since_s: float | None = None
    with (
        Live(console=results_console(), refresh_per_second=4, transient=False) as live,
        contextlib.suppress(KeyboardInterrupt),
    ):
        while True:
            try:
                fleets = controller.status(fleet)
            except UsageError:
                raise
            except KuakaError as error:
                # It may be on its way back.
                silent_since_s = silent_since_s or time.monotonic()
                if time.monotonic() - silent_since_s > _PATIENCE_S:
                    raise
                live.update(Text(str(error)))
            else:
                silent_since_s = None
                now_s = time.monotonic()
                pools = pool_looks.look(now_s)
                most_rows = rows or _fitting(live.console, with_pools=bool(pools))
                live.update(view(fleets, rates.look(now_s, fleets), most_rows, pools))
                if all(each.state is FleetState.FINISHED for each in fleets):
                    return
            time.sleep(_LOOK_S)


def _fitting(console: Console, *, with_pools: bool) -> int:
    """As many rows as a terminal has room for, and what a pipe gets."""
    frame_rows = _FRAME_ROWS + (_POOLS_FRAME_ROWS if with_pools else 0)
    return max(1, console.height - frame_rows) if console.is_terminal else _MOST_ROWS


def _table(fleets: Sequence[FleetStatus]) -> Table:
    rows = [(fleet, migration) for fleet in fleets for migration in fleet.migrations]
    ended = sum(migration.state in FINAL for _, migration in rows)
    title = f"{len(fleets)} {'fleet' if len(fleets) == 1 else 'fleets'}, {ended} of {len(rows)} migrations ended"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for heading in ("fleet", "VM", "state"):
        table.add_column(heading, overflow="fold")
    table.add_column("moved", justify="right", no_wrap=True)
    table.add_column("reason", overflow="fold")
    for fleet, migration in rows:
        # Text, not str: a name or a reason with brackets is no markup.
        words = (fleet.fleet, migration.vm, migration.state, moved(migration), migration.reason)
        table.add_row(*(Text(word) for word in words))
    return table
