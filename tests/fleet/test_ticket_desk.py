"""Where tickets come from: the real service and client in this process, with an emulated device."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.codecs.codec import CodecId
from pipeline.fleet.downtime_ticket import DowntimeTicket
from pipeline.fleet.host_accelerators import HostAccelerators
from pipeline.fleet.ticket_desk import FlowTickets, TicketFlow, has_tickets, possible_cost_ns, stop_cost_ns
from pipeline.qemu.switchover import RamProgress
from scheduler.client import SchedulerClient, Unreachable
from scheduler.core.effects import Reason
from scheduler.core.events import PoolSettings
from scheduler.core.units import AcceleratorKind, Phase
from scheduler.devices.cost import CostModel, OperationCost
from scheduler.devices.device import Operation
from scheduler.service import SchedulerService
from scheduler.ticks import Tick, TickAnswer, TicketAnswer
from tests.fleet.test_host_accelerators import DEVICES, SESSION, accelerators, nobody, real_service, terms, until

MS = 10**6
LIMIT_NS = 300 * MS
POOL = PoolSettings("h/iaa/0", "h", AcceleratorKind.IAA, slots=128, critical_slots=16, engines=2)
COST = CostModel({Operation.COMPRESS: OperationCost(500, 1000)})
#: A page of COST.
PAGE_NS = 4596

Story = Callable[[HostAccelerators, FlowTickets, SchedulerService], Awaitable[None]]


def at_the_desk(folder: Path, story: Story) -> None:
    """A migration that has a flow on a device, and a scheduler that can be switched off."""

    async def tell() -> None:
        service, transport = real_service()
        async with accelerators(folder, DEVICES / "iaa-small.yaml", transport) as host:
            assert host.open("vm", terms(), Phase.PRECOPY, sending=True) is not None
            desk = host.ticket_desk(SESSION)
            assert desk is not None
            await story(host, desk, service)

    asyncio.run(tell())


def tickets(service: SchedulerService) -> int:
    return service.statistics().core.pools[0].tickets


def test_ticket_is_given_used_from_the_stop_on_and_gone_with_its_flow(tmp_path: Path) -> None:
    async def story(host: HostAccelerators, desk: FlowTickets, service: SchedulerService) -> None:
        assert await desk.ask(500, LIMIT_NS) == TicketAnswer(granted=True)
        assert tickets(service) == 1
        host.stopped(SESSION)
        await until(lambda: service.statistics().core.pools[0].flows[0].granted_ns > 0)
        await host.close(SESSION)
        await until(lambda: tickets(service) == 0)

    at_the_desk(tmp_path, story)


def test_ticket_that_is_given_back_is_another_guests(tmp_path: Path) -> None:
    async def story(host: HostAccelerators, desk: FlowTickets, service: SchedulerService) -> None:
        assert host.open("vm2", terms(session="cd" * 16), Phase.PRECOPY, sending=True) is not None
        other = host.ticket_desk("cd" * 16)
        assert other is not None
        # More than there is, and then all there is.
        assert not (await desk.ask(10**6, LIMIT_NS)).granted
        assert (await desk.ask(10**6, LIMIT_NS)).granted
        for _ in range(2):
            refused = await other.ask(10**6, LIMIT_NS)
            assert (refused.granted, refused.reason) == (False, Reason.NO_CAPACITY)
            assert 0 < refused.retry_ns < 2000 * MS
        desk.give_back()
        await until(lambda: tickets(service) == 0)
        assert (await other.ask(10**6, LIMIT_NS)).granted

    at_the_desk(tmp_path, story)


def test_device_that_has_gone_is_not_waited_for(tmp_path: Path) -> None:
    async def story(host: HostAccelerators, desk: FlowTickets, service: SchedulerService) -> None:
        (device,) = host._devices
        device._process.kill()  # type: ignore[attr-defined]
        await until(lambda: not service.statistics().core.pools[0].up)
        answer = await desk.ask(1, LIMIT_NS)
        assert (answer.granted, answer.reason) == (False, None)

    at_the_desk(tmp_path, story)


class HeldGuest:
    """Its stop is near and never comes."""

    def __init__(self) -> None:
        self.let_go_times = 0

    async def ram(self) -> RamProgress:
        return RamProgress("active", 2, 4096, 10**9)

    async def let_go(self) -> None:
        self.let_go_times += 1


def test_scheduler_that_dies_while_it_is_asked_holds_nobody(tmp_path: Path) -> None:
    async def tell() -> None:
        service, transport = real_service()
        dead = False

        async def mortal(tick: Tick) -> TickAnswer:
            if dead:
                raise Unreachable("dead")
            return await transport(tick)

        async with accelerators(tmp_path, DEVICES / "iaa-small.yaml", mortal) as host:
            assert host.open("vm", terms(), Phase.PRECOPY, sending=True) is not None
            await until(lambda: bool(service.statistics().core.pools[0].flows))
            desk, guest = host.ticket_desk(SESSION), HeldGuest()
            assert desk is not None
            dead = True
            await asyncio.wait_for(DowntimeTicket(desk, guest, LIMIT_NS).hold(), 5)
            assert guest.let_go_times == 1

    asyncio.run(tell())


@pytest.mark.parametrize(
    ("file", "transport"),
    [("dsa.yaml", None), ("iaa-small.yaml", nobody), ("", None)],
    ids=["device that codes nothing", "no scheduler", "no device"],
)
def test_nobody_waits_where_no_ticket_can_come(
    tmp_path: Path, file: str, transport: Callable[[Tick], Awaitable[TickAnswer]] | None
) -> None:
    async def tell() -> None:
        path = DEVICES / file if file else None
        async with accelerators(tmp_path, path, transport or real_service()[1]) as host:
            host.open("vm", terms(), Phase.PRECOPY, sending=True)
            assert not host.takes_tickets(CodecId.DEFLATE)
            assert host.ticket_desk(SESSION) is None

    asyncio.run(tell())


def test_host_with_a_device_and_a_scheduler_takes_tickets(tmp_path: Path) -> None:
    async def story(host: HostAccelerators, desk: FlowTickets, service: SchedulerService) -> None:
        assert host.takes_tickets(CodecId.DEFLATE)
        assert not host.takes_tickets(CodecId.NONE)
        assert desk.silent_ns is not None
        assert host.ticket_desk("cd" * 16) is None

    at_the_desk(tmp_path, story)


def test_pool_without_a_reserve_has_no_tickets() -> None:
    assert has_tickets(POOL)
    assert not has_tickets(replace(POOL, critical_slots=0))


def test_stop_costs_what_its_pages_do_and_is_promised_what_the_reserve_can() -> None:
    assert stop_cost_ns(1000, COST) == possible_cost_ns(1000 * PAGE_NS, LIMIT_NS, POOL) == 1000 * PAGE_NS
    # 12 slots of 128, two engines, 80 % of 300 ms.
    assert possible_cost_ns(stop_cost_ns(10**9, COST), LIMIT_NS, POOL) == 45 * MS
    assert stop_cost_ns(0, COST) == 1


class Answers(SchedulerClient):
    """A client that gives each pool's answer; what it was asked."""

    def __init__(self, **answers: TicketAnswer) -> None:
        self.answers = answers
        self.costs: dict[str, int] = {}

    async def request_ticket(self, flow: str, pool: str, cost_ns: int, within_ns: int) -> TicketAnswer:
        self.costs[pool] = cost_ns
        return self.answers[pool]


@pytest.mark.parametrize(
    ("iaa", "qat", "together"),
    [
        ((True, None, 0), (True, None, 0), (True, None, 0)),
        ((True, None, 0), (False, Reason.NO_CAPACITY, 7), (False, Reason.NO_CAPACITY, 7)),
        ((False, Reason.NO_CAPACITY, 9), (False, Reason.NO_CAPACITY, 7), (False, Reason.NO_CAPACITY, 9)),
        ((False, Reason.NO_CAPACITY, 9), (False, None, 1), (False, None, 9)),
        ((False, Reason.DEVICE_DOWN, 9), (True, None, 0), (True, None, 0)),
        ((False, Reason.DEVICE_DOWN, 9), (False, Reason.NO_CAPACITY, 7), (False, Reason.NO_CAPACITY, 7)),
        ((False, Reason.UNKNOWN_POOL, 0), (False, Reason.DEVICE_DOWN, 9), (False, None, 0)),
    ],
)
def test_flows_on_two_pools_share_the_pages_and_need_both_tickets(
    iaa: tuple[bool, Reason | None, int],
    qat: tuple[bool, Reason | None, int],
    together: tuple[bool, Reason | None, int],
) -> None:
    client = Answers(iaa=_answer(iaa), qat=_answer(qat))
    flows = [TicketFlow("f", replace(POOL, pool=pool), COST) for pool in ("iaa", "qat")]
    assert asyncio.run(FlowTickets(client, flows, lambda: None).ask(1001, LIMIT_NS)) == _answer(together)
    assert client.costs == {"iaa": 501 * PAGE_NS, "qat": 501 * PAGE_NS}


def _answer(words: tuple[bool, Reason | None, int]) -> TicketAnswer:
    granted, reason, retry_ns = words
    return TicketAnswer(granted=granted, reason=reason, retry_ns=retry_ns)
