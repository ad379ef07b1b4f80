"""`kuaka devices` on recorded trees: what it prints, what it writes, what it ends with."""

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.devices_command import PlanOptions, find_library, run_check, run_list, run_plan
from pipeline.errors import ExitCode, KuakaError, UsageError
from scheduler.devices.discovery import Roots
from tests.scheduler.devices.discovery.recorded_trees import Tree
from tests.test_cli import ended


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path / "host")


@pytest.fixture(autouse=True)
def libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of them installed, whatever this machine has."""
    monkeypatch.setattr("pipeline.devices_command.find_library", lambda name: f"lib{name}.so")


def printed_json(capsys: pytest.CaptureFixture[str]) -> Any:
    return json.loads(capsys.readouterr().out)


def test_list_of_a_machine_without_any_is_one_line_and_no_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_list(Roots.below(tmp_path), as_json=False) is ExitCode.OK
    assert capsys.readouterr().out == "no DSA, IAA or QAT device is here: the CPU does all the work\n"
    assert run_list(Roots.below(tmp_path), as_json=True) is ExitCode.OK
    nothing = printed_json(capsys)
    assert (nothing["devices"], nothing["qat"]) == ([], [])


def test_list_has_a_row_for_each_queue_that_is_set_up(tree: Tree, capsys: pytest.CaptureFixture[str]) -> None:
    tree.add_ready_device("dsa0")
    tree.add_ready_device("iax1")
    tree.add_qat("0000:6b:00.0")
    assert run_list(tree.roots, as_json=False) is ExitCode.OK
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    named = [row for row in rows if row and row[0].startswith(("dsa", "iax"))]
    assert len(named) == 3
    assert named[0][:11] == ["dsa0", "0", "enabled", "wq0.0", "crit", "user", "shared", "16", "16", "15", "32"]
    assert named[0][-1] == "open"
    assert ["0000:6b:00.0", "0", "up", "4xxx", "dc", "16"] in rows


def test_list_leaves_columns_out_on_a_narrow_terminal(
    tree: Tree, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tree.add_ready_device("dsa0")
    monkeypatch.setattr("pipeline.terminal._PIPE_COLUMNS", 80)
    run_list(tree.roots, as_json=False)
    lines = capsys.readouterr().out.splitlines()
    assert max(len(line) for line in lines) <= 80
    headings = next(line for line in lines if "device" in line).split()
    assert headings == ["device", "node", "state", "queue", "name", "mode", "size", "priority", "access"]


def test_list_names_a_device_that_has_no_queue(tree: Tree, capsys: pytest.CaptureFixture[str]) -> None:
    tree.add_device("iax1")
    run_list(tree.roots, as_json=False)
    (row,) = (line for line in capsys.readouterr().out.splitlines() if "iax1" in line)
    assert row.rstrip().endswith("no queue is set up")


def test_list_as_json_has_every_queue_and_why_it_cannot_be_used(tree: Tree, capsys: pytest.CaptureFixture[str]) -> None:
    tree.add_ready_device("iax1")
    run_list(tree.roots, as_json=True)
    (device,) = printed_json(capsys)["devices"]
    assert (device["kind"], device["numa_node"], device["version"]) == ("iaa", 0, "0x100")
    assert [queue["access"] for queue in device["queues"]] == ["open"] + ["queue disabled"] * 2
    queue = device["queues"][0]
    assert (queue["slots"], queue["block_on_fault"], queue["max_batch"]) == (128, True, None)


def test_check_ends_with_0_where_something_can_be_used(tree: Tree, capsys: pytest.CaptureFixture[str]) -> None:
    tree.add_ready_device("iax1")
    assert run_check(tree.roots, [], as_json=False) is ExitCode.OK
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == ["dsa  not usable", "iaa  usable, queues: 1", "qat  not usable"]
    assert [line[:11] for line in lines[3:]] == ["blocks  dsa", "blocks  qat"]


def test_check_ends_with_1_where_a_kind_that_was_named_cannot_be_used(tree: Tree) -> None:
    tree.add_ready_device("iax1")
    assert run_check(tree.roots, ["iaa"], as_json=True) is ExitCode.OK
    assert run_check(tree.roots, ["iaa", "dsa"], as_json=True) is ExitCode.FAILED
    assert run_check(tree.roots, ["dsa"], as_json=True) is ExitCode.FAILED


def test_check_ends_with_1_where_nothing_can_be_used(tree: Tree) -> None:
    tree.add_device("iax1")
    assert run_check(tree.roots, [], as_json=True) is ExitCode.FAILED


def test_check_as_json_has_findings_with_remedies(tree: Tree, capsys: pytest.CaptureFixture[str]) -> None:
    tree.add_ready_device("dsa0")
    assert run_check(tree.roots, ["dsa"], as_json=True) is ExitCode.OK
    report = printed_json(capsys)
    (finding,) = report["findings"]
    assert (finding["code"], finding["kind"], finding["weight"]) == ("submission-path", "dsa", "costs")
    assert finding["remedy"].startswith("leave the zero scan to the CPU")
    assert report["usable"] == {"dsa": True}


def test_kinds_that_do_not_exist_are_refused_with_those_that_do(tree: Tree) -> None:
    with pytest.raises(UsageError, match=r"^--kind gpu: give one of dsa, iaa, qat$"):
        run_check(tree.roots, ["gpu"], as_json=True)
    with pytest.raises(UsageError, match=r"^--kind qat: give one of dsa, iaa$"):
        run_plan(tree.roots, PlanOptions(kinds=("qat",), devices=1))


def test_plan_of_what_is_here_goes_to_stdout(tree: Tree, capsys: pytest.CaptureFixture[str]) -> None:
    tree.add_device("dsa0")
    tree.add_device("iax1")
    assert run_plan(tree.roots, PlanOptions()) is ExitCode.OK
    assert [device["dev"] for device in printed_json(capsys)] == ["dsa0", "iax1"]
    run_plan(tree.roots, PlanOptions(kinds=("iaa",)))
    assert [device["dev"] for device in printed_json(capsys)] == ["iax1"]


def test_plan_by_hand_does_not_look_at_the_host(tree: Tree, capsys: pytest.CaptureFixture[str]) -> None:
    run_plan(tree.roots, PlanOptions(kinds=("dsa",), devices=2, critical_entries=8, bulk_entries=100))
    plan = printed_json(capsys)
    sizes = [queue["size"] for device in plan for queue in device["groups"][0]["grouped_workqueues"]]
    assert sizes == [8, 100, 8, 100]


def test_plan_writes_both_files_whole_and_leaves_nothing_else(
    tree: Tree, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written = tmp_path / "written"
    written.mkdir()
    config, rule = written / "kuaka.conf", written / "70-kuaka.rules"
    config.write_text("an old one")
    run_plan(tree.roots, PlanOptions(devices=1, group="movers", config=config, udev_rule=rule))
    assert [device["dev"] for device in json.loads(config.read_text())] == ["dsa0", "iax1"]
    assert rule.read_text().count('GROUP="movers"') == 3
    assert sorted(path.name for path in written.iterdir()) == ["70-kuaka.rules", "kuaka.conf"]
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("target", ["nowhere/plan", ".", "/"])
def test_plan_that_cannot_be_written_is_one_line_and_leaves_nothing(
    tree: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.chdir(empty)
    with pytest.raises(KuakaError, match=r"^--config .*: give a file that can be written$") as refused:
        run_plan(tree.roots, PlanOptions(devices=1, config=Path(target)))
    assert "\n" not in str(refused.value)
    assert list(empty.iterdir()) == []


def test_plan_that_cannot_be_writes_no_file(tree: Tree, tmp_path: Path) -> None:
    rule = tmp_path / "rule"
    with pytest.raises(UsageError, match=r"^dsa0 has 128 entries, which cannot be 16 critical and 113 bulk ones"):
        run_plan(tree.roots, PlanOptions(devices=1, bulk_entries=113, udev_rule=rule))
    assert not rule.exists()


def test_plan_without_a_device_says_what_to_give(tree: Tree) -> None:
    with pytest.raises(UsageError, match=r"^there is no DSA or IAA device here: give --devices N"):
        run_plan(tree.roots, PlanOptions())


def test_command_line_takes_every_option(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config, rule = tmp_path / "config", tmp_path / "rule"
    options = ("--devices", "1", "--kind", "dsa", "--critical-entries", "8", "--bulk-entries", "9", "--group", "g")
    arguments = ("plan", *options, "--config", str(config), "--udev-rule", str(rule))
    assert ended(monkeypatch, "devices", *arguments) == ExitCode.OK
    assert [path.exists() for path in (config, rule)] == [True, True]
    assert ended(monkeypatch, "devices", "plan", "--devices", "0", "--kind", "iaa") == ExitCode.USAGE
    assert capsys.readouterr().err.splitlines()[-1] == "kuaka: --devices 0: give 1 to 32"


def test_library_that_a_variable_names_must_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = tmp_path / "libqpl.so"
    library.touch()
    monkeypatch.setenv("KUAKA_LIBQPL", str(library))
    assert find_library("qpl") is None
    monkeypatch.setenv("KUAKA_LIBQPL", "libc.so.6")
    assert find_library("qpl") == "libc.so.6"
    assert find_library("no-such-library-anywhere") is None
