"""Where the machine's files are looked for: parameters, so that a recorded tree stands in for a host."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Roots:
    """The directories that discovery reads. It writes to none of them."""

    sysfs: Path = Path("/sys")
    dev: Path = Path("/dev")
    proc: Path = Path("/proc")
    etc: Path = Path("/etc")
    run: Path = Path("/run")

    @classmethod
    def below(cls, directory: Path) -> "Roots":
        """All of them inside one directory."""
        return cls(*(directory / name for name in ("sys", "dev", "proc", "etc", "run")))
