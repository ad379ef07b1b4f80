"""One guest's downtime ticket: asked for while the guest runs, its stop held back until it is there.

    guest runs, memory is copied -> the stop is near (`qemu.switchover`) -> ask -> granted -> let the guest be stopped
                                                     ask again at `retry_ns` <- denied

What lets the guest be stopped without a ticket, so that its last pages are the CPU's:

* the scheduler has not been heard for `SILENCE_NS`, or does not answer the request: within a second of its death;
* `LONGEST_WAIT_NS` after the first request, whatever the answers are: no scheduler can keep a migration for ever;
* a mistake in here.

A ticket lives about a second. QEMU mostly stops within 0.2 s of being let go; where it takes another round, the ticket
is asked for anew (`RENEW_NS`) until the guest is stopped, in the same bounds, and nothing waits for the answer any
more. A migration that ends before its guest was stopped gives its ticket back; after the stop, it goes with its flow.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from typing import Protocol

from pipeline.errors import KuakaError
from pipeline.memory.pages import PAGE_BYTES
from pipeline.qemu.switchover import RamProgress, Rounds, poll_ns
from scheduler.ticks import TicketAnswer

_NS_PER_S = 10**9
#: From the first request on, the stop is held back no longer than this.
LONGEST_WAIT_NS = 10 * _NS_PER_S
#: A host's client hears from the scheduler ten times a second.
SILENCE_NS = 800_000_000
#: While the guest may be stopped and is not.
RENEW_NS = 500_000_000
#: A denial that names no time, or hardly any.
_LEAST_RETRY_NS = 100_000_000
_WATCH_S = 0.05
_UNDER_WAY = frozenset(("setup", "wait-unplug", "active"))

_log = logging.getLogger(__name__)


class TicketDesk(Protocol):
    """Where one migration's tickets come from."""

    @property
    def silent_ns(self) -> int | None:
        """How long ago the scheduler was last heard; None: never."""

    async def ask(self, pages: int, within_ns: int) -> TicketAnswer:
        """May the guest be stopped, with so many pages done within `within_ns` from then on?"""

    def give_back(self) -> None:
        """The guest is not going to be stopped."""


class Switchover(Protocol):
    """The source QEMU, as far as its guest's stop is concerned. Both raise `KuakaError` when it has gone."""

    async def ram(self) -> RamProgress:
        """How far memory has come."""

    async def let_go(self) -> None:
        """Let QEMU stop the guest as soon as the policy's downtime limit allows it."""


class DowntimeTicket:
    """Holds one guest's stop back until its ticket is there; `start` when QEMU migrates, `end` in any case."""

    def __init__(
        self,
        desk: TicketDesk,
        switchover: Switchover,
        downtime_limit_ns: int,
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._desk = desk
        self._switchover = switchover
        self._limit_ns = downtime_limit_ns
        self._clock = clock
        self._rounds = Rounds(downtime_limit_ns)
        self._asked_ns: int | None = None
        self._ask_at_ns = 0
        self._let_go_ns: int | None = None
        self._stopped = False
        self._holding: asyncio.Task[None] | None = None

    @property
    def wait_ms(self) -> float | None:
        """How long the stop was held back for the ticket, until now at the most; None: none was asked for."""
        if self._asked_ns is None:
            return None
        until_ns = self._clock() if self._let_go_ns is None else self._let_go_ns
        return round((until_ns - self._asked_ns) / 1e6, 1)

    def start(self) -> None:
        """QEMU was told to migrate."""
        self._holding = asyncio.create_task(self.hold())

    def stopped(self) -> None:
        """The guest stands still: from now on the ticket is in use."""
        self._stopped = True
        if self._let_go_ns is None:
            self._let_go_ns = self._clock()

    async def end(self) -> None:
        """The migration is over."""
        if self._holding is not None:
            self._holding.cancel()
            await asyncio.wait((self._holding,))

    async def hold(self) -> None:
        """Until the guest was stopped, or is not going to be."""
        try:
            await self._until_stopped()
        except KuakaError:
            # QEMU has gone; who waits for the migration's end says so.
            pass
        except Exception:
            _log.exception("the downtime ticket is done without")
            with contextlib.suppress(KuakaError):
                await self._let_go()
        finally:
            if not self._stopped and self._asked_ns is not None:
                self._let_go_ns = self._let_go_ns or self._clock()
                self._desk.give_back()

    async def _until_stopped(self) -> None:
        period_s = poll_ns(self._limit_ns) / _NS_PER_S
        while not self._stopped:
            ram = await self._switchover.ram()
            if ram.status not in _UNDER_WAY:
                return
            self._rounds.observe(ram)
            near = self._rounds.stop_is_near
            if (near or self._asked_ns is not None) and self._patience_is_over():
                await self._let_go()
                return
            if near and self._clock() >= self._ask_at_ns:
                await self._ask()
            await asyncio.sleep(period_s)

    def _patience_is_over(self) -> bool:
        silent_ns = self._desk.silent_ns
        if silent_ns is None or silent_ns >= SILENCE_NS:
            return True
        return self._asked_ns is not None and self._clock() - self._asked_ns >= LONGEST_WAIT_NS

    async def _ask(self) -> None:
        self._asked_ns = self._asked_ns or self._clock()
        answer = await self._answer(-(-self._rounds.remaining_bytes // PAGE_BYTES))
        if answer.granted or answer.reason is None:
            await self._let_go()
        self._ask_at_ns = self._clock() + (RENEW_NS if answer.granted else max(answer.retry_ns, _LEAST_RETRY_NS))

    async def _answer(self, pages: int) -> TicketAnswer:
        """The scheduler's; a denial without a reason where it has gone, or the patience with it."""
        asking = asyncio.create_task(self._desk.ask(max(1, pages), self._limit_ns))
        try:
            while not asking.done() and not self._patience_is_over():
                await asyncio.wait((asking,), timeout=_WATCH_S)
            answered = asking.done() and not asking.cancelled()
            return asking.result() if answered else TicketAnswer(granted=False)
        finally:
            asking.cancel()

    async def _let_go(self) -> None:
        if self._let_go_ns is None:
            self._let_go_ns = self._clock()
            await self._switchover.let_go()
