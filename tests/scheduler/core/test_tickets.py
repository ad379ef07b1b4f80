"""A ticket's slots are its holder's as long as it may use them, whatever becomes of the ticket meanwhile."""

from scheduler.core.effects import TicketGranted
from scheduler.core.events import FlowClosed, TicketRequested
from tests.scheduler.core.protocol_machine import MS, POOL, ProtocolMachine
from tests.scheduler.core.test_leases import F0, F1, begun

#: As much as the reserve can promise, and a quarter of it.
ALL, LITTLE = 9 * MS // 5, 1


def ask(machine: ProtocolMachine, flow: int, request: int, cost_ns: int = ALL) -> bool:
    """Ask for a ticket and hear the answer at once; whether it was granted."""
    holder = machine.holder(flow)
    stamp_ns = holder.host.clock.at(machine.world.now_ns)
    granted = False
    for effect in machine.handle(TicketRequested(holder.flow, POOL.pool, request, cost_ns, 20 * MS)):
        if isinstance(effect, TicketGranted):
            granted = True
            machine.world.apply(holder.host, [(effect, 0, effect.lease.window)], stamp_ns)
    machine.what_must_hold_holds()
    return granted


def ask_until_granted(machine: ProtocolMachine, flow: int) -> None:
    for request in range(100, 160):
        if ask(machine, flow, request):
            return
        machine.wait_for_boundary(0, tick=True)
    raise AssertionError("slots of a ticket that is over came back to nobody")


def test_ticket_ends_by_itself() -> None:
    machine = begun()
    assert ask(machine, F0, 1)
    assert machine.holder(F0).ticket_slots == 3
    assert not ask(machine, F1, 2)
    ask_until_granted(machine, F1)


def test_ticket_asked_for_again_has_the_life_it_has_left() -> None:
    machine = begun()
    assert ask(machine, F0, 1)
    machine.world.wait(machine.world.now_ns + 900 * MS)
    assert ask(machine, F0, 1)
    ask_until_granted(machine, F1)


def test_smaller_ticket_in_place_of_another_takes_no_slots_from_who_has_not_heard_of_it() -> None:
    machine = begun()
    assert ask(machine, F0, 1)
    machine.handle(TicketRequested("f0", POOL.pool, 2, LITTLE, 20 * MS))
    ask_until_granted(machine, F1)


def test_ticket_of_a_closed_flow_counts_until_its_holder_must_have_stopped() -> None:
    machine = begun()
    assert ask(machine, F0, 1)
    machine.handle(FlowClosed("f0", POOL.pool))
    ask_until_granted(machine, F1)


def test_tickets_of_before_a_restart_and_of_after_it_fit_together() -> None:
    machine = begun()
    assert ask(machine, F0, 1)
    machine.restart()
    machine.exchange(F1)
    assert not ask(machine, F1, 2)
    assert ask(machine, F1, 3, LITTLE)
    ask_until_granted(machine, F1)
