"""The fleets in the journal: durable, owned by one controller, changed as a whole or not at all, bounded."""

import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import ExitCode, KuakaError, UsageError
from pipeline.fleet.events import EVENTS_PER_CALL
from pipeline.fleet.fleets import CommandKind, ControllerReplaced, FleetJournal, MigrationRecord
from pipeline.fleet.journal import Journal
from pipeline.fleet.lifecycle import State, Trigger
from pipeline.fleet.owner import Owner
from pipeline.fleet.recorded_results import decode_result, encode_result
from pipeline.fleet.results import MigrationResult, Status

ME = Owner(100, 1000, "boot")
OTHER = Owner(200, 2000, "boot")
NOW_NS = 1_700_000_000_000_000_000
SPEC: dict[str, Any] = {"metadata": {"name": "drain"}}


@pytest.fixture
def fleets(tmp_path: Path) -> Iterator[FleetJournal]:
    with Journal.open(tmp_path, ME, clock=lambda: NOW_NS) as journal:
        opened = FleetJournal(journal)
        opened.claim(lambda owner: False)
        yield opened


def submitted(fleets: FleetJournal, *vms: str, name: str = "drain") -> list[MigrationRecord]:
    assert fleets.submit(name, SPEC, vms or ("db-1",))
    fleet = fleets.fleet(name)
    assert fleet is not None
    return list(fleet.migrations)


def test_what_was_submitted_is_read_back_in_the_order_of_the_spec(fleets: FleetJournal) -> None:
    submitted(fleets, "z", "a", "m")
    (fleet,) = fleets.unfinished()
    assert (fleet.id, fleet.spec, fleet.submitted_ns, fleet.finished) == ("drain", SPEC, NOW_NS, False)
    assert [(record.vm, record.state, record.attempt) for record in fleet.migrations] == [
        ("z", State.PENDING, 1),
        ("a", State.PENDING, 1),
        ("m", State.PENDING, 1),
    ]
    assert fleets.fleet("unknown") is None


def test_a_fleet_is_submitted_once_and_another_under_its_name_is_refused(fleets: FleetJournal) -> None:
    submitted(fleets)
    assert not fleets.submit("drain", dict(SPEC), ("db-1",))
    with pytest.raises(UsageError, match="fleet drain is known with another spec"):
        fleets.submit("drain", {"metadata": {"name": "else"}}, ("db-1",))
    assert len(fleets.events("drain")) == 1


def test_every_move_is_an_event_with_its_reason(fleets: FleetJournal) -> None:
    (record,) = submitted(fleets)
    record = fleets.move(record, Trigger.ADMIT)
    record = fleets.move(record, Trigger.PREPARE, "because", session="s1")
    assert fleets.unfinished()[0].migrations == (record,)
    assert record.session == "s1"
    events = fleets.events("drain")
    assert [(event.vm, event.state, event.reason) for event in events] == [
        ("", "Submitted", "1 migrations"),
        ("db-1", "Admitted", "every limit has room for it"),
        ("db-1", "Preparing", "because"),
    ]
    assert [event.sequence for event in events] == [1, 2, 3]
    assert fleets.events("drain", after=2) == events[2:]
    assert fleets.events(None) == events
    assert fleets.events("other") == []


def test_a_move_from_a_state_that_is_not_recorded_any_more_changes_nothing(fleets: FleetJournal) -> None:
    (record,) = submitted(fleets)
    fleets.move(record, Trigger.ADMIT)
    with pytest.raises(KuakaError, match="db-1 is not Pending any more"):
        fleets.move(record, Trigger.CANCEL)
    with pytest.raises(RuntimeError, match="Pending cannot succeed"):
        fleets.move(record, Trigger.SUCCEED)
    assert len(fleets.events("drain")) == 2


def test_a_state_is_never_reached_without_its_event(fleets: FleetJournal, tmp_path: Path) -> None:
    (record,) = submitted(fleets)
    fleets.journal.file.change("DROP TABLE fleet_event", ())
    with pytest.raises(KuakaError, match="no such table"):
        fleets.move(record, Trigger.ADMIT)
    raw = sqlite3.connect(tmp_path / "journal.sqlite")
    assert raw.execute("SELECT state FROM fleet_migration").fetchall() == [("Pending",)]
    raw.close()


def test_a_result_is_kept_whole(fleets: FleetJournal) -> None:
    result = MigrationResult(
        "db-1",
        "qemu",
        Status.FAILED,
        verified=False,
        downtime_ms=1.5,
        codec_pages={"zstd": 7},
        error="cut",
        exit_code=ExitCode.DEADLINE,
    )
    assert decode_result(encode_result(result)) == result
    (record,) = submitted(fleets)
    fleets.move(record, Trigger.CANCEL, result=result)
    assert fleets.unfinished()[0].migrations[0].result == result


def test_one_controller_has_the_fleets_and_one_that_was_replaced_changes_nothing(
    fleets: FleetJournal, tmp_path: Path
) -> None:
    (record,) = submitted(fleets)
    fleets.claim(lambda owner: True)
    with Journal.open(tmp_path, OTHER) as journal:
        other = FleetJournal(journal)
        with pytest.raises(KuakaError, match="has a controller already, process 100"):
            other.claim(lambda owner: owner == ME)
        other.claim(lambda owner: False)
        refused: list[Callable[[], object]] = [
            lambda: fleets.move(record, Trigger.ADMIT),
            lambda: fleets.submit("second", SPEC, ("db-1",)),
            lambda: fleets.command(record.fleet, "", CommandKind.CANCEL, None, "cancelled"),
            lambda: fleets.withdraw(record.fleet, "", CommandKind.CANCEL, "not cancelled"),
            lambda: fleets.finish(record.fleet, "done"),
            lambda: fleets.tell(record.fleet, "", "Changed", "told"),
        ]
        for change in refused:
            with pytest.raises(ControllerReplaced):
                change()
        assert len(other.events(None)) == 1
        other.move(record, Trigger.ADMIT)


def test_commands_hold_until_they_are_withdrawn_or_the_fleet_has_finished(fleets: FleetJournal) -> None:
    (record,) = submitted(fleets)
    fleets.command(record.fleet, "", CommandKind.PAUSE, None, "paused")
    fleets.command(record.fleet, "", CommandKind.BANDWIDTH, 5, "5 bytes")
    fleets.command(record.fleet, "", CommandKind.BANDWIDTH, 6, "6 bytes")
    fleets.command(record.fleet, "db-1", CommandKind.CANCEL, None, "cancelled")
    fleets.withdraw(record.fleet, "", CommandKind.PAUSE, "resumed")
    assert fleets.unfinished()[0].commands == {
        ("", CommandKind.BANDWIDTH): 6,
        ("db-1", CommandKind.CANCEL): None,
    }
    fleets.finish(record.fleet, "done")
    fleet = fleets.fleet("drain")
    assert fleet is not None
    assert fleet.finished
    assert fleet.commands == {}
    assert fleets.unfinished() == []


def test_old_finished_fleets_are_forgotten_with_all_of_theirs_and_unfinished_ones_never(
    fleets: FleetJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.fleet.fleets.KEPT_FLEETS", 2)
    for number in range(5):
        (record,) = submitted(fleets, name=f"fleet-{number}")
        if number != 1:
            fleets.finish(record.fleet, "done")
    submitted(fleets, name="last")
    assert fleets.fleet_ids() == ["fleet-1", "fleet-3", "fleet-4", "last"]
    assert {event.fleet for event in fleets.events(None)} == {"fleet-1", "fleet-3", "fleet-4", "last"}
    file = fleets.journal.file
    assert file.rows("SELECT count(*) FROM fleet_migration", ()) == [(4,)]
    assert file.rows("SELECT count(*) FROM fleet_event", ()) == [(6,)]


def test_so_many_events_are_returned_at_once_and_no_more(fleets: FleetJournal) -> None:
    (record,) = submitted(fleets)
    for number in range(EVENTS_PER_CALL + 5):
        fleets.tell(record.fleet, "db-1", "Changed", str(number))
    first = fleets.events("drain")
    assert len(first) == EVENTS_PER_CALL
    assert len(fleets.events("drain", first[-1].sequence)) == 6
