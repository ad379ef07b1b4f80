"""`kuaka report` from a journal or a command's JSON: read only, written whole, and every mistake is one line."""

import hashlib
import io
import json
import sqlite3
from pathlib import Path

import pytest

from pipeline.errors import ExitCode, KuakaError
from pipeline.fleet.fleets import FleetJournal
from pipeline.fleet.journal import JOURNAL_NAME, Journal
from pipeline.fleet.lifecycle import State, Trigger
from pipeline.fleet.owner import Owner
from pipeline.fleet.results import MigrationResult, Status, to_json
from pipeline.report.sources import all_events, story_from_journal, story_from_json
from tests.report.stories import BEGAN_NS, HOSTILE, fleet_story, spec_of
from tests.test_cli import ended

ME = Owner(100, 1000, "boot")
RESULTS = [
    MigrationResult("db-1", "qemu", Status.COMPLETED, True, 0, 1200.5, 33.0, raw_bytes=4096, codec_pages={"zstd": 1}),
    MigrationResult("db-2", "qemu", Status.FAILED, error=HOSTILE),
]


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    directory = tmp_path / "state"
    directory.mkdir(mode=0o700)
    monkeypatch.setenv("KUAKA_STATE", str(directory))
    return directory


@pytest.fixture
def results(tmp_path: Path) -> Path:
    path = tmp_path / "results.json"
    path.write_text(json.dumps(to_json(RESULTS, 2.5)))
    return path


def recorded(directory: Path) -> Journal:
    """A journal, open, with a fleet of two machines, the first of which runs."""
    clock = iter(range(BEGAN_NS, BEGAN_NS + 10**12, 10**9))
    journal = Journal.open(directory, ME, clock=lambda: next(clock))
    fleets = FleetJournal(journal)
    fleets.claim(lambda owner: False)
    fleets.submit("drain", spec_of(["db-1", "db-2"]), ("db-1", "db-2"))
    record = fleets.unfinished()[0].migrations[0]
    for trigger in (Trigger.ADMIT, Trigger.PREPARE, Trigger.START):
        record = fleets.move(record, trigger)
    return journal


def contents(directory: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in directory.iterdir()}


@pytest.mark.parametrize("closed", [True, False], ids=["closed", "in use"])
def test_a_journal_is_read_and_left_as_it_was(state: Path, closed: bool) -> None:
    journal = recorded(state)
    if closed:
        journal.close()
    before = contents(state)
    story = story_from_journal(state, "drain")
    after = contents(state)
    # The index of the log, which readers of an open file mark their places in, says nothing.
    for each in (before, after):
        each.pop(f"{JOURNAL_NAME}-shm", None)
    assert after == before
    assert [machine.state for machine in story.machines] == [State.RUNNING, State.PENDING]
    assert [span.state for span in story.machines[0].spans][-1] is State.RUNNING
    assert story.length_ns > 0
    if not closed:
        journal.close()


def test_a_journal_that_is_read_can_be_written_meanwhile(state: Path) -> None:
    with recorded(state) as journal:
        story_from_journal(state, "drain")
        FleetJournal(journal).tell(1, "db-1", State.RUNNING, "goes on")
        assert FleetJournal(journal).events("drain")[-1].reason == "goes on"


def test_a_report_comes_out_of_a_journal_and_out_of_json(
    state: Path, results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recorded(state).close()
    page = tmp_path / "page.html"
    assert ended(monkeypatch, "report", "drain", "--journal", "-o", str(page)) == ExitCode.OK
    assert "<h1>drain</h1>" in page.read_text()
    assert capsys.readouterr().err == f"kuaka: the report of drain is in {page}\n"
    assert ended(monkeypatch, "report", "--from", str(results), "-o", "-") == ExitCode.OK
    said = capsys.readouterr()
    assert said.out.startswith("<!doctype html>")
    assert said.err == ""
    monkeypatch.setattr("sys.stdin", io.StringIO(results.read_text()))
    assert [machine.vm for machine in story_from_json(Path("-")).machines] == ["db-1", "db-2"]


def refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[object, str]:
    code = ended(monkeypatch, "report", *words)
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1, said.err
    return code, said.err.removeprefix("kuaka: ")


def test_what_cannot_be_asked_for_is_one_line(
    state: Path, results: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def told(*words: str) -> tuple[object, str]:
        return refused(monkeypatch, capsys, *words)

    one = "report: name a fleet, or give results by --from FILE, one of both\n"
    assert told() == (ExitCode.USAGE, one)
    assert told("drain", "--from", str(results)) == (ExitCode.USAGE, one)
    assert told("--from", str(results), "--journal")[1].startswith("--journal: results that --from gives are in no")
    assert told("drain", "--journal") == (
        ExitCode.USAGE,
        f"{state / JOURNAL_NAME}: there is no journal: run this where the controller runs, or leave --journal out\n",
    )
    recorded(state).close()
    code, line = told("else", "--journal")
    assert (code, line) == (ExitCode.USAGE, f"{state / JOURNAL_NAME} has no fleet else: it has drain\n")


@pytest.mark.parametrize(
    "content", [b"no database at all, but long enough to look at" * 40, b""], ids=["noise", "empty"]
)
def test_a_file_that_is_no_journal_is_one_line(
    content: bytes, state: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (state / JOURNAL_NAME).write_bytes(content)
    code, line = refused(monkeypatch, capsys, "drain", "--journal")
    assert code == (ExitCode.FAILED if content else ExitCode.USAGE)
    assert line.startswith(f"journal {state / JOURNAL_NAME} cannot be used:" if content else str(state))


def test_a_journal_from_before_there_were_fleets_has_none(state: Path) -> None:
    connection = sqlite3.connect(state / JOURNAL_NAME)
    connection.execute("PRAGMA user_version = 1")
    connection.execute("CREATE TABLE run (id INTEGER)")
    connection.close()
    with pytest.raises(KuakaError, match="has no fleet drain: it has none"):
        story_from_journal(state, "drain")


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("{", "line 1: Expecting property name"),
        ("[]", "it has no list of migrations"),
        ('{"migrations": 5}', "it has no list of migrations"),
        ('{"migrations": [5]}', "it has no list of migrations"),
        ('{"migrations": [{"kind": "qemu", "status": "failed"}]}', "0.vm: Field required"),
        ('{"migrations": [{"vm": "a", "kind": "qemu", "status": "lost"}]}', "0.status: Input should be"),
        ('{"migrations": [{"vm": "a", "kind": "q", "status": "failed", "total_ms": 1e999}]}', "a: inf is no amount"),
        ('{"migrations": [{"vm": "a", "kind": "q", "status": "failed", "total_ms": NaN}]}', "NaN is no number"),
        ('{"migrations": [{"vm": "a", "kind": "q", "status": "failed", "pages": -1}]}', "a: -1 is no amount"),
        ('{"migrations": [], "wall_s": -1}', "wall_s is no time"),
        ("[" * 100_000, "it has no list of migrations"),
    ],
)
def test_json_of_another_kind_is_one_line(
    text: str, what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "results.json"
    path.write_text(text)
    code, line = refused(monkeypatch, capsys, "--from", str(path))
    assert code == ExitCode.USAGE
    assert line.startswith(f"--from {path}: {what}")
    assert line.endswith(": give the JSON that kuaka migrate -o json printed\n")


def test_a_page_that_cannot_be_written_is_one_line_and_leaves_nothing(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for output, why in ((tmp_path / "none" / "page.html", "No such file or directory"), (tmp_path, "Is a directory")):
        code, line = refused(monkeypatch, capsys, "--from", str(results), "-o", str(output))
        assert (code, line) == (
            ExitCode.FAILED,
            f"--output {output}: {why}: give a file that can be written, or - for stdout\n",
        )
    assert list(tmp_path.iterdir()) == [results]


def test_all_pages_of_events_are_read() -> None:
    _, events = fleet_story(["a", "b", "c"])
    in_order = sorted(events, key=lambda event: event.sequence)
    assert all_events(lambda after: [each for each in in_order if each.sequence > after][:2]) == in_order
