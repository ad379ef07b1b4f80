"""Where a report's facts come from: the cluster's controller, the journal on disk, or the JSON that a command printed.

The journal is only read: it is opened so that SQLite refuses every change, nobody's ownership is touched, and the
controller that may be at work on it is not kept from anything.
"""

import json
import math
import sqlite3
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import quote

from pydantic import TypeAdapter, ValidationError

from pipeline.errors import UsageError, one_line
from pipeline.fleet import journal_file
from pipeline.fleet.events import Event
from pipeline.fleet.fleets import FleetJournal
from pipeline.fleet.journal import JOURNAL_NAME, Journal
from pipeline.fleet.owner import this_process
from pipeline.fleet.results import MigrationResult
from pipeline.report.story import Story, story_of_fleet, story_of_results

#: The journal's version that has fleets first.
_VERSION_WITH_FLEETS = 2
_RESULTS = TypeAdapter(list[MigrationResult])
_MOST_NUMBER = 1 << 62


def story_from_journal(directory: Path, fleet: str) -> Story:
    """A fleet's story up to its last event. Raises `UsageError` for an unknown one, `KuakaError` for a bad file."""
    path = directory / JOURNAL_NAME
    if not path.exists():
        raise UsageError(f"{path}: there is no journal: run this where the controller runs, or leave --journal out")
    with journal_file.one_line(path):
        connection = _open_read_only(path)
    with Journal(connection, path, this_process()) as journal:
        ((version,),) = journal.file.rows("PRAGMA user_version", ())
        fleets = FleetJournal(journal)
        record = fleets.fleet(fleet) if version >= _VERSION_WITH_FLEETS else None
        if record is None:
            known = fleets.fleet_ids() if version >= _VERSION_WITH_FLEETS else []
            raise UsageError(f"{path} has no fleet {one_line(fleet)}: {_known(known)}")
        return story_of_fleet(record, all_events(lambda after: fleets.events(fleet, after)))


def all_events(page: Callable[[int], Sequence[Event]]) -> list[Event]:
    """Every event, from a call that gives those after a sequence, only so many at once."""
    events: list[Event] = []
    while more := page(events[-1].sequence if events else 0):
        events += more
    return events


def story_from_json(path: Path) -> Story:
    """The story of a command's results, `-` for stdin. Raises `UsageError` for what is no such JSON."""
    try:
        text = sys.stdin.read() if str(path) == "-" else path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        what = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise UsageError(f"--from {path}: {what}: give the JSON that kuaka migrate -o json printed") from None
    try:
        document = json.loads(text, parse_constant=_refuse)
        results, wall_s = _decode(document)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise UsageError(
            f"--from {path}: {_problem(error)}: give the JSON that kuaka migrate -o json printed"
        ) from None
    return story_of_results(path.name if str(path) != "-" else "results", results, wall_s)


def _decode(document: Any) -> tuple[list[MigrationResult], float]:
    rows = [{**row, "service_class": row.get("class")} for row in document["migrations"]]
    results = _RESULTS.validate_python([{key: row[key] for key in row if key != "class"} for row in rows])
    wall_s = float(document.get("wall_s", 0))
    for result in results:
        _check_numbers(result)
    if not 0 <= wall_s < _MOST_NUMBER:
        raise ValueError("wall_s is no time")
    return results, wall_s


def _check_numbers(result: MigrationResult) -> None:
    counted = (*result.codec_pages.values(), *result.accelerators.values())
    for value in (*(getattr(result, name) for name in result.__slots__), *counted):
        if isinstance(value, (int, float)) and not (math.isfinite(value) and 0 <= value < _MOST_NUMBER):
            raise ValueError(f"{result.vm[:80]}: {str(value)[:40]} is no amount")


def _problem(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return one_line(f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}", 200)
    if isinstance(error, json.JSONDecodeError):
        return f"line {error.lineno}: {error.msg}"
    return one_line(str(error), 200) if type(error) is ValueError else "it has no list of migrations"


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number")


def _known(fleets: Sequence[str]) -> str:
    return f"it has {', '.join(fleets[-10:])}" if fleets else "it has none"


def _open_read_only(path: Path) -> sqlite3.Connection:
    # Without a write-ahead log nobody has the file open, and it must not be given one. What begins to write between
    # this look and the reading writes to a new log, not to what is read here.
    alone = not path.with_name(f"{path.name}-wal").exists()
    uri = f"file:{quote(str(path.absolute()))}?{'immutable=1' if alone else 'mode=ro'}"
    return sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)
