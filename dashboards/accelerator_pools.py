"""What the accelerators' dashboard says of pools: slots, devices, fairness, leases."""

from dashboards.panels import GREEN, ORANGE, RED, YELLOW, Panel, Query, bars, series, states

#: The pools that the reader has chosen.
OF_POOLS = 'pool=~"$pool", host=~"$host"'
#: How long a class with demand may be without a grant.
STARVED_S = ((None, GREEN), (2, YELLOW), (5, RED))
_BUSY = ((None, GREEN), (0.9, YELLOW), (1, RED))


def pool(name: str) -> str:
    """A metric of the chosen pools, by the end of its name."""
    return f"kuaka_pool_{name}{{{OF_POOLS}}}"


def slots() -> list[Panel]:
    """How many descriptors may be, and are, in the device."""
    return [
        series(
            "Slots in use",
            "What leases may be using, and what was seen in the device. More seen than leased breaks a rule.",
            "short",
            Query(f"sum by (pool) ({pool('capacity_slots')})", "{{pool}} capacity"),
            Query(f"sum by (pool) ({pool('leased_slots')})", "{{pool}} leased"),
            Query(f"sum by (pool) ({pool('observed_slots')})", "{{pool}} seen in the device"),
            width=12,
        ),
        series(
            "The reserve",
            "Slots kept for guests that stand still: all, leased, and set aside by tickets.",
            "short",
            Query(f"sum by (pool) ({pool('reserve_slots')})", "{{pool}} reserve"),
            Query(f"sum by (pool) ({pool('reserve_leased_slots')})", "{{pool}} leased"),
            Query(f"sum by (pool) ({pool('ticket_slots')})", "{{pool}} set aside"),
            width=12,
        ),
    ]


def device() -> list[Panel]:
    """What the device says of itself, and what the control loop makes of it."""
    refused = f"sum by (pool) (rate({pool('refused_descriptors_total')}[$__rate_interval]))"
    completed = f"sum by (pool) (rate({pool('completed_descriptors_total')}[$__rate_interval]))"
    busy = f"sum by (pool) (rate({pool('busy_device_seconds_total')}[$__rate_interval]))"
    return [
        states(
            "Is it up",
            "When each pool's device answered.",
            Query(f"max by (pool) ({pool('up')})", "{{pool}}"),
            names={"1": ("up", GREEN), "0": ("down", RED)},
            width=12,
        ),
        states(
            "What the control loop says",
            "busy: too much in the queue, less is handed out. starved: too little, more is handed out.",
            Query(f"max by (pool, state) ({pool('control_state')}) == 1", "{{pool}} {{state}}"),
            names={"1": ("yes", ORANGE)},
            width=12,
        ),
        series(
            "Busy",
            "Engine time in use, as the device counts it.",
            "percentunit",
            Query(f"{busy} / sum by (pool) ({pool('engines')})", "{{pool}}"),
            steps=_BUSY,
        ),
        series(
            "Time in the device",
            "99th percentile of the time a descriptor spends there, as last seen.",
            "s",
            Query(f"max by (pool) ({pool('latency_p99_seconds')})", "{{pool}}"),
        ),
        series("Descriptors completed", "Per second.", "ops", Query(completed, "{{pool}}")),
        series(
            "Busy queue",
            "Submissions that the device refused for its queue was full, of all. None, while leases are kept to.",
            "percentunit",
            Query(f"{refused} / ({refused} + {completed} > 0)", "{{pool}}"),
            steps=((None, GREEN), (0.001, RED)),
        ),
        series(
            "Submissions repeated",
            "What holders say: per second.",
            "ops",
            Query(f"sum by (pool) (rate({pool('busy_retries_total')}[$__rate_interval]))", "{{pool}}"),
        ),
        series(
            "Handed out",
            "Of what the engines can do by the numbers, the part that is handed out: 25 % to 125 %.",
            "percentunit",
            Query(f"max by (pool) ({pool('rate_ratio')})", "{{pool}}"),
        ),
        series(
            "Dispatched for each one completed",
            "Moving average; above 1.1 the queue grows.",
            "short",
            Query(f"max by (pool) ({pool('flow_ratio')})", "{{pool}}"),
            steps=((None, GREEN), (1.1, RED)),
            width=12,
        ),
        series(
            "Used by others",
            "Device time that no holder has reported: a program that is not ours uses the device.",
            "s",
            Query(f"max by (pool) ({pool('unexplained_device_seconds')})", "{{pool}}"),
            width=12,
        ),
    ]


def fairness() -> list[Panel]:
    """Whether everybody gets something, and their part."""
    return [
        series(
            "Without a grant",
            "How long each class with demand has been without one. Floors (BULK 10 %, BACKGROUND 2 %) bound this.",
            "s",
            Query(f"max by (pool, class) ({pool('starvation_gap_seconds')})", "{{class}} on {{pool}}"),
            steps=STARVED_S,
        ),
        bars(
            "Longest without a grant, ever",
            "The worst of each class since the scheduler started.",
            "s",
            Query(f"max by (pool, class) ({pool('most_starvation_gap_seconds')})", "{{class}} on {{pool}}"),
            steps=STARVED_S,
        ),
        series(
            "Fair lag",
            "How far apart two waiting flows of a fleet are in what they had per unit of weight. Two grants bound it.",
            "s",
            Query(f"max by (pool) ({pool('fair_lag_device_seconds')})", "{{pool}}"),
        ),
        series(
            "Reservations that are late",
            "Of the reservations that are due, how long the first has been.",
            "s",
            Query(f"max by (pool) ({pool('reservation_lateness_seconds')})", "{{pool}}"),
            width=12,
        ),
        series(
            "Virtual time",
            "Device time per unit of weight handed out, per second. Flat while a class with demand gets nothing.",
            "short",
            Query(
                f"max by (pool, class) (deriv({pool('virtual_time_seconds')}[$__rate_interval]))",
                "{{class}} on {{pool}}",
            ),
            width=12,
        ),
    ]


def leases() -> list[Panel]:
    """What becomes of leases, and of the work that they allow."""

    def per_second(name: str) -> str:
        return f"sum(rate({pool(name)}[$__rate_interval]))"

    return [
        series(
            "What becomes of leases",
            "Per second. Expiries: holders fell silent. Fences: a device went, or a host came back too late.",
            "ops",
            *(
                Query(per_second(f"{name}_total"), name)
                for name in ("grants", "renewals", "releases", "expiries", "fences")
            ),
        ),
        series(
            "Granted and used",
            "Device time per second. Grants follow what is done.",
            "s",
            Query(per_second("granted_device_seconds_total"), "granted"),
            Query(per_second("used_device_seconds_total"), "used"),
        ),
        series(
            "Granted and not used yet",
            "Never more than the pool's horizon, 250 ms of its work.",
            "s",
            Query(f"sum by (pool) ({pool('outstanding_device_seconds')})", "{{pool}}"),
        ),
    ]
