"""What must hold of a pool after every event, looked at from all of its flows."""

from scheduler.core.pool import PoolScheduler
from scheduler.core.units import ServiceClass


def check_pool(pool: PoolScheduler) -> None:
    """Raise AssertionError, with the facts, if something does not."""
    _check_slots(pool)
    _check_work(pool)
    _check_flows(pool)
    _check_weights(pool)


def _check_slots(pool: PoolScheduler) -> None:
    name, slots, book = pool.settings.pool, pool.slots, pool.book
    every = [*pool.flows.values(), *pool.leases.closing.values()]
    general = sum(flow.counted for flow in every)
    reserve = sum(flow.reserve_counted for flow in every)
    assert general == slots.general_counted, f"{name}: {general} slots are in use, {slots.general_counted} counted"
    assert reserve == slots.reserve_counted, f"{name}: {reserve} of the reserve, {slots.reserve_counted} counted"
    usable = pool.capacity.usable_slots
    assert general <= usable, f"{name}: {general} of {usable} slots leased"
    assert reserve + book.taken <= pool.settings.critical_slots, f"{name}: {reserve}+{book.taken} reserve"


def _check_work(pool: PoolScheduler) -> None:
    name, ledger, flows = pool.settings.pool, pool.ledger, pool.flows.values()
    outstanding = sum(flow.pending_ns for flow in flows)
    assert outstanding == ledger.outstanding_ns, f"{name}: {outstanding} granted, {ledger.outstanding_ns} counted"
    critical = sum(flow.pending_ns for flow in flows if flow.service_class is ServiceClass.CRITICAL)
    assert critical == ledger.critical_ns, f"{name}: {critical}, {ledger.critical_ns} critical"


def _check_flows(pool: PoolScheduler) -> None:
    name = pool.settings.pool
    for flow in pool.flows.values():
        assert flow.granted_ns >= flow.used_ns, f"{name}: {flow.name} did {flow.used_ns} of {flow.granted_ns}"
        queued = sum(entry is not None for entry in (flow.entry, flow.urgent_entry, flow.cap_entry))
        assert queued == flow.backlogged, f"{name}: {flow.name} in {queued} queues, backlogged: {flow.backlogged}"
        assert flow.window <= flow.counted, f"{name}: {flow.name} may use {flow.window}, {flow.counted} counted"
        assert not flow.window or flow.lease, f"{name}: {flow.name} has a window of {flow.window} and no lease"


def _check_weights(pool: PoolScheduler) -> None:
    for queue in pool.shares.queues:
        weights = sum(tenant.weight for tenant in pool.shares.tenants_in(queue) if tenant.active_weight)
        assert weights == queue.active_weight, f"{pool.settings.pool}: {queue.service_class.name} weighs {weights}"
