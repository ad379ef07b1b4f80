"""What results look like: nothing that matters is cut, however narrow the terminal, and JSON is alone on stdout."""

import json

import pytest
import yaml

from pipeline import show
from pipeline.errors import ExitCode
from pipeline.fleet.command import FinishedRun
from pipeline.fleet.results import MigrationResult, Status
from pipeline.output import Output

DONE = MigrationResult(
    *("db-1", "qemu", Status.COMPLETED, True, 0, 12_345.6, 234.5, 230.0, None, 12, 1_234_567, 345_678),
    *(5_056_786_432, 2_056_786_432, {"zstd": 888_888, "none": 1}),
)
WRONG = MigrationResult("db-2", "qemu", Status.COMPLETED, verified=False, wrong_pages=3, error="3 pages are wrong")
ENDED = MigrationResult("db-3", "image", Status.FAILED, error="disk full", exit_code=ExitCode.FAILED)
RUN = FinishedRun([DONE, WRONG, ENDED], 12.3456, abandoned=False)


def test_table_says_it_all_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    assert show.show_results(RUN, Output.TABLE) is ExitCode.FAILED
    said = capsys.readouterr()
    lines = said.out.splitlines()
    assert "3 migrations in 12.3 s" in lines[0]
    row = next(line.split() for line in lines if "db-1" in line)
    assert row == [
        *("db-1", "completed", "identical", "12346", "ms", "234", "ms", "12", "1234567", "345678", "4822.5", "MiB"),
        *("1961.5", "MiB", "none", "1", "zstd", "888888"),
    ]
    assert any("db-2" in line and "3 WRONG PAGES" in line for line in lines)
    assert any("db-3" in line and "not compared" in line for line in lines)
    assert said.err == "kuaka: db-2: 3 pages are wrong\nkuaka: db-3: disk full\n"


def test_one_migration_is_not_several(capsys: pytest.CaptureFixture[str]) -> None:
    show.show_results(FinishedRun([DONE], 1.0, abandoned=False), Output.TABLE)
    assert capsys.readouterr().out.splitlines()[0].startswith("1 migration in 1.0 s")


def test_narrow_terminal_leaves_columns_out_and_cuts_none(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "80")
    show.show_results(RUN, Output.TABLE)
    out = capsys.readouterr().out
    assert "completed" in out
    assert "4822.5 MiB" in out
    assert "345678" not in out
    assert "\N{HORIZONTAL ELLIPSIS}" not in out


def test_json_is_alone_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    show.show_results(RUN, Output.JSON)
    said = capsys.readouterr()
    assert [vm["vm"] for vm in json.loads(said.out)["migrations"]] == ["db-1", "db-2", "db-3"]
    assert said.err == ""


def test_yaml_says_the_same_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    show.show_results(RUN, Output.JSON)
    as_json = json.loads(capsys.readouterr().out)
    show.show_results(RUN, Output.YAML)
    assert yaml.safe_load(capsys.readouterr().out) == as_json
