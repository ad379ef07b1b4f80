"""Mistakes that are easily made in such a scheduler, planted one by one: each must be found.

By the state machine where it finds it with the number of examples that the suite has, by a case of its own otherwise.
"""

from collections.abc import Callable
from dataclasses import replace

import pytest

from scheduler.core import capacity as capacity_module
from scheduler.core import pool as pool_module
from scheduler.core.answers import Answers
from scheduler.core.effects import Granted, Reason, TicketGranted
from scheduler.core.events import FlowReport
from scheduler.core.fair import FairQueue
from scheduler.core.floors import Floors
from scheduler.core.flow import Flow
from scheduler.core.leases import life_ns
from scheduler.core.pool import PoolScheduler
from scheduler.core.pool_leases import PoolLeases
from scheduler.core.slots import Slots
from scheduler.core.ticket_desk import TicketDesk
from scheduler.core.units import ServiceClass
from tests.scheduler.core import test_leases as leases
from tests.scheduler.core import test_machine as machine
from tests.scheduler.core import test_tickets as tickets
from tests.scheduler.core.naive_model import Host, World
from tests.scheduler.core.protocol_machine import ProtocolMachine, run

Mutation = Callable[[pytest.MonkeyPatch], None]


def no_guard_band(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(capacity_module, "life_ns", lambda ttl_ns, clock_ppm, drain_ns: ttl_ns + drain_ns)


def no_time_to_drain(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(capacity_module, "life_ns", lambda ttl_ns, clock_ppm, drain_ns: life_ns(ttl_ns, clock_ppm, 0))


def unknown_leases_revived(patch: pytest.MonkeyPatch) -> None:
    acknowledge = PoolLeases.acknowledge

    def revive(self: PoolLeases, flow: Flow, report: FlowReport, *, learning: bool) -> Reason | None:
        if not flow.lease and report.window:
            flow.lease, flow.window = report.lease, report.window
            self._slots.count(flow, report.window, 0)
        return acknowledge(self, flow, report, learning=learning)

    patch.setattr(PoolLeases, "acknowledge", revive)


def deadline_from_the_reply(patch: pytest.MonkeyPatch) -> None:
    def late(self: World, host: Host, effect: Granted | TicketGranted, stamp_ns: int) -> int:
        return host.clock.at(self.now_ns) + effect.lease.ttl_ns

    patch.setattr(World, "deadline_ns", late)


def no_learning(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(PoolScheduler, "learning", lambda self, now_ns: False)


def cap_tag_rolled_back(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(pool_module, "charge_cap", lambda flow, cost_ns, now_ns: None)


def sleepers_get_a_bonus(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(FairQueue, "start_tag", staticmethod(lambda virtual, finish: finish))


def leases_capped_by_count(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Flow, "backlogged", property(lambda self: self.demand_ns > 0 and self.granted_ns == self.used_ns))


def strict_priority(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Floors, "due", lambda self, service_class: False)


def floors_forget(patch: pytest.MonkeyPatch) -> None:
    begin = Floors.begin

    def forget(self: Floors, service_class: ServiceClass) -> None:
        begin(self, service_class)
        self._credit[service_class] = 0

    patch.setattr(Floors, "begin", forget)


def shrink_counted_at_once(patch: pytest.MonkeyPatch) -> None:
    set_window = Slots.set_window

    def count(self: Slots, flow: Flow, window: int, reserve_window: int) -> None:
        set_window(self, flow, window, reserve_window)
        if window < flow.counted:
            self.general_counted += window - flow.counted
            flow.counted = window

    patch.setattr(Slots, "set_window", count)


def life_may_get_shorter(patch: pytest.MonkeyPatch) -> None:
    renew = PoolLeases.renew

    def shorter(self: PoolLeases, flow: Flow, now_ns: int) -> None:
        flow.expires_ns = 0
        renew(self, flow, now_ns)

    patch.setattr(PoolLeases, "renew", shorter)


def closed_flows_forgotten(patch: pytest.MonkeyPatch) -> None:
    close = PoolScheduler.close

    def forget(self: PoolScheduler, name: str) -> None:
        flow = self.flows.get(name)
        close(self, name)
        if flow is not None and self.leases.closing.pop(flow.number, None) is not None:
            self.slots.count(flow, 0, 0)

    patch.setattr(PoolScheduler, "close", forget)


def adopted_leases_grow(patch: pytest.MonkeyPatch) -> None:
    acknowledge = PoolLeases.acknowledge

    def grow(self: PoolLeases, flow: Flow, report: FlowReport, *, learning: bool) -> Reason | None:
        void = acknowledge(self, flow, report, learning=learning)
        slots = self._slots
        if flow.window and flow.counted == flow.window and slots.general_free:
            slots.set_window(flow, flow.window + slots.general_free, flow.reserve_window)
            slots.count(flow, flow.window, flow.reserve_counted)
        return void

    patch.setattr(PoolLeases, "acknowledge", grow)


def ticket_lives_anew(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(TicketDesk, "left_ns", lambda self, ticket, now_ns: self._capacity.settings.critical_ttl_ns)


def refunds_without_audit(patch: pytest.MonkeyPatch) -> None:
    give_back = PoolLeases.give_back

    def believe(self: PoolLeases, flow: Flow) -> None:
        self._watch.unexplained_ns = 0
        give_back(self, flow)

    patch.setattr(PoolLeases, "give_back", believe)


def told_the_life_of_another_class(patch: pytest.MonkeyPatch) -> None:
    lease = Answers.lease

    def told(self: Answers, flow: Flow) -> Granted:
        granted = lease(self, flow)
        return replace(granted, lease=replace(granted.lease, ttl_ns=self._capacity.life_of(flow)[0]))

    patch.setattr(Answers, "lease", told)


def adopted_from_old_reports(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(PoolLeases, "confirm", lambda self, flow, *, presented: None)


#: What the state machine finds with the suite's number of examples.
FOUND_BY_MACHINE: tuple[Mutation, ...] = (unknown_leases_revived, no_learning)

FOUND_BY_CASE: tuple[tuple[Mutation, Callable[[], None]], ...] = (
    (no_guard_band, leases.test_slots_of_a_silent_holder_are_given_on_when_it_must_have_stopped),
    (no_time_to_drain, leases.test_slots_of_a_silent_holder_are_given_on_when_it_must_have_stopped),
    (unknown_leases_revived, leases.test_lease_that_has_ended_is_not_revived),
    (deadline_from_the_reply, leases.test_life_of_a_lease_is_counted_from_when_its_report_was_sent),
    (no_learning, tickets.test_tickets_of_before_a_restart_and_of_after_it_fit_together),
    (cap_tag_rolled_back, machine.test_capped_flow_gets_its_cap_and_one_lease),
    (sleepers_get_a_bonus, machine.test_flow_that_slept_has_no_claim_on_the_time_before),
    (leases_capped_by_count, machine.test_flow_is_served_by_work_and_not_by_number_of_leases),
    (strict_priority, machine.test_background_has_its_floor_and_no_more_beside_bulk),
    (floors_forget, machine.test_class_that_comes_and_goes_gets_no_more_than_its_floor),
    (shrink_counted_at_once, leases.test_smaller_window_counts_when_its_holder_has_acknowledged_it),
    (life_may_get_shorter, leases.test_class_with_a_shorter_life_takes_nothing_off_the_life_of_a_lease),
    (closed_flows_forgotten, leases.test_closed_flow_keeps_its_slots_until_its_holder_must_have_stopped),
    (adopted_leases_grow, lambda: leases.test_after_a_restart_nothing_is_granted_but_what_is_adopted(heard=True)),
    (adopted_from_old_reports, leases.test_lease_that_is_adopted_from_an_old_report_is_not_revived_by_a_new_one),
    (
        told_the_life_of_another_class,
        leases.test_holder_is_told_the_life_that_is_counted_though_its_class_changes_with_the_grant,
    ),
    (ticket_lives_anew, tickets.test_ticket_asked_for_again_has_the_life_it_has_left),
    (refunds_without_audit, machine.test_work_that_the_device_saw_is_not_given_back_as_undone),
)


@pytest.mark.parametrize("mutation", FOUND_BY_MACHINE, ids=lambda mutation: mutation.__name__)
def test_mutant_is_found_by_the_state_machine(mutation: Mutation, monkeypatch: pytest.MonkeyPatch) -> None:
    mutation(monkeypatch)
    with pytest.raises(AssertionError):
        run(ProtocolMachine)


@pytest.mark.parametrize(("mutation", "case"), FOUND_BY_CASE, ids=[mutation.__name__ for mutation, _ in FOUND_BY_CASE])
def test_mutant_is_found_by_its_case(
    mutation: Mutation, case: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    case()
    mutation(monkeypatch)
    with pytest.raises(AssertionError):
        case()
