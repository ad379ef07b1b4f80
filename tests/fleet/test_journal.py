"""The journal across processes, threads, kills and broken disks."""

import os
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import KuakaError
from pipeline.fleet.journal import JOURNAL_NAME, KEPT_RUNS, Journal, Run
from pipeline.fleet.owner import Owner

REPOSITORY = Path(__file__).parents[2]
ME = Owner(100, 1000, "boot")
OTHER = Owner(200, 2000, "boot")
NOW_NS = 1_700_000_000_000_000_000


def open_journal(directory: Path, owner: Owner = ME, busy_timeout_s: float = 5.0) -> Journal:
    return Journal.open(directory, owner, clock=lambda: NOW_NS, busy_timeout_s=busy_timeout_s)


def add(journal: Journal, run: int, session: str = "00" * 16, vm: str = "db-1") -> int:
    return journal.add_migration(
        run,
        vm=vm,
        session=session,
        kind="qemu",
        source={"host": "a", "qmp": "/run/a.qmp"},
        destination={"host": "b", "cleanup": ["rm", "-f", "/run/b.qmp"]},
        state="preparing",
    )


def nobody_lives(_owner: Owner) -> bool:
    return False


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with open_journal(tmp_path) as opened:
        yield opened


@pytest.fixture
def python(tmp_path: Path) -> Iterator[Callable[[str], "subprocess.Popen[str]"]]:
    """Starts Python processes that find `directory`, `Journal` and `Owner`; whatever is left of them is killed."""
    started = []
    head = (
        "import sys, sqlite3; from pathlib import Path; from pipeline.fleet.journal import Journal;"
        f"from pipeline.fleet.owner import Owner; directory = Path({str(tmp_path)!r}); me = Owner(200, 2000, 'boot')\n"
    )

    def start(code: str) -> "subprocess.Popen[str]":
        command = [sys.executable, "-u", "-c", head + code]
        started.append(
            subprocess.Popen(command, cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        )
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def line(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_what_was_recorded_is_read_back(journal: Journal) -> None:
    run = journal.begin_run()
    migration = add(journal, run)
    journal.set_state(migration, "running")
    recorded = journal.migration(migration)
    assert (recorded.run, recorded.vm, recorded.session, recorded.kind) == (run, "db-1", "00" * 16, "qemu")
    assert recorded.source == {"host": "a", "qmp": "/run/a.qmp"}
    assert recorded.destination == {"host": "b", "cleanup": ["rm", "-f", "/run/b.qmp"]}
    assert (recorded.state, recorded.handed_over, recorded.finished, recorded.error) == ("running", False, False, None)
    journal.finish_migration(migration, "failed", "link was cut")
    ended = journal.migration(migration)
    assert (ended.state, ended.finished, ended.error) == ("failed", True, "link was cut")


def test_the_files_are_private_and_every_commit_reaches_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    connections: list[sqlite3.Connection] = []
    connect = sqlite3.connect

    def watched(*arguments: Any, **keywords: Any) -> sqlite3.Connection:
        connections.append(connect(*arguments, **keywords))
        return connections[-1]

    monkeypatch.setattr(sqlite3, "connect", watched)
    before = os.umask(0)
    try:
        with open_journal(tmp_path) as journal:
            journal.begin_run()
            files = list(tmp_path.iterdir())
            assert {file.name for file in files} == {JOURNAL_NAME, f"{JOURNAL_NAME}-wal", f"{JOURNAL_NAME}-shm"}
            assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
            assert connections[0].execute("PRAGMA journal_mode").fetchone() == ("wal",)
            assert connections[0].execute("PRAGMA synchronous").fetchone() == (2,)
    finally:
        os.umask(before)


def test_a_hand_over_is_seen_by_another_process_as_soon_as_it_returns(
    journal: Journal, python: Callable[[str], "subprocess.Popen[str]"]
) -> None:
    migration = add(journal, journal.begin_run())
    reader = python(
        "journal = Journal.open(directory, me)\nfor _ in sys.stdin: print(journal.migration(1).handed_over)\n"
    )
    assert reader.stdin is not None
    answers = []
    for _ in range(2):
        reader.stdin.write("read\n")
        reader.stdin.flush()
        answers.append(line(reader))
        journal.record_hand_over(migration)
    reader.stdin.write("read\n")
    reader.stdin.flush()
    assert [*answers, line(reader)] == ["False", "True", "True"]


def test_a_hand_over_outlives_the_process_that_recorded_it(
    tmp_path: Path, python: Callable[[str], "subprocess.Popen[str]"]
) -> None:
    owner = python(
        "journal = Journal.open(directory, me); run = journal.begin_run()\n"
        "vm = journal.add_migration(run, vm='v', session='s', kind='qemu', source={}, destination={}, state='x')\n"
        "journal.record_hand_over(vm); print('recorded'); sys.stdin.read()\n"
    )
    assert line(owner) == "recorded"
    owner.send_signal(signal.SIGKILL)
    owner.wait(10)
    with open_journal(tmp_path) as journal:
        (run,) = journal.unfinished(nobody_lives)
        assert [migration.handed_over for migration in run.migrations] == [True]


def test_a_process_killed_inside_a_transaction_has_changed_nothing_and_blocks_nobody(
    journal: Journal, tmp_path: Path, python: Callable[[str], "subprocess.Popen[str]"]
) -> None:
    migration = add(journal, journal.begin_run())
    victim = python(
        f"raw = sqlite3.connect(directory / {JOURNAL_NAME!r}, isolation_level=None); raw.execute('BEGIN IMMEDIATE')\n"
        "raw.execute('PRAGMA cache_spill = 1'); raw.execute('UPDATE migration SET handed_over = 1')\n"
        "raw.execute('DELETE FROM run WHERE id = 0'); print('inside'); sys.stdin.read()\n"
    )
    assert line(victim) == "inside"
    victim.send_signal(signal.SIGKILL)
    victim.wait(10)
    assert not journal.migration(migration).handed_over
    journal.set_state(migration, "running")
    with open_journal(tmp_path, OTHER) as other:
        assert other.migration(migration).state == "running"


def test_a_killed_writer_loses_nothing_that_it_was_told_was_recorded(
    tmp_path: Path, python: Callable[[str], "subprocess.Popen[str]"]
) -> None:
    writer = python(
        "journal = Journal.open(directory, me); run = journal.begin_run(); n = 0\n"
        "while True:\n"
        "    journal.add_migration(run, vm='v', session=str(n), kind='k', source={}, destination={}, state='x')\n"
        "    n += 1; print(n)\n"
    )
    acknowledged = [line(writer) for _ in range(20)]
    writer.send_signal(signal.SIGKILL)
    acknowledged += [rest for rest in writer.communicate()[0].split("\n") if rest]
    with open_journal(tmp_path) as journal:
        (run,) = journal.unfinished(nobody_lives)
        assert len(acknowledged) <= len(run.migrations) <= len(acknowledged) + 1


def test_two_processes_make_and_use_one_journal_at_once(
    tmp_path: Path, python: Callable[[str], "subprocess.Popen[str]"]
) -> None:
    code = (
        "print('ready'); sys.stdin.readline()\n"
        "for _ in range(10):\n"
        "    with Journal.open(directory, me) as journal: journal.finish_run(journal.begin_run())\n"
    )
    both = [python(code), python(code)]
    for process in both:
        assert line(process) == "ready"
    for process in both:
        process.communicate("go\n", timeout=60)
    assert [process.returncode for process in both] == [0, 0]
    with open_journal(tmp_path) as journal:
        assert journal.begin_run() == 21


def test_threads_share_one_journal(journal: Journal) -> None:
    runs: list[int] = []

    def use() -> None:
        for _ in range(5):
            run = journal.begin_run()
            journal.finish_migration(add(journal, run, session=str(run)), "completed")
            journal.finish_run(run)
            runs.append(run)

    threads = [threading.Thread(target=use) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(runs) == list(range(1, 21))
    assert journal.unfinished(nobody_lives) == []


def test_only_runs_of_dead_owners_are_unfinished(journal: Journal, tmp_path: Path) -> None:
    mine = journal.begin_run()
    done = add(journal, mine, "done")
    open_one = add(journal, mine, "open")
    journal.finish_migration(done, "completed")
    with open_journal(tmp_path, OTHER) as other:
        theirs = other.begin_run()
        other.finish_run(other.begin_run())
        assert other.unfinished(lambda owner: owner == OTHER) == [
            Run(mine, ME, (other.migration(open_one),)),
        ]
        assert other.unfinished(lambda owner: owner == ME) == [Run(theirs, OTHER, ())]
        assert other.unfinished(lambda owner: True) == []


def test_a_run_is_taken_over_once_and_its_old_owner_can_no_longer_hand_over(journal: Journal, tmp_path: Path) -> None:
    run = journal.begin_run()
    migration = add(journal, run)
    third = Owner(300, 3000, "boot")
    with open_journal(tmp_path, OTHER) as sweeper, open_journal(tmp_path, third) as late:
        (found,) = sweeper.unfinished(lambda owner: owner != ME)
        assert late.unfinished(lambda owner: owner != ME) == [found]
        assert sweeper.take_over(found)
        assert not late.take_over(found)
        with pytest.raises(KuakaError, match="migration 1 is finished, unknown or taken over"):
            journal.record_hand_over(migration)
        assert not journal.migration(migration).handed_over
        attempts: list[Callable[[], object]] = [lambda: add(journal, run, "new"), lambda: journal.finish_run(run)]
        for refused in attempts:
            with pytest.raises(KuakaError, match="run 1 is finished, unknown or taken over"):
                refused()
        sweeper.finish_migration(migration, "failed", "its kuaka was killed")
        sweeper.finish_run(run)
        assert late.unfinished(nobody_lives) == []


def test_a_run_with_unfinished_migrations_does_not_finish(journal: Journal) -> None:
    run = journal.begin_run()
    migration = add(journal, run)
    with pytest.raises(KuakaError, match="has unfinished migrations"):
        journal.finish_run(run)
    journal.finish_migration(migration, "completed")
    journal.finish_run(run)


def test_nothing_changes_after_the_end_of_a_migration(journal: Journal) -> None:
    migration = add(journal, journal.begin_run())
    journal.finish_migration(migration, "completed")
    attempts: list[Callable[[], object]] = [
        lambda: journal.set_state(migration, "running"),
        lambda: journal.record_hand_over(migration),
        lambda: journal.finish_migration(migration, "failed"),
        lambda: journal.set_state(99, "running"),
    ]
    for change in attempts:
        with pytest.raises(KuakaError, match="is finished, unknown or taken over"):
            change()
    assert journal.migration(migration).state == "completed"


def test_a_session_is_used_once(journal: Journal) -> None:
    run = journal.begin_run()
    add(journal, run)
    with pytest.raises(KuakaError, match=r"UNIQUE constraint failed: migration\.session"):
        add(journal, run)


def test_old_finished_runs_are_forgotten_and_unfinished_ones_never(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.fleet.journal.KEPT_RUNS", 3)
    unfinished = add(journal, journal.begin_run(), "unfinished")
    forgotten_run = journal.begin_run()
    forgotten = add(journal, forgotten_run, "forgotten")
    journal.finish_migration(forgotten, "completed")
    journal.finish_run(forgotten_run)
    for _ in range(3):
        journal.finish_run(journal.begin_run())
    assert journal.migration(unfinished).session == "unfinished"
    with pytest.raises(KuakaError, match=f"has no migration {forgotten}"):
        journal.migration(forgotten)
    assert KEPT_RUNS == 1000


def test_a_process_that_keeps_the_journal_busy_is_waited_for_only_so_long(tmp_path: Path) -> None:
    with open_journal(tmp_path, busy_timeout_s=0.1) as journal:
        raw = sqlite3.connect(tmp_path / JOURNAL_NAME, isolation_level=None)
        raw.execute("BEGIN IMMEDIATE")
        with pytest.raises(KuakaError, match="database is locked"):
            journal.begin_run()
        raw.execute("ROLLBACK")
        raw.close()
        assert journal.begin_run() == 1


def test_a_read_only_directory_is_one_line(tmp_path: Path) -> None:
    # sysfs refuses new files to root, too; for everyone else a mode would do.
    with pytest.raises(KuakaError, match=rf"journal .*/{JOURNAL_NAME} cannot be used: .*: check the file") as caught:
        open_journal(Path("/sys/kernel"))
    assert "\n" not in str(caught.value)


def test_a_missing_directory_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(KuakaError, match="cannot be used: No such file or directory"):
        open_journal(tmp_path / "missing")


def test_a_read_only_file_is_one_line(tmp_path: Path) -> None:
    """As root modes do not count: what is opened here is read-only by its own word."""
    open_journal(tmp_path).close()
    raw = sqlite3.connect(f"file:{tmp_path / JOURNAL_NAME}?mode=ro", uri=True, isolation_level=None)
    with Journal(raw, tmp_path / JOURNAL_NAME, ME) as journal, pytest.raises(KuakaError, match="readonly database"):
        journal.begin_run()


def test_a_file_that_is_no_journal_is_one_line_and_stays(tmp_path: Path) -> None:
    (tmp_path / JOURNAL_NAME).write_text("someone else's notes " * 100)
    with pytest.raises(KuakaError, match="file is not a database: check the file"):
        open_journal(tmp_path)
    assert (tmp_path / JOURNAL_NAME).read_text().startswith("someone else's notes")


def test_a_journal_of_a_later_version_is_refused(tmp_path: Path) -> None:
    open_journal(tmp_path).close()
    raw = sqlite3.connect(tmp_path / JOURNAL_NAME)
    raw.execute("PRAGMA user_version = 3")
    raw.close()
    with pytest.raises(KuakaError, match="version 3, this kuaka knows 2"):
        open_journal(tmp_path)
