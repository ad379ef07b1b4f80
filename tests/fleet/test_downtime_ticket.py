"""A guest's downtime ticket by a fake clock: when it is asked for, what a denial costs, and what ends the waiting."""

import asyncio
from collections.abc import Callable, Iterable

import pytest

from pipeline.errors import MigrationError
from pipeline.fleet import downtime_ticket as module
from pipeline.fleet.downtime_ticket import LONGEST_WAIT_NS, RENEW_NS, SILENCE_NS, DowntimeTicket
from pipeline.memory.pages import PAGE_BYTES
from pipeline.qemu.switchover import RamProgress
from scheduler.core.effects import Reason
from scheduler.ticks import TicketAnswer
from tests.fleet.ticket_desks import GRANTED, FakeDesk

MS = 10**6
LIMIT_NS = 300 * MS
RATE_BYTES_S = 10**9
FAR, NEAR = 400_000_000, 100_000_000
TWO_LOOKS_NS = 50 * MS


def denied(retry_ms: int, reason: Reason | None = Reason.NO_CAPACITY) -> TicketAnswer:
    return TicketAnswer(granted=False, reason=reason, retry_ns=retry_ms * MS)


class World:
    """A source QEMU and a clock that a look at QEMU moves on; the guest stops `stop_after_ns` after it was let go."""

    def __init__(
        self,
        answers: Iterable[TicketAnswer | None] = (GRANTED,),
        remaining: Callable[[int], int] = lambda now_ns: NEAR,
        stop_after_ns: int = 100 * MS,
    ) -> None:
        self.now_ns = 10**9
        self.began_ns = self.now_ns
        self.asked_at_ms: list[int] = []
        self.desk = FakeDesk(answers, lambda: self.asked_at_ms.append(self.since_ms))
        self.let_go_at_ms: int | None = None
        self.status = "active"
        self.at: dict[int, Callable[[], None]] = {}
        self._remaining = remaining
        self._stop_after_ns = stop_after_ns
        self.ticket = DowntimeTicket(self.desk, self, LIMIT_NS, lambda: self.now_ns)

    @property
    def since_ms(self) -> int:
        return (self.now_ns - self.began_ns) // MS

    async def ram(self) -> RamProgress:
        if self.let_go_at_ms is not None and self.since_ms - self.let_go_at_ms >= self._stop_after_ns // MS:
            self.ticket.stopped()
        remaining_bytes = self._remaining(self.now_ns - self.began_ns)
        return RamProgress(self.status, 1 + self.since_ms, remaining_bytes, RATE_BYTES_S)

    async def let_go(self) -> None:
        assert self.let_go_at_ms is None, "let go twice"
        self.let_go_at_ms = self.since_ms

    def pass_time(self, seconds: float) -> None:
        """Instead of a sleep; what is to happen `at` a time happens."""
        self.now_ns += round(seconds * 1e9)
        for at_ms in [at_ms for at_ms in self.at if at_ms <= self.since_ms]:
            self.at.pop(at_ms)()


@pytest.fixture(autouse=True)
def _no_time_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sleeps and waits move the world's clock instead."""
    monkeypatch.setattr(module, "asyncio", FakeTime)


class FakeTime:
    """What the module uses of asyncio."""

    world: World
    create_task = staticmethod(asyncio.create_task)

    @classmethod
    async def sleep(cls, seconds: float) -> None:
        cls.world.pass_time(seconds)
        await asyncio.sleep(0)

    @classmethod
    async def wait(cls, tasks: tuple[asyncio.Task[TicketAnswer]], **limit: float) -> None:
        await asyncio.sleep(0)
        if not tasks[0].done():
            cls.world.pass_time(limit["timeout"])


def hold(world: World) -> World:
    FakeTime.world = world
    asyncio.run(asyncio.wait_for(world.ticket.hold(), 10))
    return world


def test_ticket_is_asked_for_when_the_stop_is_near_and_its_guest_let_go_when_it_is_there() -> None:
    world = hold(World(remaining=lambda now_ns: FAR if now_ns < 500 * MS else NEAR))
    assert world.desk.asked == [(-(-NEAR // PAGE_BYTES), LIMIT_NS)]
    assert world.let_go_at_ms == 550
    assert world.ticket.wait_ms == 0
    assert world.desk.given_back == 0


def test_denied_ticket_is_asked_for_again_when_it_was_told_to() -> None:
    world = hold(World((denied(400), denied(0), GRANTED)))
    first, second, third = world.asked_at_ms
    assert (second - first, third - second) == (400, 100)
    assert world.ticket.wait_ms == 500
    assert world.desk.given_back == 0


def test_ticket_that_waits_is_asked_for_anew_with_what_remains_then() -> None:
    world = hold(World((denied(400), GRANTED), lambda now_ns: NEAR if now_ns < 200 * MS else 0))
    assert [pages for pages, _ in world.desk.asked] == [-(-NEAR // PAGE_BYTES), 1]


def test_no_scheduler_keeps_a_guest_longer_than_the_bound() -> None:
    world = hold(World((denied(300),)))
    assert world.ticket.wait_ms is not None
    assert LONGEST_WAIT_NS <= world.ticket.wait_ms * MS <= LONGEST_WAIT_NS + TWO_LOOKS_NS
    assert world.let_go_at_ms is not None
    assert len(world.desk.asked) == 34
    assert world.desk.given_back == 1


def test_answer_that_does_not_come_while_the_scheduler_is_heard_is_waited_for_within_the_bound() -> None:
    world = hold(World((None,)))
    assert world.ticket.wait_ms is not None
    assert LONGEST_WAIT_NS <= world.ticket.wait_ms * MS <= LONGEST_WAIT_NS + TWO_LOOKS_NS


def test_denial_without_a_reason_means_that_nobody_answered_and_the_cpu_does_it() -> None:
    world = hold(World((denied(1000, None),)))
    assert [world.let_go_at_ms] == world.asked_at_ms
    assert world.ticket.wait_ms == 0


@pytest.mark.parametrize("answer", [None, denied(5000)], ids=["asked", "told to come back"])
def test_scheduler_that_dies_costs_less_than_a_second(answer: TicketAnswer | None) -> None:
    world = World((answer,))
    died_ms = 1000
    world.at[died_ms + SILENCE_NS // MS] = lambda: setattr(world.desk, "silence_ns", SILENCE_NS)
    hold(world)
    assert world.let_go_at_ms is not None
    assert died_ms < world.let_go_at_ms < died_ms + 1000
    assert world.desk.given_back == 1
    assert len(world.desk.asked) == 1


def test_scheduler_that_is_not_there_is_not_waited_for() -> None:
    for silence_ns in (None, SILENCE_NS):
        world = World()
        world.desk.silence_ns = silence_ns
        hold(world)
        assert world.desk.asked == []
        assert world.ticket.wait_ms is None
        assert world.let_go_at_ms == TWO_LOOKS_NS // MS


def test_ticket_is_renewed_until_the_guest_is_stopped() -> None:
    world = hold(World(stop_after_ns=1800 * MS))
    assert [after - before for before, after in zip(world.asked_at_ms, world.asked_at_ms[1:], strict=False)] == [
        RENEW_NS // MS
    ] * 3
    assert world.ticket.wait_ms == 0
    assert world.desk.given_back == 0


def test_guest_that_is_let_go_and_not_stopped_gives_its_ticket_back_in_the_end() -> None:
    world = hold(World(stop_after_ns=100 * LONGEST_WAIT_NS))
    assert world.ticket.wait_ms == 0
    assert world.desk.given_back == 1


@pytest.mark.parametrize("status", ["failed", "cancelled", "completed", "device"])
def test_migration_that_ends_meanwhile_gives_its_ticket_back(status: str) -> None:
    world = World((denied(100),))
    world.at[1000] = lambda: setattr(world, "status", status)
    hold(world)
    assert world.let_go_at_ms is None
    assert world.desk.given_back == 1
    assert world.ticket.wait_ms is not None
    assert world.ticket.wait_ms <= 1000


def test_migration_that_ends_before_its_stop_was_near_has_no_ticket_to_give_back() -> None:
    world = World(remaining=lambda now_ns: FAR)
    world.at[1000] = lambda: setattr(world, "status", "failed")
    hold(world)
    assert (world.desk.asked, world.desk.given_back, world.ticket.wait_ms) == ([], 0, None)


def test_qemu_that_has_gone_ends_it() -> None:
    def gone(now_ns: int) -> int:
        raise MigrationError("QEMU has gone")

    assert hold(World(remaining=gone)).let_go_at_ms is None


def test_mistake_in_here_lets_the_guest_go() -> None:
    def mistaken(now_ns: int) -> int:
        raise KeyError("remaining")

    assert hold(World(remaining=mistaken)).let_go_at_ms == 0


def test_guest_that_is_stopped_by_itself_ends_the_waiting() -> None:
    world = World((denied(100),))
    world.at[1000] = world.ticket.stopped
    hold(world)
    assert world.let_go_at_ms is None
    assert world.desk.given_back == 0
