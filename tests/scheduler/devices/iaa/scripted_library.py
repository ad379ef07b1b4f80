"""A libqpl that answers what a test tells it, and remembers how it was used."""

import ctypes
from collections.abc import Callable, Iterator

import numpy as np

from scheduler.devices.iaa.device import IaaDevice
from scheduler.devices.iaa.jobs import JobPool
from scheduler.devices.iaa.libqpl import BEING_PROCESSED, FLAG_FIRST, FLAG_LAST, JOB, OK, Path
from tests.scheduler.devices.served_device import DATA_BYTES, FAST

FLAGS = FLAG_FIRST | FLAG_LAST


class ScriptedLibrary:
    """Answers `submissions` and, for each job, `checks`; OK when these have run out. Jobs write nothing."""

    name = "scripted"
    version = "1.6.0"

    def __init__(
        self, submissions: list[int] | None = None, checks: Callable[[int], Iterator[int]] | None = None
    ) -> None:
        self.submissions = submissions or []
        self.layout_verified = True
        self.made: list[int] = []
        self.finished: list[int] = []
        self.submitted: list[int] = []
        self.asked: list[int] = []
        self._checks = checks or (lambda _index: iter(()))
        self._answers: dict[int, Iterator[int]] = {}

    def job_bytes(self, path: Path) -> int:
        return 4096

    def init(self, path: Path, address: int, head: "np.ndarray[tuple[int], np.dtype[np.void]]") -> None:
        head["path"] = path
        self.made.append(address)

    def fini(self, address: int) -> None:
        self.finished.append(address)

    def submit(self, address: int) -> int:
        self.submitted.append(address)
        code = self.submissions.pop(0) if self.submissions else OK
        if code == OK:
            self._answers[address] = self._checks(self.made.index(address))
        return code

    def check(self, address: int) -> int:
        self.asked.append(address)
        code = next(self._answers[address], OK)
        if code != BEING_PROCESSED:
            # Nobody may ask about it again.
            del self._answers[address]
        return code

    def request(self, index: int) -> dict[str, int]:
        """What a job was given."""
        memory = (ctypes.c_char * JOB.itemsize).from_address(self.made[index])
        head = np.frombuffer(memory, dtype=JOB)[0]
        return {name: int(head[name]) for name in JOB.names or () if name != "data_ptr"}


class Clock:
    """Time that passes by sleeping only."""

    def __init__(self) -> None:
        self.now_ns = 0
        self.slept_ns: list[int] = []

    def __call__(self) -> int:
        return self.now_ns

    def sleep(self, duration_s: float) -> None:
        self.slept_ns.append(round(duration_s * 1e9))
        self.now_ns += self.slept_ns[-1]


def scripted_device(library: ScriptedLibrary, clock: Clock | None = None, count: int = 8) -> IaaDevice:
    clock = clock or Clock()
    jobs = JobPool(library, Path.HARDWARE, count, DATA_BYTES, FLAGS, 3)  # type: ignore[arg-type]
    return IaaDevice(library, jobs, FAST, clock=clock, sleep=clock.sleep)  # type: ignore[arg-type]
