"""A pool's state as `statistics`."""

from collections import Counter

from scheduler.core.fair import SCALE, FairQueue
from scheduler.core.flow import Flow
from scheduler.core.pool import PoolScheduler
from scheduler.core.statistics import ControlStatistics, FlowStatistics, PoolStatistics, TenantStatistics


def pool_statistics(pool: PoolScheduler, now_ns: int) -> PoolStatistics:
    """Taken on request; O(flows)."""
    counts, book, queues = pool.counts, pool.book, pool.shares.queues
    watch, slots = pool.watch, pool.slots
    return PoolStatistics(
        pool=pool.settings.pool,
        host=pool.settings.host,
        kind=pool.settings.kind,
        engines=pool.settings.engines,
        up=pool.up,
        learning=pool.learning(now_ns),
        control=ControlStatistics(
            watch.control.state, watch.control.flow_permille, watch.over_occupied, watch.control.last
        ),
        capacity_slots=pool.capacity.usable_slots,
        leased_slots=slots.general_counted,
        critical_slots=pool.settings.critical_slots,
        critical_leased_slots=slots.reserve_counted,
        ticket_slots=book.taken,
        outstanding_ns=pool.ledger.outstanding_ns,
        granted_ns=counts.granted_ns,
        used_ns=counts.used_ns,
        grants=counts.grants,
        renewals=counts.renewals,
        expiries=counts.expiries,
        releases=counts.releases,
        fences=counts.fences,
        wait_ns=counts.wait_ns,
        busy_retries=counts.busy_retries,
        expected_wait_ns=pool.answers.bulk_wait_ns,
        reservation_lateness_ns=_lateness_ns(pool, now_ns),
        starvation_gap_ns={queue.service_class: pool.turns.gaps_ns[queue.service_class] for queue in queues},
        current_gap_ns={queue.service_class: _gap_ns(queue, now_ns) for queue in queues},
        fair_lag_ns=_lag_ns(pool),
        virtual_time={queue.service_class: queue.virtual for queue in queues},
        waiting=pool.waiting,
        rate_permille=pool.capacity.rate_permille,
        unexplained_ns=watch.unexplained_ns,
        tickets=len(book.tickets),
        tickets_issued=book.issued,
        tickets_denied=book.denied,
        tickets_missed=book.missed,
        flows=tuple(_flow(flow) for flow in pool.flows.values()),
        tenants=_tenants(pool),
    )


def _tenants(pool: PoolScheduler) -> tuple[TenantStatistics, ...]:
    flows = Counter(flow.tenant.name for flow in pool.flows.values())
    used_ns: Counter[str] = Counter()
    weights: dict[str, int] = {}
    for tenant in pool.shares.tenants:
        used_ns[tenant.name] += tenant.used_ns
        weights[tenant.name] = tenant.weight
    return tuple(TenantStatistics(name, weight, flows[name], used_ns[name]) for name, weight in weights.items())


def _gap_ns(queue: FairQueue, now_ns: int) -> int:
    return 0 if queue.wanting_since_ns is None else max(0, now_ns - queue.wanting_since_ns)


def _flow(flow: Flow) -> FlowStatistics:
    return FlowStatistics(
        flow.name,
        flow.tenant.name,
        flow.service_class,
        flow.weight,
        flow.window + flow.reserve_window,
        flow.used_ns,
        flow.granted_ns,
        flow.demand_ns,
        flow.grants,
        flow.wait_ns,
        flow.busy_retries,
    )


def _lag_ns(pool: PoolScheduler) -> int:
    starts: dict[int, list[int]] = {}
    for flow in pool.flows.values():
        if flow.entry is not None:
            starts.setdefault(id(flow.tenant), []).append(flow.start)
    return max(((max(tags) - min(tags)) // SCALE for tags in starts.values()), default=0)


def _lateness_ns(pool: PoolScheduler, now_ns: int) -> int:
    due = [flow.reservation_tag_ns for flow in pool.flows.values() if flow.reservation_entry is not None]
    return max(0, now_ns - min(due, default=now_ns))
