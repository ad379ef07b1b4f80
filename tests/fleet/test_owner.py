"""Telling a live owner from a dead one whose pid came back."""

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from pipeline.fleet.owner import Owner, is_alive, owner_of_run, run_name, this_process


def fake_proc(directory: Path, pid: int, stat: str, boot_id: str = "boot") -> Path:
    (directory / "sys" / "kernel" / "random").mkdir(parents=True)
    (directory / "sys" / "kernel" / "random" / "boot_id").write_text(f"{boot_id}\n")
    (directory / str(pid)).mkdir()
    (directory / str(pid) / "stat").write_text(stat)
    return directory


def stat_line(name: str, state: str, started_ticks: int) -> str:
    return f"7 ({name}) {state} " + " ".join(["0"] * 18) + f" {started_ticks} 4096 100\n"


def test_this_process_is_alive() -> None:
    me = this_process()
    assert me.pid == os.getpid()
    assert is_alive(me)


def test_a_pid_that_was_given_again_is_another_process() -> None:
    assert not is_alive(replace(this_process(), started_ticks=1))


def test_nothing_survives_a_reboot() -> None:
    assert not is_alive(replace(this_process(), boot_id="another boot"))


def test_a_process_that_was_killed_is_dead_before_and_after_it_is_reaped() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    started_ticks = int(Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()[19])
    owner = replace(this_process(), pid=child.pid, started_ticks=started_ticks)
    assert is_alive(owner)
    child.send_signal(signal.SIGKILL)
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert not is_alive(owner)
    child.communicate()
    assert not is_alive(owner)


def test_a_process_name_cannot_pass_for_other_fields(tmp_path: Path) -> None:
    proc = fake_proc(tmp_path, 7, stat_line("evil) Z 0 (", "S", 1234))
    assert is_alive(Owner(7, 1234, "boot"), proc)
    assert not is_alive(Owner(7, 1, "boot"), proc)


def test_a_zombie_is_dead(tmp_path: Path) -> None:
    assert not is_alive(Owner(7, 1234, "boot"), fake_proc(tmp_path, 7, stat_line("python", "Z", 1234)))


def test_a_run_is_named_after_its_owner_and_known_by_it() -> None:
    me = this_process()
    assert owner_of_run(f"{run_name(me)}/agent/a", me) == me
    assert owner_of_run(f"{run_name(me)}/again/agent/a", me) == me


def test_runs_of_other_machines_and_other_names_have_no_owner_here() -> None:
    me = this_process()
    assert owner_of_run(f"{run_name(replace(me, boot_id='0' * 36))}/agent/a", me) is None
    for name in ("", "agent", f"run-{me.boot_id[:8]}-x-1/agent", f"run-{me.boot_id[:8]}-1-1x/agent"):
        assert owner_of_run(name, me) is None
