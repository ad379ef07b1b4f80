"""What a process says of itself: memory, CPU, and how late its event loop is."""

import asyncio
import time
from collections import deque
from collections.abc import Callable

import psutil

from scheduler.metrics import LOOP_LAG, PROCESS_CPU, PROCESS_MEMORY, PROCESS_START
from scheduler.readings import Readings

_LOOK_S = 0.5
#: Looks that are remembered: 10 s.
_KEPT = 20


class LoopLag:
    """How late an event loop calls back; `watch` runs on it until it is cancelled."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lags = deque([0.0], maxlen=_KEPT)

    @property
    def worst_s(self) -> float:
        """The worst of the last 10 s."""
        return max(tuple(self._lags))

    async def watch(self) -> None:
        """Look, for ever."""
        while True:
            due_s = self._clock() + _LOOK_S
            await asyncio.sleep(_LOOK_S)
            self._lags.append(max(0.0, self._clock() - due_s))


class ProcessFigures:
    """This process's, as a part of an `Exposition`."""

    def __init__(self, role: str, host: str, lag: LoopLag | None = None) -> None:
        self._identity = role, host
        self._lag = lag
        self._process = psutil.Process()

    def __call__(self, readings: Readings) -> None:
        with self._process.oneshot():
            times = self._process.cpu_times()
            readings.put(PROCESS_MEMORY, self._process.memory_info().rss, *self._identity)
            readings.put(PROCESS_CPU, times.user + times.system, *self._identity)
            readings.put(PROCESS_START, self._process.create_time(), *self._identity)
        if self._lag is not None:
            readings.put(LOOP_LAG, self._lag.worst_s, *self._identity)
