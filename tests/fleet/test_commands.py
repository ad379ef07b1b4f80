"""`prepare` and `cleanup` commands: their words when they fail, and their end whatever happens to who waits."""

import asyncio
import time
from pathlib import Path

import pytest

from pipeline.errors import MigrationError
from pipeline.fleet import commands
from pipeline.fleet.commands import run_command
from tests.demo.running_guest import wait_until


def run(command: str | tuple[str, ...], **environment: str) -> None:
    asyncio.run(run_command("vm1: prepare on b", command, environment))


def test_a_command_gets_its_environment_and_words_are_not_split(tmp_path: Path) -> None:
    run(f'printf %s "$KUAKA_VM" > {tmp_path}/string', KUAKA_VM="a b")
    run(("/bin/sh", "-c", f'printf %s "$0" > {tmp_path}/words', "c  d"))
    assert (tmp_path / "string").read_text() == "a b"
    assert (tmp_path / "words").read_text() == "c  d"


def test_a_command_that_fails_says_its_last_words_in_one_line() -> None:
    with pytest.raises(MigrationError) as caught:
        run("echo one; echo two >&2; exit 3")
    assert str(caught.value) == "vm1: prepare on b failed with exit code 3: one two"
    with pytest.raises(MigrationError) as caught:
        run("yes a-long-story | head -c 1000000; echo; echo its end; exit 1")
    assert len(str(caught.value)) < 500
    assert str(caught.value).endswith(" its end")
    with pytest.raises(MigrationError, match=r"exit code 1: it said nothing$"):
        run("exit 1")


def test_a_command_that_cannot_be_run_is_named() -> None:
    with pytest.raises(MigrationError, match=r"^vm1: prepare on b: cannot run /nowhere: No such file or directory$"):
        run(("/nowhere",))


def test_what_a_command_leaves_running_is_not_waited_for() -> None:
    began_s = time.monotonic()
    run("sleep 5 & exit 0")
    assert time.monotonic() - began_s < 3


def test_a_command_that_takes_too_long_is_killed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(commands, "COMMAND_TIMEOUT_S", 0.2)
    with pytest.raises(MigrationError, match=r"^vm1: prepare on b took longer than 0\.2 s and was killed$"):
        run(f"echo $$ > {tmp_path}/pid; sleep 30")
    assert not Path(f"/proc/{(tmp_path / 'pid').read_text().strip()}").exists()


@pytest.mark.parametrize(("lasts_s", "ends_well"), [(0.3, True), (30, False)])
def test_a_command_that_is_not_wanted_any_more_may_end_by_itself_or_is_killed(
    lasts_s: float, ends_well: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(commands, "_GRACE_S", 1.0)

    async def cancel() -> None:
        command = f"echo $$ > {tmp_path}/pid; sleep {lasts_s}; touch {tmp_path}/end"
        running = asyncio.create_task(run_command("prepare", command, {}))
        await asyncio.to_thread(wait_until, (tmp_path / "pid").exists, "the command runs")
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    asyncio.run(cancel())
    assert (tmp_path / "end").exists() is ends_well
    assert not Path(f"/proc/{(tmp_path / 'pid').read_text().strip()}").exists()
