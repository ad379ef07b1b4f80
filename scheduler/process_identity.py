"""Which process: a pid and when it started, because the kernel uses pids again."""

import os
from dataclasses import dataclass
from pathlib import Path

#: Of /proc/PID/stat, counted from what follows the name in parentheses: the state, and the start in clock ticks.
_STATE, _STARTED = 0, 19


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """One process of this machine, for ever."""

    pid: int
    started: int

    @classmethod
    def own(cls) -> "ProcessIdentity":
        """This process."""
        return cls(os.getpid(), int(_stat("self")[_STARTED]))

    def alive(self) -> bool:
        """Whether it still runs, or is stopped and may run again. A zombie runs no more."""
        try:
            stat = _stat(str(self.pid))
        except (FileNotFoundError, ProcessLookupError):
            return False
        return int(stat[_STARTED]) == self.started and stat[_STATE] not in ("Z", "X")


def _stat(process: str) -> list[str]:
    return Path("/proc", process, "stat").read_text().rpartition(")")[2].split()
