"""`kuaka top`, what `status --watch` shows: a summary, a bar for each machine that something happens to, and the pools.

A view is a function of the last look at the controller and of `Rates`, which compares it with the looks before. What is
under way comes first, then what waits, what failed, and what has ended; only so many rows are shown as fit.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from rich import box
from rich.console import Group
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from pipeline.byte_amounts import show_bytes
from pipeline.errors import one_line
from pipeline.fleet.fleet_status import FleetState, FleetStatus, MigrationStatus
from pipeline.fleet.lifecycle import FINAL, UNDER_WAY, State
from pipeline.top_pools import pools_table
from scheduler.core.statistics import PoolStatistics

#: A rate is that of this long a time, or it would jump with every look.
_RATE_WINDOW_S = 3.0
_BAR_COLUMNS = 20
#: Of all rows, pools have one in so many at most.
_POOLS_PART = 4
_WAITING = (State.PENDING, State.PAUSED)
_COLOURS = {State.FAILED: "red", State.CANCELLED: "magenta", State.SUCCEEDED: "green", State.PENDING: "yellow"}

#: Fleet, machine, attempt: the counters of another attempt begin anew.
_Key = tuple[str, str, int]


@dataclass(slots=True)
class Rates:
    """Wire bytes per second of every migration that runs."""

    #: Times and counters of looks, oldest first, within the window.
    _looks: list[tuple[float, dict[_Key, int]]] = field(default_factory=list)

    def look(self, now_s: float, fleets: Sequence[FleetStatus]) -> dict[_Key, float]:
        """Take note of what was seen now; a migration that was seen for the first time has no rate yet."""
        wire_bytes = {
            (fleet.fleet, each.vm, each.attempt): each.progress.counters.wire_bytes
            for fleet in fleets
            for each in fleet.migrations
            if each.progress is not None and each.state in UNDER_WAY
        }
        self._looks.append((now_s, wire_bytes))
        while len(self._looks) > 2 and now_s - self._looks[1][0] >= _RATE_WINDOW_S:
            del self._looks[0]
        rates: dict[_Key, float] = {}
        for key, amount in wire_bytes.items():
            since_s, before = next((at_s, seen[key]) for at_s, seen in self._looks if key in seen)
            if now_s > since_s:
                rates[key] = max(0, amount - before) / (now_s - since_s)
        return rates


def view(
    fleets: Sequence[FleetStatus], rates: dict[_Key, float], most_rows: int, pools: Sequence[PoolStatistics] = ()
) -> Group:
    """The screen: a summary line and at most `most_rows` machines and pools; of these, pools get a quarter."""
    pool_rows = min(len(pools), max(1, most_rows // _POOLS_PART))
    machines = _table(fleets, rates, max(1, most_rows - pool_rows))
    return Group(Text(summary(fleets, rates)), machines, *([pools_table(pools, pool_rows)] if pools else []))


def summary(fleets: Sequence[FleetStatus], rates: dict[_Key, float]) -> str:
    """Fleets, migrations by what they do, and the bytes that all of them send."""
    count = Counter(each.state for fleet in fleets for each in fleet.migrations)
    active = sum(fleet.state is not FleetState.FINISHED for fleet in fleets)
    ended = sum(count[state] for state in FINAL)
    parts = [
        f"{len(fleets)} {'fleet' if len(fleets) == 1 else 'fleets'} ({active} active)",
        f"{sum(count[state] for state in UNDER_WAY)} running",
        f"{sum(count[state] for state in _WAITING)} waiting",
        f"{count[State.FAILED]} failed",
        f"{ended} of {count.total()} ended",
        f"{show_bytes(int(sum(rates.values())))}/s",
    ]
    return ", ".join(parts)


def _table(fleets: Sequence[FleetStatus], rates: dict[_Key, float], most_rows: int) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for heading in ("fleet", "VM", "state"):
        table.add_column(heading, overflow="fold")
    table.add_column("memory", width=_BAR_COLUMNS)
    for heading in ("moved", "rate", "try"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("reason", overflow="fold")
    rows = sorted(
        ((fleet, each) for fleet in fleets for each in fleet.migrations),
        key=lambda row: _order(row[1], rates.get(_key(*row), 0.0)),
    )
    for fleet, migration in rows[:most_rows]:
        rate = rates.get(_key(fleet, migration))
        table.add_row(
            # Text, not str: a name or a reason with brackets is no markup.
            Text(one_line(fleet.fleet)),
            Text(one_line(migration.vm)),
            Text(migration.state, style=_COLOURS.get(migration.state, "")),
            _bar(migration),
            moved(migration),
            "-" if rate is None else f"{show_bytes(int(rate))}/s",
            str(migration.attempt),
            Text(one_line(migration.reason)),
        )
    if len(rows) > most_rows:
        table.add_row("", f"and {len(rows) - most_rows} more")
    return table


def moved(migration: MigrationStatus) -> str:
    """How much of its memory has been moved: in percent while that is known, in bytes when it has ended."""
    if migration.result is not None:
        return show_bytes(migration.result.raw_bytes)
    if migration.progress is None:
        return "-"
    total = migration.progress.total_bytes
    done = migration.progress.counters.raw_bytes
    return f"{min(100, 100 * done // total)} %" if total else show_bytes(done)


def _bar(migration: MigrationStatus) -> ProgressBar | str:
    if migration.state is State.SUCCEEDED:
        return ProgressBar(total=1, completed=1, width=_BAR_COLUMNS)
    if migration.progress is None or not migration.progress.total_bytes or migration.state in FINAL:
        return ""
    return ProgressBar(
        total=migration.progress.total_bytes,
        # What is sent a second time because it was written to does not make a bar longer than it is.
        completed=min(migration.progress.total_bytes, migration.progress.counters.raw_bytes),
        width=_BAR_COLUMNS,
    )


def _key(fleet: FleetStatus, migration: MigrationStatus) -> _Key:
    return fleet.fleet, migration.vm, migration.attempt


def _order(migration: MigrationStatus, rate_bytes_s: float) -> tuple[int, float]:
    """What is under way first, the fastest before the others; the rest in the order of the spec."""
    groups = (migration.state in UNDER_WAY, migration.state in _WAITING, migration.state is State.FAILED, True)
    return groups.index(True), -rate_bytes_s
