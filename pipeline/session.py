"""One migration's life at one host: its parts, the first thing that went wrong, and its end.

A session has parts (the main stream each way, every channel). It ends well when it was closed for new parts and all
of them have ended well; the first failing part fails it at once, and everything it holds is cut so that both QEMUs
notice. One failure waits: a connection that was cut without a word may be the first sign of something that another part
is about to learn the reason of, so for a moment that reason may still come.
"""

import threading
import time
from collections.abc import Callable
from typing import Protocol

from pipeline.errors import KuakaError, LinkCut
from pipeline.shard import ShardCounters

#: How long a reason may come after a cut. The source is where most are known; it decides first, and tells the other.
SOURCE_GRACE_S = 1.0
DESTINATION_GRACE_S = 2.5


class Cuttable(Protocol):
    """What a session cuts when it fails."""

    def abort(self) -> None:
        """End it, from any thread, without waiting."""


class Session:
    """Parts and outcome of one migration at one host; safe from any thread."""

    def __init__(self, session_id: str, abort_channels: Callable[[str], None], grace_s: float = SOURCE_GRACE_S) -> None:
        """`grace_s` is how long a cut waits for a reason."""
        self.session_id = session_id
        self._grace_s = grace_s
        self._abort_channels = abort_channels
        self._lock = threading.Condition()
        self._cuttables: list[Cuttable] = []
        self._open_parts: set[str] = set()
        self._complete = False
        self._error: str | None = None
        self._cut: str | None = None
        self._on_settled: list[Callable[[], None]] = []
        self._begun_s: float | None = None
        self._counters: list[ShardCounters] = []

    @property
    def error(self) -> str | None:
        """Why the session failed, None while it has not."""
        return self._error

    @property
    def only_cut(self) -> bool:
        """Whether all that is known of a failure is that a connection was cut: the reason is at the other host."""
        return self._error is not None and self._error == self._cut

    @property
    def ended(self) -> bool:
        """Whether it failed, or all its parts have ended."""
        return self._error is not None or self._ended_well

    @property
    def age_s(self) -> float:
        """Seconds since its first part began, 0 before."""
        return 0.0 if self._begun_s is None else time.monotonic() - self._begun_s

    def hold(self, cuttable: Cuttable) -> None:
        """Cut this too when the session fails (at once if it has)."""
        with self._lock:
            self._cuttables.append(cuttable)
            failed = self._error is not None
        if failed:
            cuttable.abort()

    def start_part(self, name: str) -> None:
        """A part has begun."""
        with self._lock:
            if self._begun_s is None:
                self._begun_s = time.monotonic()
            self._open_parts.add(name)

    def end_part(self, name: str, error: KuakaError | str | None) -> None:
        """A part has ended; an error fails the session."""
        if isinstance(error, LinkCut):
            self.note_cut(error)
        elif error is not None:
            self.fail(str(error))
        with self._lock:
            self._open_parts.discard(name)
            nobody_left = not self._open_parts
            self._changed()
        if nobody_left and self._cut is not None:
            self.fail(self._cut)

    def note_cut(self, error: LinkCut) -> None:
        """A part's connection was cut: this fails the session unless a reason comes first."""
        with self._lock:
            if self._cut is not None or self.ended:
                return
            self._cut = str(error)
        timer = threading.Timer(self._grace_s, self.fail, (str(error),))
        timer.daemon = True
        timer.start()

    def await_error(self) -> str:
        """Why the session failed, waited for by a part that has seen no more than a cut."""
        with self._lock:
            self._lock.wait_for(lambda: self._error is not None, 2 * self._grace_s)
            return self._error or "the migration has ended"

    def count(self, counters: ShardCounters) -> None:
        """Add a channel's counters to the session's."""
        with self._lock:
            self._counters.append(counters)

    def complete(self) -> None:
        """No more parts will come."""
        with self._lock:
            self._complete = True
            self._changed()

    def fail(self, error: str) -> None:
        """Fail the session, once: the first reason stays. Everything it holds is cut."""
        with self._lock:
            if self.ended:
                return
            self._error = error
            cuttables = list(self._cuttables)
            self._changed()
        for cuttable in cuttables:
            cuttable.abort()
        self._abort_channels(self.session_id)

    def wait(self, timeout_s: float | None) -> bool:
        """Wait until it has ended; False when the time is over first."""
        with self._lock:
            return self._lock.wait_for(lambda: self._settled, timeout_s)

    def when_settled(self, call: Callable[[], None]) -> None:
        """Have `call` made once it has ended with all its parts, at once if it has: for who must not block in `wait`.

        It comes from any thread and with the session locked: it may pass the news on, and no more.
        """
        with self._lock:
            self._on_settled.append(call)
            self._changed()

    def _changed(self) -> None:
        """Tell all who wait; with the lock held."""
        self._lock.notify_all()
        if self._settled:
            calls, self._on_settled = self._on_settled, []
            for call in calls:
                call()

    @property
    def _settled(self) -> bool:
        return self.ended and not self._open_parts

    @property
    def _ended_well(self) -> bool:
        return self._complete and not self._open_parts and self._cut is None

    def totals(self) -> ShardCounters:
        """Sum over all channels."""
        total = ShardCounters()
        with self._lock:
            for counters in self._counters:
                total.add(counters)
        return total
