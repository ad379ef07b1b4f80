"""A ticket desk that answers as a test says, and accelerators of a host that have nothing but it."""

import asyncio
from collections.abc import Callable, Iterable
from pathlib import Path

from pipeline.codecs.codec import CodecId
from pipeline.fleet.host_accelerators import HostAccelerators
from pipeline.fleet.ticket_desk import FlowTickets
from scheduler.ticks import TicketAnswer

GRANTED = TicketAnswer(granted=True)


class FakeDesk(FlowTickets):
    """Gives `answers` one after the other, the last one ever after; None: no answer before `answering` is set."""

    def __init__(
        self, answers: Iterable[TicketAnswer | None] = (GRANTED,), on_ask: Callable[[], None] = lambda: None
    ) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[int, int]] = []
        self._on_ask = on_ask
        self.given_back = 0
        self.answering = asyncio.Event()
        self.silence_ns: int | None = 0

    @property
    def silent_ns(self) -> int | None:
        return self.silence_ns

    async def ask(self, pages: int, within_ns: int) -> TicketAnswer:
        self.asked.append((pages, within_ns))
        self._on_ask()
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if answer is None:
            await self.answering.wait()
        return answer or GRANTED

    def give_back(self) -> None:
        self.given_back += 1


class OnlyTickets(HostAccelerators):
    """No device and no scheduler, but a desk."""

    def __init__(self, desk: FakeDesk) -> None:
        super().__init__("a", Path("/nowhere"), None)
        self.desk = desk
        self.stopped_sessions: list[str] = []

    def takes_tickets(self, codec: CodecId) -> bool:
        return True

    def ticket_desk(self, session: str) -> FlowTickets:
        return self.desk

    def stopped(self, session: str) -> None:
        self.stopped_sessions.append(session)
