"""Every metric of the scheduler, declared once. Collected by `scheduler.pool_collector` and `scheduler.exposition`.

`POOL` labels: `pool` is the pool's whole name, `host` the host as its fleet calls it, `kind` dsa, iaa or qat. Slots are
descriptors that may be in flight. Device seconds are one engine busy for a second.
"""

from scheduler.metric import Metric, counter, gauge

POOL = ("pool", "host", "kind")

# The service.

EPOCH = gauge("kuaka_scheduler_epoch", "Epoch of the scheduler: how often one has started on this cluster.")
HOSTS = gauge("kuaka_scheduler_hosts", "Hosts whose client has been heard within the last 10 s.")
TICKS = counter("kuaka_scheduler_ticks_total", "Calls of hosts.")
TICK_SECONDS = counter("kuaka_scheduler_tick_seconds_total", "Time spent on calls of hosts.")
IGNORED_TICKS = counter(
    "kuaka_scheduler_ignored_ticks_total",
    "Calls that changed nothing: stale (overtaken by a later one), repeated, or of a client that was replaced.",
    ("reason",),
)
REFUSED_NEWS = counter("kuaka_scheduler_refused_news_total", "Messages of hosts that made no sense.")
EVENTS = counter("kuaka_scheduler_events_total", "Events that the core has handled.")
STALE_MESSAGES = counter(
    "kuaka_scheduler_stale_messages_total", "Reports under a lease or an epoch that has ended, as after a restart."
)
ALARMS = counter("kuaka_scheduler_alarms_total", "Alarms that the core has raised; their text is in its log.")

# One pool: what it is.

POOL_UP = gauge("kuaka_pool_up", "1 while the pool's device answers.", POOL)
POOL_LEARNING = gauge(
    "kuaka_pool_learning", "1 while leases of the epoch before may be in use, so that nothing new is granted.", POOL
)
ENGINES = gauge("kuaka_pool_engines", "Engines that work in parallel.", POOL)
CONTROL_STATE = gauge(
    "kuaka_pool_control_state",
    "1 for what the last looks at the device said: down, busy (too much in its queue), starved (too little), steady.",
    (*POOL, "state"),
)
RATE_RATIO = gauge(
    "kuaka_pool_rate_ratio", "Of what the engines can do, the part that is handed out: 0.25 to 1.25.", POOL
)
FLOW_RATIO = gauge(
    "kuaka_pool_flow_ratio",
    "Descriptors dispatched for each one completed, moving average; above 1.1 is too many.",
    POOL,
)

# Slots.

CAPACITY = gauge("kuaka_pool_capacity_slots", "Slots that may be leased, the reserve not counted.", POOL)
LEASED = gauge("kuaka_pool_leased_slots", "Slots that leases outside the reserve may be using.", POOL)
RESERVE = gauge("kuaka_pool_reserve_slots", "Slots kept for guests that stand still.", POOL)
RESERVE_LEASED = gauge(
    "kuaka_pool_reserve_leased_slots", "Of the reserve, slots that CRITICAL leases may be using.", POOL
)
TICKET_SLOTS = gauge("kuaka_pool_ticket_slots", "Of the reserve, slots set aside by downtime tickets.", POOL)
OBSERVED = gauge("kuaka_pool_observed_slots", "Descriptors in the device when its host last looked.", POOL)
OVER_OCCUPIED = gauge(
    "kuaka_pool_over_occupied",
    "1 while more is seen in the device than is leased: the lease invariant is broken.",
    POOL,
)

# Work.

GRANTED_SECONDS = counter("kuaka_pool_granted_device_seconds_total", "Device time granted.", POOL)
USED_SECONDS = counter("kuaka_pool_used_device_seconds_total", "Device time that holders say they have used.", POOL)
OUTSTANDING_SECONDS = gauge("kuaka_pool_outstanding_device_seconds", "Device time granted and not used yet.", POOL)
BUSY_SECONDS = counter(
    "kuaka_pool_busy_device_seconds_total",
    "Device time in use, as the device itself counts it; from when it started.",
    POOL,
)
COMPLETED = counter("kuaka_pool_completed_descriptors_total", "Descriptors that the device has completed.", POOL)
REFUSED = counter(
    "kuaka_pool_refused_descriptors_total", "Submissions that the device has refused: its queue was full.", POOL
)
LATENCY_P99 = gauge(
    "kuaka_pool_latency_p99_seconds",
    "99th percentile of the time a descriptor spends in the device, as last seen.",
    POOL,
)
UNEXPLAINED_SECONDS = gauge(
    "kuaka_pool_unexplained_device_seconds",
    "Device time that no holder has reported: somebody else uses the device.",
    POOL,
)

# Leases.

GRANTS = counter("kuaka_pool_grants_total", "Grants.", POOL)
RENEWALS = counter("kuaka_pool_renewals_total", "Leases whose time was extended by a report.", POOL)
EXPIRIES = counter("kuaka_pool_expiries_total", "Leases whose time ran out: their holders said nothing.", POOL)
RELEASES = counter("kuaka_pool_releases_total", "Leases that were given back.", POOL)
FENCES = counter("kuaka_pool_fences_total", "Leases that were declared void, as when a device has gone.", POOL)

# Waiting and fairness.

FLOWS = gauge("kuaka_pool_flows", "Flows open on the pool, by class.", (*POOL, "class"))
WAITING_FLOWS = gauge("kuaka_pool_waiting_flows", "Flows that could use more than they were given.", POOL)
EXPECTED_WAIT = gauge("kuaka_pool_expected_wait_seconds", "How long the next BULK grant is expected to wait.", POOL)
CREDIT_WAIT_SECONDS = counter("kuaka_pool_credit_wait_seconds_total", "Time that batches have waited for credit.", POOL)
BUSY_RETRIES = counter("kuaka_pool_busy_retries_total", "Submissions that holders had to repeat.", POOL)
FAIR_LAG = gauge(
    "kuaka_pool_fair_lag_device_seconds",
    "How far apart two waiting flows of one tenant are in what they had per unit of weight; bounded by two grants.",
    POOL,
)
STARVATION_GAP = gauge(
    "kuaka_pool_starvation_gap_seconds", "How long a class with demand has been without a grant, now.", (*POOL, "class")
)
MOST_STARVATION_GAP = gauge(
    "kuaka_pool_most_starvation_gap_seconds",
    "Longest time that a class with demand went without a grant, since the scheduler started.",
    (*POOL, "class"),
)
RESERVATION_LATENESS = gauge(
    "kuaka_pool_reservation_lateness_seconds", "Of the reservations that are due, how long the first has been.", POOL
)
VIRTUAL_TIME = gauge(
    "kuaka_pool_virtual_time_seconds",
    "Virtual time of a class: device time per unit of weight handed out.",
    (*POOL, "class"),
)

# Downtime tickets.

TICKETS = gauge("kuaka_pool_tickets", "Downtime tickets in force.", POOL)
TICKETS_ISSUED = counter("kuaka_pool_tickets_issued_total", "Downtime tickets issued.", POOL)
TICKETS_DENIED = counter(
    "kuaka_pool_tickets_denied_total", "Downtime tickets denied; their guests run on and ask again.", POOL
)
TICKETS_MISSED = counter(
    "kuaka_pool_tickets_missed_total",
    "Downtime tickets whose life ended before anybody said that they were done with.",
    POOL,
)

# Tenants.

TENANT = (*POOL, "tenant")
TENANT_FLOWS = gauge("kuaka_tenant_flows", 'A fleet\'s flows on a pool; "other" beyond the first 20 fleets.', TENANT)
TENANT_WEIGHT = gauge("kuaka_tenant_weight", 'A fleet\'s weight on a pool; for "other" the sum of theirs.', TENANT)
TENANT_USED_SECONDS = counter(
    "kuaka_tenant_used_device_seconds_total",
    'Device time that a fleet has used; "other" beyond the first 20 fleets.',
    TENANT,
)

# The process, of every exporter.

PROCESS = ("role", "host")
PROCESS_MEMORY = gauge("kuaka_process_resident_memory_bytes", "Resident memory of the exporter's process.", PROCESS)
PROCESS_CPU = counter(
    "kuaka_process_cpu_seconds_total", "CPU time of the exporter's process, user and system.", PROCESS
)
PROCESS_START = gauge("kuaka_process_start_time_seconds", "When the exporter's process started, since 1970.", PROCESS)
LOOP_LAG = gauge(
    "kuaka_process_event_loop_lag_seconds",
    "How much later than asked for the event loop called back, the worst of the last 10 s; not of the scheduler, whose "
    "calls run one by one.",
    PROCESS,
)
FAILED_COLLECTIONS = counter(
    "kuaka_exporter_failed_collections_total",
    "Scrapes that a part's figures are missing from: it did not answer in time.",
    PROCESS,
)

METRICS: tuple[Metric, ...] = tuple(value for value in list(globals().values()) if isinstance(value, Metric))
