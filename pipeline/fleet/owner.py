"""Who owns a run: a process, named so that the name never comes to mean another one.

A pid alone is reused, so its start time goes with it, and both mean nothing after a reboot, so the boot id does, too.
A zombie is dead: it will do nothing any more.
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")
#: proc(5): field 3 of /proc/PID/stat is the state and field 22 the start time, in clock ticks since boot.
_STATE_FIELD = 3
_START_FIELD = 22
_DEAD_STATES = frozenset("ZXx")
_BOOT_CHARACTERS = 8
_RUN_NAME = re.compile(r"run-([0-9a-f]{8})-([0-9]+)-([0-9]+)(/|$)")


@dataclass(frozen=True, slots=True)
class Owner:
    """A process of this machine, now or in the past."""

    pid: int
    started_ticks: int
    boot_id: str


def this_process(proc: Path = _PROC) -> Owner:
    """The process that asks."""
    pid = os.getpid()
    _, started_ticks = _stat(proc, pid)
    return Owner(pid, started_ticks, _boot_id(proc))


def is_alive(owner: Owner, proc: Path = _PROC) -> bool:
    """Whether that very process still runs."""
    if owner.boot_id != _boot_id(proc):
        return False
    try:
        state, started_ticks = _stat(proc, owner.pid)
    except (FileNotFoundError, ProcessLookupError):
        return False
    return started_ticks == owner.started_ticks and state not in _DEAD_STATES


def _stat(proc: Path, pid: int) -> tuple[str, int]:
    # Field 2 is the command's name in parentheses, which may itself hold spaces and parentheses.
    fields = (proc / str(pid) / "stat").read_text(errors="replace").rpartition(")")[2].split()
    return fields[0], int(fields[_START_FIELD - _STATE_FIELD])


def _boot_id(proc: Path) -> str:
    return (proc / "sys" / "kernel" / "random" / "boot_id").read_text().strip()


def run_name(owner: Owner) -> str:
    """What the actors of this owner's command are named after; `owner_of_run` reads it."""
    return f"run-{owner.boot_id[:_BOOT_CHARACTERS]}-{owner.pid}-{owner.started_ticks}"


def owner_of_run(name: str, me: Owner) -> Owner | None:
    """Whose a run is, by its name; None for one of another machine, or of this one before it was booted."""
    match = _RUN_NAME.match(name)
    if match is None or match[1] != me.boot_id[:_BOOT_CHARACTERS]:
        return None
    return Owner(int(match[2]), int(match[3]), me.boot_id)
