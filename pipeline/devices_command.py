"""`kuaka devices`: which accelerators this host has, what keeps them from use, and how they should be set up."""

import ctypes.util
import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from rich import box
from rich.table import Table

from pipeline.errors import ExitCode, UsageError
from pipeline.say import say
from pipeline.terminal import results_console
from pipeline.whole_file import write_whole
from scheduler.core.units import AcceleratorKind
from scheduler.devices.discovery import Access, Inventory, Roots, discover, usable_qat, usable_queues
from scheduler.devices.discovery.as_json import inventory_json, report_json
from scheduler.devices.discovery.check import Circumstances, check
from scheduler.devices.discovery.findings import Finding, Report
from scheduler.devices.discovery.inventory import IdxdDevice, QatDevice, Queue
from scheduler.devices.discovery.plan import (
    Capacity,
    PlanError,
    Sizes,
    capacities_by_hand,
    capacity_of,
    plan_json,
    udev_rule,
)

#: A pipe has no width: nothing is cut there.
_PLANNED = (AcceleratorKind.DSA, AcceleratorKind.IAA)
#: Where the bindings look before they ask the system's loader.
_VARIABLES = {"qpl": "KUAKA_LIBQPL", "qatzip": "KUAKA_LIBQATZIP"}

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class PlanOptions:
    """What `kuaka devices plan` was told; None is what was not said."""

    kinds: tuple[str, ...] = ()
    devices: int | None = None
    critical_entries: int | None = None
    bulk_entries: int | None = None
    group: str = "kuaka"
    config: Path | None = None
    udev_rule: Path | None = None


def run_list(roots: Roots, *, as_json: bool) -> ExitCode:
    """Show what there is; nothing is no error."""
    inventory = discover(roots)
    if as_json:
        _print_json(inventory_json(inventory))
    elif not inventory.idxd and not inventory.qat:
        sys.stdout.write("no DSA, IAA or QAT device is here: the CPU does all the work\n")
    else:
        _print_tables(inventory)
    return ExitCode.OK


def run_check(roots: Roots, kinds: list[str], *, as_json: bool) -> ExitCode:
    """Show what is not as it should be.

    OK where every kind that was asked for can be used, or any where none was; FAILED elsewhere.
    """
    asked = _kinds(kinds, tuple(AcceleratorKind))
    inventory = discover(roots)
    report = check(inventory, Circumstances(find_library), asked or tuple(AcceleratorKind))
    if as_json:
        _print_json(report_json(report))
    else:
        _print_report(report, inventory)
    usable = report.usable.values()
    return ExitCode.OK if (all(usable) if asked else any(usable)) else ExitCode.FAILED


def run_plan(roots: Roots, options: PlanOptions) -> ExitCode:
    """Write accel-config's file (to stdout without a name) and the udev rule (where it has one).

    Raises `UsageError` for what cannot be, `KuakaError` for a file that cannot be written.
    """
    kinds = _kinds(list(options.kinds), _PLANNED) or _PLANNED
    devices = _planned(lambda: _capacities(roots, kinds, options.devices))
    critical = Sizes().critical if options.critical_entries is None else options.critical_entries
    config = _planned(lambda: plan_json(devices, Sizes(critical, options.bulk_entries)))
    rule = _planned(lambda: udev_rule(devices, options.group))
    if options.udev_rule is not None:
        write_whole(options.udev_rule, rule, "--udev-rule")
        say(f"wrote {options.udev_rule}: udevadm control --reload makes it count for queues that are enabled later")
    if options.config is None:
        sys.stdout.write(config)
    else:
        write_whole(options.config, config, "--config")
        say(f"wrote {options.config}: accel-config load-config -c {options.config} -e (-f ends all use of the devices)")
    return ExitCode.OK


def find_library(name: str) -> str | None:
    """Where a library is: what its variable names, if that loads; without one what the system's loader finds."""
    named = os.environ.get(_VARIABLES.get(name, ""))
    if not named:
        return ctypes.util.find_library(name)
    try:
        ctypes.CDLL(named)
    except OSError:
        return None
    return named


def _kinds(names: list[str], known: tuple[AcceleratorKind, ...]) -> tuple[AcceleratorKind, ...]:
    words = [kind.value for kind in known]
    for name in names:
        if name not in words:
            raise UsageError(f"--kind {name}: give one of {', '.join(words)}")
    return tuple(kind for kind in known if kind.value in names)


def _capacities(roots: Roots, kinds: tuple[AcceleratorKind, ...], count: int | None) -> tuple[Capacity, ...]:
    if count is not None:
        return tuple(device for kind in kinds for device in capacities_by_hand(kind, count))
    found = discover(roots).idxd
    return tuple(capacity_of(device) for device in found if device.kind in kinds)


def _planned(make: Callable[[], _T]) -> _T:
    try:
        return make()
    except PlanError as error:
        raise UsageError(str(error)) from None


def _print_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value, indent=2) + "\n")


def _print_report(report: Report, inventory: Inventory) -> None:
    for kind, usable in report.usable.items():
        sys.stdout.write(f"{kind.value}  {_what_is_usable(kind, inventory) if usable else 'not usable'}\n")
    for finding in report.findings:
        sys.stdout.write(f"{_weight(finding)}  {finding.line}\n")


def _what_is_usable(kind: AcceleratorKind, inventory: Inventory) -> str:
    if kind is AcceleratorKind.QAT:
        return f"usable, devices: {len(usable_qat(inventory, None))}"
    return f"usable, queues: {len(usable_queues(inventory, kind, None))}"


def _weight(finding: Finding) -> str:
    kind = "all" if finding.kind is None else finding.kind.value
    return f"{finding.weight.value:6}  {kind}"


def _print_tables(inventory: Inventory) -> None:
    console = results_console()
    if inventory.idxd:
        rows = [row for device in inventory.idxd for row in _device_rows(device)]
        console.print(_table(_QUEUE_HEADINGS, rows, console.width))
    if inventory.qat:
        console.print(_table(_QAT_HEADINGS, [_qat_row(device) for device in inventory.qat], console.width))


def _table(headings: tuple[str, ...], rows: list[list[str]], columns: int) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    shown = [heading for heading in headings if columns >= _WIDE_COLUMNS or heading not in _WIDE_ONLY]
    for heading in shown:
        table.add_column(heading, justify="right" if heading in _NUMBERS else "left", overflow="fold")
    for row in rows:
        table.add_row(*(cell for heading, cell in zip(headings, row, strict=True) if heading in shown))
    return table


#: All columns fit a terminal of this width.
_WIDE_COLUMNS = 120
_WIDE_ONLY = ("type", "threshold", "batch", "clients", "owner")
_NUMBERS = ("node", "size", "threshold", "priority", "batch", "clients", "functions")
_QUEUE_HEADINGS = (
    "device",
    "node",
    "state",
    "queue",
    "name",
    "type",
    "mode",
    "size",
    "threshold",
    "priority",
    "batch",
    "clients",
    "owner",
    "access",
)
_QAT_HEADINGS = ("device", "node", "state", "driver", "services", "functions")


def _device_rows(device: IdxdDevice) -> list[list[str]]:
    """A row for each queue that was ever set up, or one for the device."""
    first = [device.name, _cell(device.numa_node), _cell(device.state)]
    rows = [first + _queue_cells(queue) for queue in device.queues if _was_set_up(queue)]
    return rows or [[*first, *["-"] * (len(_QUEUE_HEADINGS) - len(first) - 1), "no queue is set up"]]


def _was_set_up(queue: Queue) -> bool:
    return bool(queue.size) or queue.access is Access.UNKNOWN or queue.state == "enabled"


def _queue_cells(queue: Queue) -> list[str]:
    owner = queue.owner
    return [
        queue.name,
        queue.label or "-",
        _cell(queue.type),
        _cell(queue.mode),
        _cell(queue.size),
        _cell(queue.threshold),
        _cell(queue.priority),
        _cell(queue.max_batch),
        _cell(queue.clients),
        "-" if owner is None else f"{owner.uid}:{owner.gid} {owner.mode:04o}",
        queue.access.value if queue.access is not Access.REFUSED else f"refused: {queue.access_detail}",
    ]


def _qat_row(device: QatDevice) -> list[str]:
    services = "-" if device.services is None else ", ".join(device.services)
    return [
        device.address,
        _cell(device.numa_node),
        _cell(device.state),
        device.driver,
        services,
        _cell(device.functions),
    ]


def _cell(value: object) -> str:
    return "-" if value is None else str(value)
