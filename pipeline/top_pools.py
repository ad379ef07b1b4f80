"""The accelerator pools of `kuaka top`: a bar for each pool of its slots that are leased, and who waits for some."""

from collections.abc import Sequence

from rich import box
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from pipeline.errors import one_line
from scheduler.core.statistics import PoolStatistics

_BAR_COLUMNS = 20
_COLOURS = {"down": "red", "learning": "yellow", "busy": "yellow"}


def pools_table(pools: Sequence[PoolStatistics], most_rows: int) -> Table:
    """At most `most_rows` pools, the fullest first."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column("pool", overflow="fold")
    table.add_column("leased", width=_BAR_COLUMNS)
    for heading in ("slots", "in device", "flows", "waiting", "tickets"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("device", overflow="fold")
    for pool in sorted(pools, key=lambda pool: (-_occupied(pool), pool.pool))[:most_rows]:
        state = pool_state(pool)
        seen = pool.control.last
        table.add_row(
            # Text, not str: a name with brackets is no markup.
            Text(one_line(pool_name(pool))),
            ProgressBar(total=1, completed=_occupied(pool), width=_BAR_COLUMNS),
            f"{pool.leased_slots}/{pool.capacity_slots}",
            "-" if seen is None else str(seen.occupancy),
            str(len(pool.flows)),
            str(pool.waiting),
            str(pool.tickets),
            Text(state, style=_COLOURS.get(state, "")),
        )
    if len(pools) > most_rows:
        table.add_row(f"and {len(pools) - most_rows} more")
    return table


def pool_name(pool: PoolStatistics) -> str:
    """A pool as its fleet calls it: clients put their run before their host's name."""
    host = pool.host.rpartition("/")[2]
    return host + pool.pool.removeprefix(pool.host)


def pool_state(pool: PoolStatistics) -> str:
    """In a word: down, learning after a restart of the scheduler, or what the control loop says of its device."""
    if not pool.up:
        return "down"
    return "learning" if pool.learning else pool.control.state.value


def _occupied(pool: PoolStatistics) -> float:
    return min(1.0, pool.leased_slots / pool.capacity_slots) if pool.capacity_slots else 0.0
