"""No holder, however late, slow or silent, has slots that somebody else was given: single cases, to the nanosecond."""

import pytest

from scheduler.core.events import FlowClosed, Ticked
from scheduler.core.leases import life_ns
from scheduler.core.units import Phase, ServiceClass
from tests.scheduler.core.protocol_machine import MS, POOL, ProtocolMachine

FAST_SCHEDULER_SLOW_HOLDERS = (500, -500, -500, -500)
#: Holders of tenant t on hosts a and c, and one of tenant u on host b.
F0, F1, F2 = 0, 1, 2


def begun(*, wanting: tuple[int, ...] = ()) -> ProtocolMachine:
    """Three flows that want nothing, but those that are named: these have leases, in that order."""
    machine = ProtocolMachine()
    machine.begin(FAST_SCHEDULER_SLOW_HOLDERS)
    for number in (*range(3), *range(3)):
        machine.want(number, 0)
        machine.exchange(number)
        machine.work(number, part=1, done=True)
        machine.exchange(number)
    for number in wanting:
        machine.want(number, 40 * MS)
        machine.exchange(number)
    return machine


def check_until_the_other_is_served(machine: ProtocolMachine, other: int) -> None:
    """From now on at every moment that matters `other` asks for slots; until it has them."""
    machine.want(other, 40 * MS)
    for _ in range(60):
        machine.wait_for_boundary(0, tick=True)
        machine.exchange(other)
        machine.what_must_hold_holds()
        if machine.holder(other).held is not None:
            return
    raise AssertionError("the slots of a holder that is gone came back to nobody")


def test_slots_of_a_silent_holder_are_given_on_when_it_must_have_stopped() -> None:
    machine = begun(wanting=(F0,))
    assert machine.holder(F0).general == 16
    check_until_the_other_is_served(machine, F1)


def test_life_of_a_lease_is_counted_from_when_its_report_was_sent() -> None:
    machine = begun()
    machine.want(F0, 40 * MS)
    call = machine.world.send(machine.world.hosts[0])
    machine.wait(40 * MS)
    machine.deliver(0, again=False)
    machine.wait(40 * MS)
    machine.wait(40 * MS)
    machine.hear(len(machine.world.answers) - 1)
    held = machine.holder(F0).held
    assert held is not None
    assert held.deadline_ns == call.stamp_ns + POOL.ttl_ns
    check_until_the_other_is_served(machine, F1)


def test_first_lease_ends_though_its_holder_never_hears_of_it() -> None:
    machine = begun()
    machine.want(F0, 40 * MS)
    machine.send(0)
    machine.deliver(0, again=False)
    check_until_the_other_is_served(machine, F1)


def test_second_lease_of_a_flow_does_not_end_with_the_first() -> None:
    machine = begun(wanting=(F0,))
    machine.work(F0, part=1, done=True)
    machine.want(F0, 0)
    machine.exchange(0)
    machine.world.wait(machine.world.now_ns + POOL.ttl_ns)
    machine.want(F0, 40 * MS)
    machine.exchange(0)
    machine.wait(40 * MS)
    check_until_the_other_is_served(machine, F1)


def test_class_with_a_shorter_life_takes_nothing_off_the_life_of_a_lease() -> None:
    machine = begun(wanting=(F0,))
    machine.world.wait(machine.world.now_ns + POOL.ttl_ns - 100 * MS)
    machine.exchange(F0)
    machine.change(F0, Phase.POSTCOPY, 1, None, 0, 0)
    machine.send(0)
    machine.deliver(0, again=False)
    check_until_the_other_is_served(machine, F1)


def test_holder_is_told_the_life_that_is_counted_though_its_class_changes_with_the_grant() -> None:
    machine = begun()
    machine.change(F0, Phase.PRECOPY, 1, 0, 0, 0)
    machine.want(F0, 40 * MS)
    flow = machine.world.scheduler.pools[POOL.pool].flows["f0"]
    # It has been raised for long enough that the next grant is the last.
    flow.boost_ns = 1
    assert flow.service_class is ServiceClass.CRITICAL
    machine.world.wait(machine.world.now_ns + 2 * POOL.ttl_ns)
    flow.boost_at_ns = machine.world.clock.at(machine.world.now_ns)
    machine.exchange(F0)
    assert machine.holder(F0).held is not None
    assert flow.service_class is ServiceClass.BULK


def test_smaller_window_counts_when_its_holder_has_acknowledged_it() -> None:
    machine = begun(wanting=(F0,))
    machine.work(F0, part=2, done=False)
    machine.want(F1, 40 * MS)
    machine.exchange(F1)
    machine.send(F0)
    machine.deliver(0, again=False)
    machine.exchange(F1)
    assert machine.holder(F1).held is None
    machine.what_must_hold_holds()
    machine.exchange(F0)
    machine.drain(F0)
    machine.exchange(F0)
    machine.exchange(F1)
    assert machine.holder(F1).held is not None
    machine.what_must_hold_holds()


def test_window_that_was_taken_away_and_given_anew_is_still_the_old_one_until_acknowledged() -> None:
    machine = begun(wanting=(F0,))
    machine.flip_pool(opened=False)
    machine.flip_pool(opened=True)
    machine.want(F1, 40 * MS)
    for _ in range(5):
        machine.send(0)
        machine.deliver(0, again=False)
        machine.exchange(F1)
        machine.what_must_hold_holds()


def test_closed_flow_keeps_its_slots_until_its_holder_must_have_stopped() -> None:
    machine = begun(wanting=(F0,))
    machine.handle(FlowClosed("f0", POOL.pool))
    check_until_the_other_is_served(machine, F1)


@pytest.mark.parametrize("heard", [False, True])
def test_after_a_restart_nothing_is_granted_but_what_is_adopted(heard: bool) -> None:
    machine = begun(wanting=(F0,))
    machine.want(F1, 40 * MS)
    machine.exchange(F1)
    machine.work(F0, part=2, done=False)
    for number in (F0, F1) * 3:
        machine.exchange(number)
        machine.drain(number)
    assert machine.holder(F0).general > 0
    assert machine.holder(F1).general > 0
    machine.restart()
    began_ns = machine.world.clock.at(machine.world.now_ns)
    if heard:
        machine.exchange(F0)
        machine.exchange(F0)
        assert machine.holder(F0).held is not None
        assert machine.holder(F0).newest[0] == 2
    machine.want(F2, 40 * MS)
    while machine.world.clock.at(machine.world.now_ns) < began_ns + life_ns(POOL.ttl_ns, POOL.clock_ppm, POOL.drain_ns):
        machine.exchange(F2)
        machine.what_must_hold_holds()
        assert machine.holder(F2).held is None
        if heard:
            machine.exchange(F0)
            machine.what_must_hold_holds()
        machine.wait(100 * MS)


def test_lease_that_is_adopted_from_an_old_report_is_not_revived_by_a_new_one() -> None:
    machine = begun(wanting=(F0,))
    machine.send(0)
    machine.world.wait(machine.world.now_ns + 2 * POOL.ttl_ns)
    machine.handle(Ticked())
    machine.want(F1, 40 * MS)
    machine.exchange(F1)
    assert machine.holder(F1).general == 16
    machine.restart()
    machine.deliver(0, again=False)
    for _ in range(3):
        machine.exchange(F0)
        machine.what_must_hold_holds()
        assert machine.holder(F0).held is None


def test_lease_that_has_ended_is_not_revived() -> None:
    machine = begun(wanting=(F0,))
    machine.send(0)
    machine.world.wait(machine.world.now_ns + 2 * POOL.ttl_ns)
    machine.handle(Ticked())
    machine.want(F1, 40 * MS)
    machine.exchange(F1)
    assert machine.holder(F1).general == 16
    machine.deliver(0, again=False)
    machine.what_must_hold_holds()
    assert machine.world.scheduler.pools[POOL.pool].flows["f0"].counted == 0
