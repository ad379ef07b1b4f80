"""`kuaka simulate`: run a scenario under the policies, and show it as a table, as JSON, and as a time line."""

import json
import sys
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from pipeline.errors import ExitCode, UsageError
from pipeline.terminal import results_console
from pipeline.whole_file import write_whole
from scheduler.simulate.calibration import Comparison, compare
from scheduler.simulate.published import Use
from scheduler.simulate.results import RunResult
from scheduler.simulate.run import POLICIES, StudyResult, run_study
from scheduler.simulate.scenarios import Study, names, study
from scheduler.simulate.timeline import render

_CALIBRATION = "calibration"
#: A pipe has no width: nothing is cut there.


def run_simulation(
    scenario: str, policies: list[str], *, seed: int, sweep: bool, timeline: Path | None, as_json: bool
) -> ExitCode:
    """Simulate and print. Raises `UsageError` for what cannot be, `KuakaError` for a file that cannot be written."""
    chosen = _policies(policies)
    if scenario == _CALIBRATION:
        if policies or timeline:
            raise UsageError(
                "calibration: it has the published policies only, and no time line; leave both options out"
            )
        return _show_calibration(compare(), as_json=as_json)
    whole = _study(scenario, seed)
    result = run_study(scenario, seed, whole if sweep else Study(whole.contended), chosen, _progress)
    if timeline is not None:
        write_whole(timeline, render(f"{scenario}, seed {seed}", list(result.contended.values())), "--timeline")
    if as_json:
        _print_json(result.as_json())
    else:
        _print_tables(result)
    return ExitCode.OK


def _policies(wanted: list[str]) -> list[str]:
    for name in wanted:
        if name not in POLICIES:
            raise UsageError(f"--policy {name}: give one of {', '.join(POLICIES)}")
    return [name for name in POLICIES if not wanted or name in wanted]


def _study(scenario: str, seed: int) -> Study:
    if scenario not in names():
        raise UsageError(f"{scenario}: no such scenario; give one of {', '.join((*names(), _CALIBRATION))}")
    return study(scenario, seed)


def _progress(done: int, total: int) -> None:
    """A line on a terminal, overwritten; nothing in a file or a pipe."""
    if total > 1 and sys.stderr.isatty():
        sys.stderr.write(f"\rkuaka: {done} of {total} points" + ("\n" if done == total else ""))
        sys.stderr.flush()


def _print_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value, indent=2) + "\n")


def _print_tables(result: StudyResult) -> None:
    console = results_console()
    table = _table(f"{result.name}, seed {result.seed}", ["policy"])
    for name, run in result.contended.items():
        table.add_row(name, *_cells(run))
    console.print(table)
    if not result.sweep:
        return
    parameters = list(result.sweep[0][0])
    table = _table("sweep", [*(parameter.replace("_", " ") for parameter in parameters), "policy"])
    for point, runs in result.sweep:
        for name, run in runs.items():
            table.add_row(*(str(point[parameter]) for parameter in parameters), name, *_cells(run))
    console.print(table)


def _table(title: str, first: list[str]) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for heading in first:
        table.add_column(heading)
    for heading in _HEADINGS:
        table.add_column(heading, justify="right")
    return table


_HEADINGS = (
    "mean s",
    "p99 s",
    "worst s",
    "total s",
    "down p99 ms",
    "failed",
    "CPU s",
    "wire GB",
    "device",
    "busy retries",
    "critical p99 ms",
    "Jain",
)


def _cells(run: RunResult) -> list[str]:
    figures = run.as_json()
    times = figures["vm_time_s"]
    busiest = max(run.device_utilisation.values(), default=0.0)
    return [
        f"{times['mean']:.3f}",
        f"{times['p99']:.3f}",
        f"{times['max']:.3f}",
        f"{figures['makespan_s']:.3f}",
        f"{figures['downtime_ms']['p99']:.1f}",
        str(figures["failed"]),
        f"{figures['cpu_s']:.1f}",
        f"{figures['wire_bytes'] / 1e9:.2f}",
        f"{busiest:.0%}",
        str(figures["busy_retries"]),
        f"{figures['critical_wait_ms_p99']:.3f}",
        f"{figures['jain']:.3f}",
    ]


def _show_calibration(comparisons: list[Comparison], *, as_json: bool) -> ExitCode:
    if as_json:
        _print_json({"scenario": _CALIBRATION, "rows": [_calibration_row(comparison) for comparison in comparisons]})
    else:
        results_console().print(_calibration_table(comparisons))
    return ExitCode.OK if all(comparison.holds for comparison in comparisons) else ExitCode.FAILED


def _calibration_row(comparison: Comparison) -> dict[str, Any]:
    row = comparison.row
    return {
        "section": row.section,
        "name": row.name,
        "channels": row.channels,
        "use": row.use.value,
        "published_ms": row.total_ms,
        "simulated_ms": comparison.simulated_ms,
        "ratio": comparison.ratio,
        "published_cpu_ms": row.send_cpu_ms,
        "simulated_cpu_ms": comparison.simulated_cpu_ms,
    }


def _calibration_table(comparisons: list[Comparison]) -> Table:
    title = "published and simulated times; predicted rows are promised within 15 %"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for heading in ("section", "row", "channels", "published ms", "simulated ms", "ratio", "CPU ms", "simulated", ""):
        table.add_column(heading, justify="left" if heading in ("row", "") else "right")
    for comparison in comparisons:
        row = comparison.row
        table.add_row(
            str(row.section),
            row.name,
            str(row.channels),
            f"{row.total_ms:.0f}",
            f"{comparison.simulated_ms:.0f}",
            f"{comparison.ratio:.3f}",
            "-" if row.send_cpu_ms is None else f"{row.send_cpu_ms:.0f}",
            f"{comparison.simulated_cpu_ms:.0f}",
            row.use.value + _verdict(comparison),
        )
    return table


def _verdict(comparison: Comparison) -> str:
    if comparison.row.use is not Use.PREDICTED:
        return ""
    return ", holds" if comparison.holds else ", MISSED"
