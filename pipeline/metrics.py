"""Every metric of agents and controller, declared once. Collected by `pipeline.fleet.exporter`.

`kuaka_vmi_migration_*` are called as KubeVirt calls what means the same: with the prefix renamed, and the labels `vm`,
`fleet`, `host` to `name`, `namespace`, `node`, its dashboards work. Series with the label `vm` are there while the
migration is, and no longer; what is left of a migration is in the counters and histograms without.
"""

from scheduler.metric import Metric, counter, gauge, histogram

_LIVE = ("host", "fleet", "vm")
_HOST = ("host",)
_FLEET = ("fleet",)
_DOWNTIME_S = (0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0)
_DURATION_S = (1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1200.0, 1800.0, 3600.0, 7200.0, 14400.0)
_ROUNDS = (1.0, 2.0, 3.0, 4.0, 5.0, 7.0, 10.0, 15.0, 20.0, 30.0, 50.0, 100.0)

# An agent: one migration that leaves this host, while it does.

VM_DATA = counter("kuaka_vmi_migration_data_bytes_total", "Guest memory to be moved at least once.", _LIVE)
VM_PROCESSED = gauge(
    "kuaka_vmi_migration_data_processed_bytes", "Guest memory sent so far, pages of later rounds included.", _LIVE
)
VM_REMAINING = gauge(
    "kuaka_vmi_migration_data_remaining_bytes",
    "Guest memory still to be sent, by QEMU; of an image what is left of it.",
    _LIVE,
)
VM_DIRTY_RATE = gauge(
    "kuaka_vmi_migration_dirty_memory_rate_bytes",
    "Memory that the guest changes per second, by QEMU as of its last round.",
    _LIVE,
)
VM_TRANSFER_RATE = gauge(
    "kuaka_vmi_migration_memory_transfer_rate_bytes",
    "Guest memory sent per second, by QEMU as of its last look.",
    _LIVE,
)
VM_START = gauge(
    "kuaka_vmi_migration_start_time_seconds", "When the attempt's first bytes were sent, since 1970.", _LIVE
)
VM_ROUNDS = gauge("kuaka_vmi_migration_rounds", "Pre-copy rounds so far, by QEMU.", _LIVE)
VM_WIRE = counter(
    "kuaka_vmi_migration_wire_bytes_total", "Bytes of the migration's pages on the wire, frames included.", _LIVE
)
VM_PAGES = counter(
    "kuaka_vmi_migration_pages_total", "Pages sent by kind: zero, same (one word repeated), normal.", (*_LIVE, "kind")
)
VM_CODED = counter(
    "kuaka_vmi_migration_coded_pages_total", "Normal pages by who coded them: accelerator or cpu.", (*_LIVE, "by")
)
VM_CREDIT_WAIT = counter(
    "kuaka_vmi_migration_credit_wait_seconds_total",
    "Time that its batches have waited for credit, all threads together.",
    _LIVE,
)
VM_TICKET_WAIT = gauge(
    "kuaka_vmi_migration_ticket_wait_seconds",
    "How long the running guest was kept from its stop for its downtime ticket.",
    _LIVE,
)

# An agent: its host, since it started.

LIVE = gauge(
    "kuaka_host_migrations",
    "Migrations under way on this host, by direction (send, receive) and kind (qemu, image).",
    (*_HOST, "direction", "kind"),
)
RAW = counter(
    "kuaka_host_raw_bytes_total",
    "Normal pages sent from here, before coding, by codec; none: as they are, or no codec could shrink them.",
    (*_HOST, "codec"),
)
WIRE = counter(
    "kuaka_host_wire_bytes_total",
    "The same on the wire, frames and their tables of pages included, by codec.",
    (*_HOST, "codec"),
)
PAGES = counter(
    "kuaka_host_pages_total",
    "Pages sent from here by kind: announced_zero (by QEMU), zero, same (one word repeated), normal.",
    (*_HOST, "kind"),
)
RECEIVED_RAW = counter("kuaka_host_received_raw_bytes_total", "Guest memory that arrived here, decoded.", _HOST)
RECEIVED_WIRE = counter("kuaka_host_received_wire_bytes_total", "The same on the wire.", _HOST)
CODED = counter(
    "kuaka_host_coded_pages_total",
    "Normal pages of sessions with an accelerator that were coded or decoded here, by whom: iaa, qat, cpu.",
    (*_HOST, "by"),
)
FAILED_SESSIONS = counter(
    "kuaka_host_failed_sessions_total", "Sessions that ended with an error here, by direction.", (*_HOST, "direction")
)

# An agent: its accelerators, as its scheduler's client sees them.

SCHEDULER_SILENCE = gauge(
    "kuaka_host_scheduler_silence_seconds",
    "How long ago the scheduler last answered this host; absent before its first answer.",
    _HOST,
)
FALLBACKS = counter(
    "kuaka_host_fallbacks_total",
    "Batches that asked for credit, got none and were done by the CPU, by the reason that the scheduler gave last; "
    "unknown: it gave none.",
    (*_HOST, "pool", "reason"),
)
HOST_BUSY_RETRIES = counter(
    "kuaka_host_busy_retries_total",
    "Submissions that were repeated because the device's queue was full.",
    (*_HOST, "pool"),
)
HOST_CREDIT_WAIT = counter(
    "kuaka_host_credit_wait_seconds_total",
    "Time that batches have waited for credit, all threads together.",
    (*_HOST, "pool"),
)
HOST_DEVICE_USED = counter(
    "kuaka_host_device_seconds_total", "Device time that this host's workers have used.", (*_HOST, "pool")
)
STOP_ADMISSION = gauge(
    "kuaka_host_pool_overloaded",
    "1 while the pool's queue stands and no migration that needs it should begin.",
    (*_HOST, "pool"),
)

# The controller: where migrations are.

IN_PENDING = gauge("kuaka_vmi_migrations_in_pending_phase", "Migrations that wait for a slot or are held back.", _FLEET)
IN_SCHEDULING = gauge(
    "kuaka_vmi_migrations_in_scheduling_phase", "Migrations that were admitted and are being prepared.", _FLEET
)
IN_RUNNING = gauge(
    "kuaka_vmi_migrations_in_running_phase", "Migrations that move bytes, hand over or are verified.", _FLEET
)
IN_PHASE = gauge(
    "kuaka_vmi_migrations_in_phase", "Migrations of a fleet under way, by phase as events name it.", ("fleet", "phase")
)
FROM_CREATION = histogram(
    "kuaka_vmi_migration_phase_transition_time_from_creation_seconds",
    "Time from the submission of a migration's fleet until it was in a phase.",
    _DURATION_S,
    ("phase",),
)
PHASE_DURATION = histogram(
    "kuaka_migration_phase_duration_seconds",
    "Time that migrations spent in a phase, each time.",
    _DURATION_S,
    ("phase",),
)
PHASE_TRANSITIONS = counter(
    "kuaka_migration_phase_transitions_total", "Times that a migration came into a phase.", ("phase",)
)
VM_PHASE = gauge(
    "kuaka_vmi_migration_info",
    "1 for each migration that is under way: its phase, its kind (qemu, image) and its hosts.",
    ("fleet", "vm", "phase", "kind", "source", "destination"),
)

# The controller: how migrations ended.

FINISHED = counter(
    "kuaka_migrations_finished_total",
    'Migrations that ended, by outcome (succeeded, failed, cancelled); "other" beyond the first 20 fleets.',
    ("fleet", "outcome"),
)
RETRIES = counter("kuaka_migration_retries_total", "Attempts that failed, with another one to come.")
QUEUE_WAIT = histogram(
    "kuaka_migration_queue_wait_seconds",
    "Time from a migration's first wish to begin until its first slot, pauses included.",
    _DURATION_S,
)
DURATION = histogram(
    "kuaka_migration_duration_seconds", "Time that completed migrations took, their wait not counted.", _DURATION_S
)
DOWNTIME = histogram(
    "kuaka_migration_downtime_seconds",
    "Time that guests stood still: RESUME at the destination minus STOP at the source.",
    _DOWNTIME_S,
)
QEMU_DOWNTIME = histogram("kuaka_migration_qemu_downtime_seconds", "The same as the source QEMU says.", _DOWNTIME_S)
TICKET_WAIT = histogram(
    "kuaka_migration_ticket_wait_seconds",
    "How long running guests were kept from their stop for their downtime tickets.",
    _DOWNTIME_S,
)
ROUNDS = histogram("kuaka_migration_rounds", "Pre-copy rounds of completed migrations.", _ROUNDS)
MIGRATED_BYTES = counter("kuaka_migrated_bytes_total", "Guest memory that completed migrations have sent.")
MIGRATED_WIRE_BYTES = counter("kuaka_migrated_wire_bytes_total", "The same on the wire.")

# The controller: fleets under way; those that have finished have no series.

FLEETS = gauge("kuaka_fleets", "Fleets by state: Active, Paused.", ("state",))
FLEET_MIGRATIONS = gauge("kuaka_fleet_migrations", "Migrations of a fleet.", _FLEET)
FLEET_BYTES = gauge(
    "kuaka_fleet_data_bytes",
    "Guest memory of a fleet, as hosts or the spec say; a machine of which neither speaks counts as the others do.",
    _FLEET,
)
FLEET_MOVED = gauge(
    "kuaka_fleet_data_moved_bytes",
    "Of that, memory of migrations that have ended and the part done of those that run.",
    _FLEET,
)
FLEET_PROGRESS = gauge("kuaka_fleet_progress_ratio", "Moved of all: 0 to 1.", _FLEET)
FLEET_ETA = gauge(
    "kuaka_fleet_eta_seconds",
    "Time until a fleet is done if it goes on as in the last minute; absent while nothing moves.",
    _FLEET,
)
FLEET_SUBMITTED = gauge("kuaka_fleet_submitted_time_seconds", "When a fleet was submitted, since 1970.", _FLEET)
FLEET_WEIGHT = gauge("kuaka_fleet_weight", "A fleet's share against other fleets.", _FLEET)
FLEET_LONGEST_WAIT = gauge(
    "kuaka_fleet_longest_wait_seconds", "How long the migration that has waited longest has been pending.", _FLEET
)

METRICS: tuple[Metric, ...] = tuple(value for value in list(globals().values()) if isinstance(value, Metric))
