"""The service: ticks that are lost, repeated or late, hosts that come, go and come back, and what it keeps for them."""

from typing import Any

import pytest

from scheduler.core.effects import Alarm, Effect, EpochBegan, Fenced, Granted, Lease, Outlook, Reason, TicketGranted
from scheduler.core.events import (
    Event,
    FlowClosed,
    FlowOpened,
    HostReported,
    PoolClosed,
    PoolOpened,
    PoolSettings,
    TenantRemoved,
    TenantSet,
    Ticked,
    TicketRequested,
)
from scheduler.core.units import AcceleratorKind, ServiceClass
from scheduler.service import SILENT_NS, SchedulerService
from scheduler.ticks import News, OpenFlow, OpenPool, RequestTicket, Tick, TickAnswer
from tests.scheduler.epoch_memory import Clock, EpochMemory

MS = 1_000_000
TTL_NS = 3_000 * MS


class ScriptedCore:
    """Remembers events, and answers the next report with what it was told to."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.answers: list[Effect] = []
        self.wakeup_ns: int | None = None
        self.begun: tuple[int, bool] = (0, False)

    def begin(self, epoch: int, now_ns: int, learning: bool) -> "ScriptedCore":
        self.begun = epoch, learning
        return self

    def handle(self, event: Event, now_ns: int) -> list[Effect]:
        self.events.append(event)
        if isinstance(event, HostReported):
            answers, self.answers = self.answers, []
            return answers
        return []

    def next_wakeup(self) -> int | None:
        return self.wakeup_ns

    def statistics(self) -> Any:
        return len(self.events)

    def seen(self, kind: type[Event]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]


class World:
    def __init__(self) -> None:
        self.store, self.clock, self.core = EpochMemory(), Clock(), ScriptedCore()
        self.service = SchedulerService(self.store, self.core.begin, self.clock)

    def tick(self, sequence: int, *news: News, host: str = "a", incarnation: int = 1, **more: Any) -> TickAnswer:
        complete = more.pop("complete", sequence == 1)
        return self.service.tick(Tick(host, incarnation, sequence, 0, news, complete=complete, **more))


@pytest.fixture
def world() -> World:
    return World()


def pool(name: str = "a/iaa/0", host: str = "a") -> OpenPool:
    return OpenPool(PoolSettings(name, host, AcceleratorKind.IAA, 128, 16, 8))


def flow(name: str, **more: Any) -> OpenFlow:
    return OpenFlow(name, "a/iaa/0", "fleet", 1, **more)


def granted(host: str = "a", number: int = 1, flow_name: str = "f") -> Granted:
    return Granted(host, Lease(number, flow_name, f"{host}/iaa/0", 1, ServiceClass.BULK, 8, 100, TTL_NS))


def test_the_first_epoch_needs_no_learning_and_every_other_does() -> None:
    world = World()
    assert world.core.begun == (1, False)
    again = ScriptedCore()
    SchedulerService(world.store, again.begin, world.clock)
    assert again.begun == (2, True)


def test_a_repeated_tick_has_the_answer_it_had_and_is_handled_once(world: World) -> None:
    world.core.answers = [granted()]
    first = world.tick(1, pool(), flow("f"))
    assert [effect for _, effect in first.effects] == [granted()]
    assert world.tick(1, pool(), flow("f")) == first
    assert len(world.core.seen(HostReported)) == 1
    assert world.service.statistics().repeated == 1


def test_a_tick_that_was_overtaken_changes_nothing(world: World) -> None:
    world.tick(1)
    world.tick(3)
    assert world.tick(2, flow("late"), first_news=1).effects == ()
    assert world.core.seen(FlowOpened) == []
    assert world.service.statistics().stale == 1


def test_news_that_is_told_again_is_handled_once(world: World) -> None:
    assert world.tick(1, pool(), flow("f")).acknowledged == 2
    assert world.tick(2, flow("f"), flow("g"), first_news=2).acknowledged == 3
    assert [event.flow for event in world.core.seen(FlowOpened)] == ["f", "g"]


def test_effects_are_told_until_they_are_acknowledged(world: World) -> None:
    fenced = Fenced("a", "f", "a/iaa/0", Reason.EXPIRED)
    world.core.answers = [fenced]
    world.tick(1)
    assert world.tick(2).effects == ((1, fenced),)
    assert world.tick(3, acknowledged=1).effects == ()


def test_effects_for_another_host_wait_for_its_tick(world: World) -> None:
    world.tick(1, host="a")
    world.tick(1, host="b", incarnation=2)
    world.core.answers = [Outlook("b", "f", "p", 1, 1, Reason.QUEUED)]
    assert world.tick(2, host="a").effects == ()
    assert len(world.tick(2, host="b", incarnation=2).effects) == 1


def test_a_lease_that_a_report_did_not_bring_is_never_told(world: World) -> None:
    """It may have ended since, or been given back by a host that did not know of it."""
    world.tick(1, host="a")
    world.tick(1, host="b", incarnation=2)
    world.core.answers = [granted("b")]
    world.tick(2, host="a")
    assert world.tick(2, host="b", incarnation=2).effects == ()


def test_a_ticket_is_told_with_the_life_it_has_left_and_not_after_that(world: World) -> None:
    world.tick(1)
    world.core.answers = [TicketGranted("a", 7, granted().lease)]
    world.tick(2)
    world.clock.now_ns += 80 * MS
    ((_, told),) = world.tick(3).effects
    assert isinstance(told, TicketGranted)
    assert told.lease.ttl_ns == TTL_NS - 80 * MS
    world.clock.now_ns += TTL_NS - 80 * MS
    assert world.tick(4).effects == ()


def test_of_what_says_the_same_only_the_newest_waits(world: World) -> None:
    world.tick(1)
    for number in range(1, 1000):
        world.core.answers = [granted(number=number), Fenced("a", "f", "a/iaa/0", Reason.EXPIRED)]
        answer = world.tick(number + 1)
    told = [effect for _, effect in answer.effects]
    assert told == [granted(number=999), Fenced("a", "f", "a/iaa/0", Reason.EXPIRED)]
    assert [number for number, _ in answer.effects] == [1997, 1998]


def test_a_host_that_is_not_known_is_asked_for_everything(world: World) -> None:
    answer = world.tick(5, complete=False)
    assert answer.unknown
    assert (answer.epoch, world.core.events) == (1, [])
    assert not world.tick(6, pool(), complete=True, first_news=40).unknown
    assert len(world.core.seen(PoolOpened)) == 1


def test_a_new_client_replaces_the_one_before_and_closes_what_it_does_not_open(world: World) -> None:
    world.tick(9, pool(), pool("a/qat/0"), flow("f"), complete=True)
    world.tick(1, pool(), incarnation=2)
    assert [event.flow for event in world.core.seen(FlowClosed)] == ["f"]
    assert [event.pool for event in world.core.seen(PoolClosed)] == ["a/qat/0"]
    late = world.tick(10, flow("late"), incarnation=1)
    assert late.replaced
    assert len(world.core.seen(FlowOpened)) == 1


def test_a_silent_host_is_forgotten_and_told_so_when_it_is_back(world: World) -> None:
    world.tick(1, pool(), flow("f"))
    world.clock.now_ns += SILENT_NS + 1
    world.tick(1, host="b", incarnation=2)
    assert world.core.events[-3:-1] == [FlowClosed("f", "a/iaa/0"), PoolClosed("a/iaa/0")]
    assert world.tick(2).unknown


def test_what_a_host_may_not_say_or_makes_no_sense_is_refused_and_the_rest_is_handled(world: World) -> None:
    world.tick(1, pool("b/iaa/0", "b"), flow("f", reservation_ns_s=2, cap_ns_s=1), flow("g"))
    assert world.core.seen(PoolOpened) == []
    assert [event.flow for event in world.core.seen(FlowOpened)] == ["g"]
    assert world.service.statistics().refused == 2


def test_times_are_told_as_durations_and_become_the_services_own(world: World) -> None:
    world.tick(1, flow("f", due_in_ns=5 * MS), RequestTicket("f", "a/iaa/0", 1, 2, 3))
    (opened,) = world.core.seen(FlowOpened)
    assert (opened.deadline_ns, opened.host) == (world.clock.now_ns + 5 * MS, "a")
    assert world.core.seen(TicketRequested) == [TicketRequested("f", "a/iaa/0", 1, 2, 3)]


def test_time_that_has_passed_is_told_before_the_report(world: World) -> None:
    world.core.wakeup_ns = world.clock.now_ns
    world.tick(1)
    assert [type(event) for event in world.core.events] == [Ticked, HostReported]
    world.core.wakeup_ns = world.clock.now_ns + 1
    world.tick(2)
    assert [type(event) for event in world.core.events] == [Ticked, HostReported, HostReported]


def test_tenants_are_the_controllers_and_outlive_the_process(world: World) -> None:
    world.service.set_tenant("fleet", 3)
    world.service.set_tenant("gone", 1)
    world.service.remove_tenant("gone")
    assert world.core.events == [TenantSet("fleet", 3), TenantSet("gone", 1), TenantRemoved("gone")]
    again = ScriptedCore()
    SchedulerService(world.store, again.begin, world.clock)
    assert again.events == [TenantSet("fleet", 3)]
    with pytest.raises(ValueError, match="weight 0"):
        world.service.set_tenant("fleet", 0)


def test_alarms_are_kept_for_whoever_looks_and_nobody_elses_effects_are(world: World) -> None:
    world.core.answers = [EpochBegan(1), Alarm("a/iaa/0", "more in the device than was leased"), granted("nobody")]
    assert world.tick(1).effects == ()
    assert [alarm.what for alarm in world.service.statistics().alarms] == ["more in the device than was leased"]
