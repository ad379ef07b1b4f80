"""How long nobody has asked for anything, as far as this process could have heard it.

A process that a busy machine does not let run for ten seconds has not been silent for ten: calls may have been waiting
for it all that time. So of the time between two looks no more counts than the look was meant to take, and a half.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable

_LOOK_S = 1.0
_COUNTED_S = 1.5 * _LOOK_S


class Silence:
    """For one loop."""

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._clock = clock
        self._sleep = sleep
        self._heard = False

    def heard(self) -> None:
        """Somebody has asked."""
        self._heard = True

    async def lasts(self, limit_s: float) -> None:
        """Return when there has been silence for so long."""
        looked_s, silent_s = self._clock(), 0.0
        while silent_s < limit_s:
            await self._sleep(_LOOK_S)
            now_s = self._clock()
            silent_s = 0.0 if self._heard else silent_s + min(now_s - looked_s, _COUNTED_S)
            looked_s, self._heard = now_s, False
