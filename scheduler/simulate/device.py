"""One accelerator as hardware has it: a work queue that takes so many descriptors, first come first served.

Service is deterministic and the queue is FIFO, so when a submission ends is known as it is made: the device keeps until
when it is busy, and no process of its own. A batch is many small descriptors, which the engines share: the device as a
whole serves `engines` device-ns per ns.

A second queue of higher priority (kuaka's CRITICAL slots) passes what waits in the first, not what is in service; what
it takes delays only what is submitted to the first queue afterwards.
"""

from collections import deque
from dataclasses import dataclass
from math import ceil

import simpy

from scheduler.core.units import AcceleratorKind
from scheduler.simulate.memory_demand import MemoryDemand
from scheduler.simulate.parameters import DeviceModel, Operation


@dataclass(slots=True)
class _Submission:
    start_ns: int
    end_ns: int
    descriptors: int
    work_ns: int
    done: simpy.Event


class Device:
    """Slots are descriptors; `refused` counts submissions that found too few of them free."""

    def __init__(
        self,
        env: simpy.Environment,
        name: str,
        kind: AcceleratorKind,
        model: DeviceModel,
        scale: int,
        memory: MemoryDemand,
    ) -> None:
        self._env = env
        self.name = name
        self.kind = kind
        #: A simulated batch stands for `scale` packets, one after the other: so many times the slots do the same.
        self.slots = model.slots * scale
        self.engines = model.engines
        self._work_ns_b = model.work_ns_b
        self._memory = memory
        #: What it reads while it is busy: its slowest operation is the one that lasts.
        self._reads_b_ns = model.engines / max(model.work_ns_b.values())
        self._pending: deque[_Submission] = deque()
        self._critical: deque[_Submission] = deque()
        self._busy_until_ns = 0
        self._critical_until_ns = 0
        self._finished_ns = 0
        self.up = True
        self.refused = 0
        self.completed = 0
        self._unfinished = 0

    def work_ns(self, operation: Operation, size_bytes: float) -> int:
        """Device-ns that `operation` on so many bytes takes. Raises KeyError if the device does not do it."""
        return ceil(size_bytes * self._work_ns_b[operation])

    def wait_ns(self, *, critical: bool = False) -> int:
        """How long a submission made now waits before its first descriptor is served."""
        if critical:
            return max(0, self._critical_until_ns - self._now())
        return max(0, self._busy_until_ns - self._now())

    def occupancy(self) -> int:
        """Descriptors in the device, or waiting for a slot of it."""
        now_ns = self._now()
        self._prune(now_ns)
        inside = 0
        for submission in self._pending:
            if submission.start_ns < now_ns:
                length_ns = submission.end_ns - submission.start_ns
                inside += ceil(submission.descriptors * (submission.end_ns - now_ns) / length_ns)
            else:
                inside += submission.descriptors
        return inside

    def free(self) -> int:
        """Slots that a submission would find now."""
        return max(0, self.slots - self.occupancy())

    def submit(self, work_ns: int, descriptors: int, *, critical: bool = False) -> simpy.Event:
        """Queue work; the event's value is True when it was done, False when the device went away meanwhile.

        More than there are slots waits outside, in order of arrival.
        """
        now_ns = self._now()
        done = self._env.event()
        if not self.up:
            done.succeed(False)
            return done
        self._prune(now_ns)
        length_ns = max(1, ceil(work_ns / self.engines))
        start_ns = max(now_ns, self._critical_until_ns if critical else self._busy_until_ns)
        submission = _Submission(start_ns, start_ns + length_ns, descriptors, work_ns, done)
        if critical:
            self._critical_until_ns = submission.end_ns
            self._busy_until_ns = max(self._busy_until_ns, now_ns) + length_ns
            self._critical.append(submission)
        else:
            self._busy_until_ns = submission.end_ns
            self._pending.append(submission)
        if not self._unfinished:
            self._memory.add(self._reads_b_ns)
        self._unfinished += 1
        timer = self._env.timeout(submission.end_ns - now_ns, submission)
        timer.callbacks.append(self._complete)
        return done

    def busy_ns(self) -> int:
        """Device-ns worked so far."""
        now_ns = self._now()
        self._prune(now_ns)
        running = 0
        for submission in (*self._pending, *self._critical):
            if submission.start_ns < now_ns:
                length_ns = submission.end_ns - submission.start_ns
                running += submission.work_ns * (now_ns - submission.start_ns) // length_ns
        return self._finished_ns + running

    def close(self) -> None:
        """The device is gone; whatever it had is lost."""
        self._finished_ns = self.busy_ns()
        self.up = False
        for submission in (*self._pending, *self._critical):
            if not submission.done.triggered:
                submission.done.succeed(False)
        self._pending.clear()
        self._critical.clear()
        self._busy_until_ns = self._critical_until_ns = 0

    def open(self) -> None:
        """The device is back, empty."""
        self.up = True

    def _now(self) -> int:
        return int(self._env.now)

    def _prune(self, now_ns: int) -> None:
        for queue in (self._pending, self._critical):
            while queue and queue[0].end_ns <= now_ns:
                submission = queue.popleft()
                self._finished_ns += submission.work_ns
                self.completed += submission.descriptors

    def _complete(self, timer: simpy.Event) -> None:
        submission = timer.value
        assert isinstance(submission, _Submission)
        self._unfinished -= 1
        if not self._unfinished:
            self._memory.add(-self._reads_b_ns)
        if not submission.done.triggered:
            submission.done.succeed(True)
