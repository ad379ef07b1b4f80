"""Who is served: shares of those that sleep, lie, come and go, and what a class above leaves to one below."""

from scheduler.core.effects import Alarm, Fenced, Reason
from scheduler.core.events import (
    DeviceSample,
    FlowClosed,
    FlowOpened,
    FlowReport,
    HostReported,
    PoolOpened,
    PoolSettings,
    TenantRemoved,
)
from scheduler.core.fair import SCALE
from scheduler.core.machine import Scheduler
from scheduler.core.units import NS_PER_S, AcceleratorKind, Phase
from tests.scheduler.core.protocol_machine import MS, POOL, ProtocolMachine
from tests.scheduler.core.test_leases import F0, F1, F2, begun

#: Of tenant t, as F0.
SAME_TENANT = F2


def rounds(machine: ProtocolMachine, count: int, *flows: int, done: bool = False) -> dict[int, int]:
    """Each flow in turn does what it was granted and says so; what each did."""
    before = {flow: machine.holder(flow).used_ns for flow in flows}
    for _ in range(count):
        machine.wait(40 * MS)
        for flow in flows:
            machine.work(flow, part=1, done=done)
            machine.exchange(flow)
            machine.drain(flow)
            machine.what_must_hold_holds()
    return {flow: machine.holder(flow).used_ns - before[flow] for flow in flows}


def test_flow_that_slept_has_no_claim_on_the_time_before() -> None:
    machine = begun(wanting=(F0,))
    rounds(machine, 20, F0)
    machine.want(SAME_TENANT, 40 * MS)
    done = rounds(machine, 20, F0, SAME_TENANT)
    assert abs(done[F0] - done[SAME_TENANT]) <= 100 * MS


def test_flow_is_served_by_work_and_not_by_number_of_leases() -> None:
    machine = begun(wanting=(F0,))
    machine.want(SAME_TENANT, 5 * MS)
    rounds(machine, 10, F0, SAME_TENANT)


def test_background_has_its_floor_and_no_more_beside_bulk() -> None:
    machine = begun()
    machine.change(F1, Phase.BACKGROUND, 1, None, 0, 0)
    machine.want(F0, 40 * MS)
    machine.want(F1, 40 * MS)
    done = rounds(machine, 100, F0, F1)
    assert done[F1] > 0
    assert done[F1] * 1000 <= 40 * sum(done.values()) + 2 * 10 * MS * 1000


def test_class_that_comes_and_goes_gets_no_more_than_its_floor() -> None:
    machine = begun()
    machine.change(F1, Phase.BACKGROUND, 1, None, 0, 1000 * MS)
    machine.want(F0, 40 * MS)
    machine.want(F1, 5 * MS)
    done = rounds(machine, 100, F0, F1)
    assert done[F1] * 1000 <= 40 * sum(done.values()) + 2 * 10 * MS * 1000


def test_capped_flow_gets_its_cap_and_one_lease() -> None:
    machine = begun()
    machine.change(F0, Phase.PRECOPY, 1, None, 0, 300 * MS)
    machine.want(F0, 40 * MS)
    assert rounds(machine, 50, F0)[F0] <= 50 * 40 * MS * 300 // 1000 + 2 * 10 * MS


def test_reserved_flow_gets_its_reservation_beside_heavier_ones() -> None:
    machine = begun()
    machine.change(F0, Phase.PRECOPY, 1, None, 300 * MS, 0)
    machine.change(SAME_TENANT, Phase.PRECOPY, 9, None, 0, 0)
    machine.want(F0, 40 * MS)
    machine.want(SAME_TENANT, 40 * MS)
    began_ns = machine.world.now_ns
    done = rounds(machine, 50, SAME_TENANT, F0)
    assert done[F0] >= 300 * (machine.world.now_ns - began_ns) // 1000 - 3 * 10 * MS


def test_holder_that_never_says_what_it_did_takes_no_work_from_others() -> None:
    machine = begun()
    machine.want(F0, 10**18)
    machine.want(F1, 40 * MS)
    for number in (F1, F0) * 3:
        machine.exchange(number)
        machine.drain(number)
    before_ns = machine.holder(F1).used_ns
    for _ in range(30):
        rounds(machine, 1, F1)
        machine.exchange(F0)
    assert machine.holder(F1).used_ns - before_ns >= 30 * 40 * MS // 3


def test_work_that_nobody_granted_is_paid_for_and_takes_no_time_to_handle() -> None:
    machine = begun(wanting=(F0, SAME_TENANT))
    machine.holder(F0).used_ns += 10**18
    machine.exchange(F0)
    done = rounds(machine, 20, F0, SAME_TENANT)
    assert done[F0] < done[SAME_TENANT]


def test_work_that_the_device_saw_is_not_given_back_as_undone() -> None:
    machine = begun(wanting=(F0,))
    liar = machine.holder(F0)
    flow = machine.world.scheduler.pools[POOL.pool].flows["f0"]
    assert liar.held is not None
    work_ns = liar.held.lease.budget_until_ns - liar.used_ns
    for sequence, busy_ns in enumerate((0, work_ns), start=1):
        machine.wait(40 * MS)
        sample = DeviceSample(POOL.pool, busy_ns, sequence, 0, 0, 1)
        machine.handle(HostReported("device", machine.epoch, sequence, (), (sample,)))
    paid = flow.finish
    liar.give_back()
    machine.want(F0, 0)
    machine.exchange(F0)
    assert not flow.lease
    lease_ns = machine.world.scheduler.pools[POOL.pool].capacity.lease_cost_ns
    assert work_ns > lease_ns
    assert flow.finish >= paid - lease_ns * SCALE // flow.weight


def test_host_speaks_for_its_own_flows_only() -> None:
    machine = begun(wanting=(F0,))
    flow = machine.world.scheduler.pools[POOL.pool].flows["f0"]
    counted = flow.counted
    lie = FlowReport("f0", POOL.pool, 0, flow.used_ns, flow.lease, 0, released=True)
    effects = machine.handle(HostReported("b", machine.epoch, 1000, (lie,)))
    assert Fenced("b", "f0", POOL.pool, Reason.UNKNOWN_FLOW) in effects
    assert flow.counted == counted > 0


def test_tenant_that_comes_back_weighs_what_an_unknown_one_does() -> None:
    machine = begun()
    machine.weigh("u", 4)
    machine.handle(TenantRemoved("u"))
    machine.handle(machine.opened["f1"])
    assert machine.world.scheduler.pools[POOL.pool].flows["f1"].tenant.weight == 1


def test_reservations_beyond_what_can_be_kept_are_refused_aloud_and_the_flow_is_served_without() -> None:
    scheduler = Scheduler(1, 0, False)
    settings = PoolSettings("p", "h", AcceleratorKind.IAA, slots=100, critical_slots=20, engines=10)
    scheduler.handle(PoolOpened(settings), 0)
    # 80 % of what is not the reserve.
    most_ns_s = 10 * NS_PER_S * 64 // 100
    assert not [each for each in scheduler.handle(reserving("a", most_ns_s), 0) if isinstance(each, Alarm)]
    (alarm,) = (each for each in scheduler.handle(reserving("b", 1), 0) if isinstance(each, Alarm))
    assert "b goes without its reservation" in alarm.what
    assert scheduler.pools["p"].flows["b"].reservation_ns_s == 0
    # What is given back may be promised again, and a change counts its own as free.
    scheduler.handle(reserving("a", most_ns_s - 1), 0)
    assert not [each for each in scheduler.handle(reserving("b", 1), 0) if isinstance(each, Alarm)]
    scheduler.handle(FlowClosed("a", "p"), 0)
    assert not [each for each in scheduler.handle(reserving("c", most_ns_s - 1), 0) if isinstance(each, Alarm)]


def reserving(flow: str, reservation_ns_s: int) -> FlowOpened:
    return FlowOpened(flow, "p", "t", 1, reservation_ns_s=reservation_ns_s)
