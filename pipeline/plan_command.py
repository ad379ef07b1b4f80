"""`kuaka plan` and `kuaka migrate --dry-run`: what would happen, without Ray and without moving anything.

The table goes to stdout, what had to be assumed to stderr; JSON and YAML have all of it. Exit code 0: all can go, 3:
some cannot, 4: none can.
"""

import contextlib
import gc
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from pipeline.api import Fleet
from pipeline.byte_amounts import show_bytes
from pipeline.errors import ExitCode
from pipeline.fleet.plan.plan import Plan
from pipeline.fleet.policies import priority_name
from pipeline.output import Output, structured
from pipeline.say import say
from pipeline.terminal import results_console

#: More do not help a reader, and take longer to lay out than to plan.
_MAX_ROWS = 500


def run_plan(path: Path, output: Output, workers: int) -> ExitCode:
    """Plan the spec in the file and print it. Raises `SpecError` for a spec that is rejected."""
    with _nothing_collected():
        fleet = Fleet.load(path)
        plan = fleet.plan(workers, say=say)
    if output is Output.TABLE:
        _show(plan)
    else:
        sys.stdout.write(structured(to_json(plan), output))
    return exit_code(plan)


@contextlib.contextmanager
def _nothing_collected() -> Iterator[None]:
    """A large fleet is 10^6 objects of which none is a cycle: looking for some takes as long as all the rest."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def exit_code(plan: Plan) -> ExitCode:
    """What the command ends with."""
    if not plan.cannot_go:
        return ExitCode.OK
    return ExitCode.PARTIAL if plan.migrations else ExitCode.SPEC_REJECTED


def to_json(plan: Plan) -> dict[str, Any]:
    """The documented JSON object (docs/plan.md)."""
    limits = plan.limits
    return {
        "fleet": plan.fleet,
        "whole_s": plan.whole_s,
        "most_at_once": plan.most_at_once,
        "limits": {
            "parallelMigrationsPerCluster": limits.cluster,
            "parallelOutboundMigrationsPerNode": limits.outbound_per_host,
            "parallelInboundMigrationsPerNode": limits.inbound_per_host,
            "fewer": dict(plan.fewer_at_once),
        },
        "migrations": [
            {
                "vm": migration.vm,
                "kind": migration.kind,
                "source": migration.source,
                "destination": migration.destination,
                "priority": migration.priority,
                "policy": migration.policy,
                "memory_bytes": migration.memory_bytes,
                "memory_known_by": migration.memory_known_by,
                "begins_s": migration.begins_s,
                "ends_s": migration.ends_s,
                "waits_for": migration.waits_for,
                "late_s": migration.late_s,
            }
            for migration in plan.migrations
        ],
        "cannot_go": dict(plan.cannot_go),
        "assumptions": list(plan.assumptions),
    }


def _show(plan: Plan) -> None:
    console = results_console()
    console.print(_table(plan))
    if len(plan.migrations) > _MAX_ROWS:
        console.print(f"and {len(plan.migrations) - _MAX_ROWS} more, later: -o json has all", highlight=False)
    for vm, reason in plan.cannot_go.items():
        console.print(f"{vm} cannot go: {reason}", markup=False, highlight=False)
    for host, ways in plan.fewer_at_once.items():
        console.print(f"{host}: {ways} at the same time, so that guests that write converge", markup=False)
    sys.stdout.flush()
    for line in plan.assumptions:
        say(line)


def _table(plan: Plan) -> Table:
    count = len(plan.migrations)
    title = (
        f"{plan.fleet}: {count} {'migration' if count == 1 else 'migrations'} in about {_seconds(plan.whole_s)},"
        f" {plan.most_at_once} at the same time"
    )
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for heading in ("VM", "from", "to", "priority", "policy"):
        table.add_column(heading, overflow="fold")
    for heading in ("memory", "begins", "ends"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("", overflow="fold")
    for migration in plan.migrations[:_MAX_ROWS]:
        note = f"late by {_seconds(migration.late_s)}" if migration.late_s else migration.waits_for or ""
        table.add_row(
            migration.vm,
            migration.source,
            migration.destination,
            priority_name(migration.priority),
            migration.policy or "-",
            show_bytes(migration.memory_bytes) + ("?" if migration.memory_known_by == "assumed" else ""),
            _seconds(migration.begins_s),
            _seconds(migration.ends_s),
            note,
        )
    return table


def _seconds(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"
