"""Accelerators and QoS: is the device worth it, who gets how much of it, who waits, are the rules kept?"""

from grafana_foundation_sdk.builders.dashboard import Dashboard

from dashboards.accelerator_pools import OF_POOLS, STARVED_S, device, fairness, leases, pool, slots
from dashboards.board import Section, board
from dashboards.panels import GREEN, RED, YELLOW, Column, Jump, Panel, Query, figure, rows, series
from dashboards.uids import ACCELERATORS, FLEET
from dashboards.variables import label_values

_TENANT = f'{OF_POOLS}, tenant=~"$fleet"'
_ANY_RED = ((None, GREEN), (1, RED))


def dashboard() -> Dashboard:
    """Build it."""
    sections: list[Section] = [
        ("Now", _now()),
        ("Who gets what", _shares()),
        ("Device or CPU", _fallbacks()),
        ("Slots", slots()),
        ("The device", device()),
        ("Fairness", fairness()),
        ("Leases", leases()),
        ("Downtime tickets", _tickets()),
        ("The scheduler", _scheduler()),
    ]
    variables = [
        label_values("host", "Host", "kuaka_pool_up", "host"),
        label_values("pool", "Pool", 'kuaka_pool_up{host=~"$host"}', "pool"),
        label_values("fleet", "Fleet", f"kuaka_tenant_weight{{{OF_POOLS}}}", "tenant"),
    ]
    return board(ACCELERATORS, "kuaka: accelerators and QoS", (__doc__ or "").strip(), variables, sections)


def _now() -> list[Panel]:
    return [
        figure(
            "Devices down",
            "Pools whose device does not answer; the CPU does their work.",
            "short",
            Query(f"count(kuaka_pool_up{{{OF_POOLS}}} == 0) or vector(0)"),
            steps=_ANY_RED,
        ),
        figure(
            "Slots leased",
            "Of all slots that may be leased, the reserve not counted.",
            "percentunit",
            Query(f"sum({pool('leased_slots')}) / sum({pool('capacity_slots')})"),
        ),
        figure(
            "Devices busy",
            "Engine time in use, as the devices count it.",
            "percentunit",
            Query(
                f"sum(rate({pool('busy_device_seconds_total')}[$__rate_interval])) / sum({pool('engines')})",
            ),
        ),
        figure(
            "Longest without a grant",
            "How long a class with demand has been without a grant, now. A floor of 2 % keeps this near a second.",
            "s",
            Query(f"max({pool('starvation_gap_seconds')})"),
            steps=STARVED_S,
        ),
        figure(
            "Tickets missed",
            "Downtime tickets that ran out before their guest was through: it may have stood still for longer.",
            "short",
            Query(f"sum({pool('tickets_missed_total')})"),
            steps=_ANY_RED,
        ),
        figure(
            "Lease invariant broken",
            "Pools in whose device more is seen than is leased: somebody submits without a lease.",
            "short",
            Query(f"sum({pool('over_occupied')})"),
            steps=_ANY_RED,
        ),
    ]


def _shares() -> list[Panel]:
    used = f"rate(kuaka_tenant_used_device_seconds_total{{{_TENANT}}}[$__rate_interval])"
    share = f"sum by (pool, tenant) ({used}) / on (pool) group_left () (sum by (pool) ({used}) > 0)"
    weight = f"kuaka_tenant_weight{{{_TENANT}}}"
    due = f"sum by (pool, tenant) ({weight}) / on (pool) group_left () sum by (pool) ({weight})"
    return [
        rows(
            "Shares against weights",
            "What each fleet has used of a pool, and what its weight gives it while all have work. One that has too "
            "little to do leaves its share to the others.",
            {"tenant": "Fleet", "pool": "Pool"},
            Column("Share", share, "percentunit"),
            Column("By weight", due, "percentunit"),
            Column("Weight", f"sum by (pool, tenant) ({weight})", "short"),
            Column("Flows", f"sum by (pool, tenant) (kuaka_tenant_flows{{{_TENANT}}})", "short"),
            jump=Jump("This fleet", FLEET, (("fleet", "Fleet"),)),
            width=12,
        ),
        series(
            "Share of each fleet",
            "Of the device time that is used on a pool.",
            "percentunit",
            Query(share, "{{tenant}} on {{pool}}"),
            stacked=True,
            width=12,
        ),
        series(
            "Flows by class",
            "Open flows. Guests that stand still are CRITICAL, those that run BULK, images BACKGROUND.",
            "short",
            Query(f"sum by (class) ({pool('flows')})", "{{class}}"),
            stacked=True,
        ),
        series(
            "Flows that wait",
            "Flows that could use more than they were given.",
            "short",
            Query(f"sum by (pool) ({pool('waiting_flows')})", "{{pool}}"),
        ),
        series(
            "Expected wait",
            "How long the next BULK grant is expected to wait. Hosts give the device less to do when this grows.",
            "s",
            Query(f"max by (pool) ({pool('expected_wait_seconds')})", "{{pool}}"),
        ),
    ]


def _fallbacks() -> list[Panel]:
    coded = 'rate(kuaka_host_coded_pages_total{host=~"$host"}[$__rate_interval])'
    return [
        series(
            "Who codes the pages",
            "Normal pages of sessions that have an accelerator, by who coded them.",
            "pps",
            Query(f"sum by (by) ({coded})", "{{by}}"),
            stacked=True,
        ),
        series(
            "Batches that got no credit",
            "They asked, waited 2 ms and were done by the CPU, by the reason that the scheduler gave.",
            "ops",
            Query(f"sum by (reason) (rate(kuaka_host_fallbacks_total{{{OF_POOLS}}}[$__rate_interval]))", "{{reason}}"),
            stacked=True,
        ),
        series(
            "Waits for credit",
            "Time per second that all threads of a pool's holders wait for credit.",
            "s",
            Query(f"sum by (pool) (rate({pool('credit_wait_seconds_total')}[$__rate_interval]))", "{{pool}}"),
        ),
    ]


def _tickets() -> list[Panel]:
    return [
        series(
            "Tickets in force",
            "Guests that stand still, or may at any moment.",
            "short",
            Query(f"sum by (pool) ({pool('tickets')})", "{{pool}}"),
            width=12,
        ),
        series(
            "Tickets issued, denied and missed",
            "Per second. After a denial the guest runs on and asks again.",
            "ops",
            *(
                Query(f"sum(rate({pool(f'tickets_{name}_total')}[$__rate_interval]))", name)
                for name in ("issued", "denied", "missed")
            ),
            width=12,
        ),
    ]


def _scheduler() -> list[Panel]:
    return [
        figure(
            "Epoch", "How often a scheduler has started on this cluster.", "short", Query("max(kuaka_scheduler_epoch)")
        ),
        figure("Hosts heard", "Within the last 10 s.", "short", Query("max(kuaka_scheduler_hosts)")),
        figure(
            "Learning",
            "Pools that grant nothing new, because leases of the epoch before may be in use.",
            "short",
            Query(f"sum({pool('learning')})"),
            steps=((None, GREEN), (1, YELLOW)),
        ),
        figure(
            "Alarms",
            "Since it started; their text is in its log.",
            "short",
            Query("max(kuaka_scheduler_alarms_total)"),
            steps=_ANY_RED,
        ),
        figure(
            "Time per call",
            "Mean time spent on a host's call.",
            "s",
            Query(
                "sum(rate(kuaka_scheduler_tick_seconds_total[$__rate_interval]))"
                " / (sum(rate(kuaka_scheduler_ticks_total[$__rate_interval])) > 0)"
            ),
            steps=((None, GREEN), (0.01, YELLOW), (0.05, RED)),
        ),
        figure(
            "Events",
            "That the core handles, per second.",
            "ops",
            Query("sum(rate(kuaka_scheduler_events_total[$__rate_interval]))"),
        ),
        series(
            "Calls of hosts",
            "Per second: each host calls ten times.",
            "ops",
            Query("sum(rate(kuaka_scheduler_ticks_total[$__rate_interval]))", "calls"),
            width=12,
        ),
        series(
            "Calls that changed nothing",
            "Per second: overtaken or repeated ones, messages without sense, reports under a lease that has ended.",
            "ops",
            Query("sum by (reason) (rate(kuaka_scheduler_ignored_ticks_total[$__rate_interval]))", "{{reason}}"),
            Query("sum(rate(kuaka_scheduler_refused_news_total[$__rate_interval]))", "without sense"),
            Query("sum(rate(kuaka_scheduler_stale_messages_total[$__rate_interval]))", "under an ended lease"),
            width=12,
        ),
    ]
