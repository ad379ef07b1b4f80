"""An asyncio loop whose time is what is waited for: nothing is waited for in truth, and every turn is counted."""

import asyncio
import inspect
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

Result = TypeVar("Result")


class Crash(KeyboardInterrupt):
    """SIGKILL: no task of the loop runs any more. (asyncio lets this kind of exception out of a task.)"""


class _Selector(selectors.SelectSelector):
    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            raise RuntimeError("everything waits, and nothing will ever happen")
        # A little more than asked for: a timer that is due a rounding later would cost a turn.
        self.now_s += timeout + 1e-9
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """Begins at `now_s`; `crash_at_turn` is the turn in which everything ends."""

    def __init__(self, now_s: float = 0.0, crash_at_turn: int | None = None) -> None:
        self._clock = _Selector()
        self._clock.now_s = now_s
        self.turns = 0
        self._crash_at_turn = crash_at_turn
        super().__init__(self._clock)
        self.set_exception_handler(_say)

    def time(self) -> float:
        return self._clock.now_s

    def _run_once(self) -> None:
        self.turns += 1
        if self.turns == self._crash_at_turn:
            raise Crash
        super()._run_once()  # type: ignore[misc]

    def live(self, main: Coroutine[Any, Any, Result]) -> Result:
        """Run to the end, or until the crash, which is raised; what is left of it never runs again."""
        try:
            return self.run_until_complete(main)
        finally:
            for task in asyncio.all_tasks(self):
                task._log_destroy_pending = False  # type: ignore[attr-defined]
                coroutine = task.get_coro()
                if inspect.iscoroutine(coroutine) and inspect.getcoroutinestate(coroutine) == inspect.CORO_CREATED:
                    # One that never began, or Python complains.
                    coroutine.close()
            self.close()


def _say(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    if not isinstance(context.get("exception"), Crash):
        loop.default_exception_handler(context)
