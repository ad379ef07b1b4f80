"""Rows 3, 4, 5, 9, 18 of the reference: reservations, caps, floors, CRITICAL and tickets, in every interval."""

from dataclasses import dataclass, replace

import pytest

from scheduler.core.effects import Granted, Reason, TicketDenied, TicketGranted
from scheduler.core.events import PoolOpened, TicketRequested
from scheduler.core.units import Phase, ServiceClass
from tests.scheduler.core.toy_device import ENDLESS_NS, ENGINES, MS, POOL, S, Span, ToyPool, Vm


def test_row_03_reservations_get_r_t_minus_one_lease_in_every_interval() -> None:
    world = ToyPool(tick_ns=50 * MS)
    reserved = [Vm(f"r{part}", reservation_ns_s=part * ENGINES * S // 100) for part in (10, 20, 40)]
    world.add(*reserved, *(Vm(f"f{i}", 8) for i in range(20)))
    world.run(1 * S)
    spans = {vm: Span() for vm in reserved}
    windows: dict[Vm, list[int]] = {vm: [] for vm in reserved}
    start_ns = world.now_ns

    def look() -> None:
        for vm, span in spans.items():
            granted_ns = world.pool.flows[vm.name].granted_ns
            windows[vm].append(granted_ns)
            span.see(granted_ns - vm.reservation_ns_s * (world.now_ns - start_ns) / S)

    world.run(60 * S, look)
    lease_ns = world.pool.capacity.lease_cost_ns
    assert max(span.fall for span in spans.values()) <= lease_ns
    second = S // world.tick_ns
    for vm, seen in windows.items():
        least = min(later - earlier for earlier, later in zip(seen, seen[second:], strict=False))
        assert least >= vm.reservation_ns_s - lease_ns
    # And what is over goes to the others.
    assert all(world.pool.flows[f"f{i}"].granted_ns > 0 for i in range(20))


@pytest.mark.parametrize("reserved", [False, True])
@pytest.mark.parametrize("alone", [False, True])
def test_row_04_a_cap_is_never_exceeded_by_more_than_a_lease(reserved: bool, alone: bool) -> None:
    world = ToyPool(tick_ns=50 * MS)
    cap = ENGINES * S // 10
    capped = [Vm(f"c{i}", 8, cap_ns_s=cap, reservation_ns_s=cap if reserved else 0) for i in range(3)]
    world.add(*capped, *([] if alone else [Vm(f"f{i}") for i in range(5)]))
    spans = {vm: Span() for vm in capped}

    def look() -> None:
        for vm, span in spans.items():
            # Asleep for a while: what was not used then must not be had afterwards.
            vm.backlog_ns = ENDLESS_NS if world.now_ns // (2 * S) % 3 else 0
            span.see(world.pool.flows[vm.name].granted_ns - cap * world.now_ns / S)

    world.run(60 * S, look)
    lease_ns = world.pool.capacity.lease_cost_ns
    assert max(span.rise for span in spans.values()) <= lease_ns
    assert all(vm.done_ns > 0.5 * cap * 60 for vm in capped)


@dataclass(frozen=True)
class Starved:
    """A floor, in permille, under a class that everybody else is above."""

    phase: Phase
    served: ServiceClass
    permille: int
    seconds: int


@pytest.mark.parametrize(
    "case",
    [
        Starved(Phase.PRECOPY, ServiceClass.BULK, 100, 3600),
        Starved(Phase.BACKGROUND, ServiceClass.BACKGROUND, 20, 600),
    ],
    ids=str,
)
def test_row_05_starvation_gap_under_saturating_critical_is_within_the_bound(case: Starved) -> None:
    world = ToyPool(replace(POOL, horizon_ns=1 * S, lease_ns=500 * MS, critical_lease_ns=250 * MS), tick_ns=500 * MS)
    low = Vm("low", phase=case.phase)
    world.add(low, *(Vm(f"c{i}", phase=Phase.POSTCOPY) for i in range(2)))
    assert world.scheduler.next_wakeup() is None
    lease_ns = world.pool.capacity.lease_cost_ns
    others, gaps, before, lows = 0, [], 0, 0
    for _ in range(case.seconds * S // world.tick_ns):
        world.now_ns += world.tick_ns
        world._work(ENGINES * world.tick_ns)
        world.report()
        granted = world.pool.counts.granted_ns
        grants = world.pool.flows["low"].grants
        low_granted = world.pool.flows["low"].granted_ns
        if grants > lows:
            gaps.append(others)
            lows, others = grants, 0
        else:
            others += granted - before
        before = granted
        assert low_granted <= granted
    bound_ns = lease_ns * 1000 // case.permille + lease_ns
    assert max(gaps) <= bound_ns
    # What the pool itself counts, in time: ticks are what it can be seen at.
    gap_ns = world.pool.turns.gaps_ns[case.served]
    assert gap_ns <= bound_ns // ENGINES + 2 * world.tick_ns
    assert world.pool.flows["low"].granted_ns >= world.pool.counts.granted_ns * case.permille // 1000 - lease_ns


def test_row_09_critical_is_granted_at_once_though_bulk_holds_every_slot_and_all_of_the_horizon() -> None:
    world = ToyPool()
    world.add(*(Vm(f"f{i}") for i in range(40)))
    world.run(2 * S)
    pool = world.pool
    assert pool.ledger.outstanding_ns >= POOL.horizon_ns * ENGINES
    stopped = Vm("stopped", phase=Phase.STOPPED, backlog_ns=20 * MS)
    world.add(stopped)
    effects = world.report("stopped")
    granted = [effect.lease for effect in effects if isinstance(effect, Granted) and effect.lease.flow == "stopped"]
    assert [(lease.service_class, lease.window > 0) for lease in granted] == [(ServiceClass.CRITICAL, True)]
    assert granted[0].budget_until_ns > 0
    assert pool.flows["stopped"].counted == 0


@dataclass(frozen=True)
class Pause:
    """200 guests want to stop together; each needs this much work done within this time."""

    cost_ns: int
    within_ns: int


@pytest.mark.parametrize("case", [Pause(4 * MS, 100 * MS), Pause(1 * MS, 20 * MS), Pause(30 * MS, 300 * MS)], ids=str)
def test_row_18_tickets_for_200_guests_miss_no_deadline_and_use_the_reserve(case: Pause) -> None:
    world = ToyPool(replace(POOL, slots=256, critical_slots=64))
    settings = world.settings
    world.add(*(Vm(f"f{i}", backlog_ns=0) for i in range(200)))
    waiting = [f"f{i}" for i in range(200)]
    rate = settings.engines * settings.critical_slots / settings.slots
    worst, promised, rounds = 0.0, 0.0, 0
    while waiting:
        rounds += 1
        assert rounds < 100
        held: list[tuple[str, TicketGranted]] = []
        retries = []
        for name in waiting:
            event = TicketRequested(name, settings.pool, rounds, case.cost_ns, case.within_ns)
            (effect,) = world.scheduler.handle(event, world.now_ns)
            if isinstance(effect, TicketGranted):
                held.append((name, effect))
            else:
                assert isinstance(effect, TicketDenied)
                assert effect.reason is Reason.NO_CAPACITY
                retries.append(effect.retry_ns)
        assert held
        assert all(retry > 0 for retry in retries)
        # All stop now: the reserve serves them first come, first served, by slots.
        assert sum(effect.lease.window for _, effect in held) <= settings.critical_slots
        left = {name: float(case.cost_ns) for name, _ in held}
        slots = {name: effect.lease.window for name, effect in held}
        done_ns = 0.0
        while left:
            share = rate / max(sum(slots[name] for name in left), 1)
            step = min(left[name] / (share * slots[name]) for name in left)
            done_ns += step
            left = {n: c - share * slots[n] * step for n, c in left.items() if c - share * slots[n] * step > 1e-3}
        worst = max(worst, done_ns / case.within_ns)
        if retries:
            usable = world.pool.book.usable(learning=False)
            promised = max(promised, sum(effect.lease.window for _, effect in held) / usable)
        for name, _ in held:
            waiting.remove(name)
        world.now_ns += max(retries, default=0)
        world.scheduler.validate()
    assert worst <= 1
    assert promised >= 0.8


def test_pool_that_is_opened_again_with_other_settings_keeps_to_these() -> None:
    world = ToyPool()
    settings = replace(POOL, background_floor=300, lease_ns=100 * MS)
    world.scheduler.handle(PoolOpened(settings), world.now_ns)
    low, high = Vm("low", phase=Phase.BACKGROUND), Vm("high")
    world.add(low, high)
    world.run(60 * S)
    assert 0.27 * (low.done_ns + high.done_ns) <= low.done_ns <= 0.33 * (low.done_ns + high.done_ns)
    assert world.pool.delay.target_ns == 2 * settings.lease_ns
