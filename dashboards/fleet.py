"""Fleet overview: how far are the fleets, what waits, and what do guests notice of it?"""

from grafana_foundation_sdk.builders.dashboard import Dashboard

from dashboards.board import Section, board
from dashboards.panels import (
    GREEN,
    ORANGE,
    RED,
    YELLOW,
    Column,
    Jump,
    Panel,
    Query,
    bars,
    figure,
    rows,
    series,
)
from dashboards.quantiles import over_range, over_time
from dashboards.uids import FLEET, MIGRATION
from dashboards.variables import label_values

_ANY_RED = ((None, GREEN), (1, RED))
_WAIT_S = ((None, GREEN), (300, YELLOW), (900, RED))
_DOWNTIME_S = ((None, GREEN), (0.3, YELLOW), (1, RED))
_WHO = "fleet, vm, phase, kind, source, destination"


def dashboard() -> Dashboard:
    """Build it."""
    sections: list[Section] = [
        ("Now", _now()),
        ("Progress", _progress()),
        ("Under way", [_under_way()]),
        ("What guests notice", _downtime()),
        ("Waiting", _waiting()),
    ]
    variables = [label_values("fleet", "Fleet", "kuaka_fleet_migrations", "fleet")]
    return board(FLEET, "kuaka: fleet overview", (__doc__ or "").strip(), variables, sections)


def _now() -> list[Panel]:
    return [
        figure("Fleets", "Fleets under way, paused ones included.", "short", Query("sum(kuaka_fleets)")),
        figure(
            "Running",
            "Migrations that move bytes, hand over or are verified.",
            "short",
            Query('sum(kuaka_vmi_migrations_in_running_phase{fleet=~"$fleet"})'),
        ),
        figure(
            "Waiting",
            "Migrations without a slot: they wait, or are held back.",
            "short",
            Query('sum(kuaka_vmi_migrations_in_pending_phase{fleet=~"$fleet"})'),
        ),
        figure(
            "Longest wait",
            "How long the migration that has waited longest has been pending. `kuaka status` says what for.",
            "s",
            Query('max(kuaka_fleet_longest_wait_seconds{fleet=~"$fleet"})'),
            steps=_WAIT_S,
        ),
        figure(
            "Time to go",
            "Until the last fleet is done, if it goes on as in the last minute. None while nothing moves.",
            "s",
            Query('max(kuaka_fleet_eta_seconds{fleet=~"$fleet"})'),
        ),
        figure(
            "Failed",
            "Migrations that have failed since the controller started; their guests run where they were.",
            "short",
            Query('sum(kuaka_migrations_finished_total{fleet=~"$fleet", outcome="failed"}) or vector(0)'),
            steps=_ANY_RED,
        ),
    ]


def _progress() -> list[Panel]:
    return [
        rows(
            "Fleets",
            "Each fleet under way: how large it is, how far it is, and when it will be done.",
            {"fleet": "Fleet"},
            Column("Migrations", _by_fleet("kuaka_fleet_migrations"), "short"),
            Column("Memory", _by_fleet("kuaka_fleet_data_bytes"), "bytes"),
            Column("Moved", _by_fleet("kuaka_fleet_data_moved_bytes"), "bytes"),
            Column("Progress", _by_fleet("kuaka_fleet_progress_ratio"), "percentunit"),
            Column("Time to go", _by_fleet("kuaka_fleet_eta_seconds"), "s"),
            Column("Longest wait", _by_fleet("kuaka_fleet_longest_wait_seconds"), "s", _WAIT_S),
            Column("Under way for", f"time() - {_by_fleet('kuaka_fleet_submitted_time_seconds')}", "s"),
            Column("Weight", _by_fleet("kuaka_fleet_weight"), "short"),
            jump=Jump("Its migrations", MIGRATION, (("fleet", "Fleet"),)),
        ),
        bars(
            "Progress",
            "Memory that has been moved, of all that the fleet has.",
            "percentunit",
            Query(_by_fleet("kuaka_fleet_progress_ratio"), "{{fleet}}"),
            most=1,
        ),
        series(
            "Phases",
            "How many migrations are in each phase. Many in Preparing or Switchover: hosts are slow at it.",
            "short",
            Query('sum by (phase) (kuaka_vmi_migrations_in_phase{fleet=~"$fleet"})', "{{phase}}"),
            stacked=True,
        ),
        series(
            "Guest memory sent",
            "What the hosts send, before coding; later rounds count again.",
            "Bps",
            Query(
                "sum by (host)"
                ' (clamp_min(deriv(kuaka_vmi_migration_data_processed_bytes{fleet=~"$fleet"}[$__rate_interval]), 0))',
                "{{host}}",
            ),
            stacked=True,
        ),
        series(
            "Migrations that end",
            "Per second, by how they ended. Failed ones that have attempts left are counted as retries.",
            "ops",
            Query(
                'sum by (outcome) (rate(kuaka_migrations_finished_total{fleet=~"$fleet"}[$__rate_interval]))',
                "{{outcome}}",
            ),
            Query("sum(rate(kuaka_migration_retries_total[$__rate_interval]))", "retries"),
        ),
        series(
            "Bytes of completed migrations",
            "Guest memory that completed migrations had sent, and what it was on the wire.",
            "Bps",
            Query("sum(rate(kuaka_migrated_bytes_total[$__rate_interval]))", "memory"),
            Query("sum(rate(kuaka_migrated_wire_bytes_total[$__rate_interval]))", "on the wire"),
        ),
        series(
            "Before they run",
            "Migrations that wait, and those that were admitted and are being prepared.",
            "short",
            Query('sum by (fleet) (kuaka_vmi_migrations_in_pending_phase{fleet=~"$fleet"})', "{{fleet}} pending"),
            Query('sum by (fleet) (kuaka_vmi_migrations_in_scheduling_phase{fleet=~"$fleet"})', "{{fleet}} scheduling"),
        ),
    ]


def _under_way() -> Panel:
    return rows(
        "Migrations under way",
        "Each of them, with its phase and its hosts. A dirty rate above the transfer rate does not converge by itself.",
        {
            "vm": "VM",
            "fleet": "Fleet",
            "phase": "Phase",
            "kind": "Kind",
            "source": "From",
            "destination": "To",
        },
        Column("Here", f'max by ({_WHO}) (kuaka_vmi_migration_info{{fleet=~"$fleet"}})', "short", hidden=True),
        Column("Remaining", _of_each("kuaka_vmi_migration_data_remaining_bytes"), "bytes"),
        Column("Sent per second", _sent_by_each(), "Bps"),
        Column("Changed per second", _of_each("kuaka_vmi_migration_dirty_memory_rate_bytes"), "Bps"),
        Column("Rounds", _of_each("kuaka_vmi_migration_rounds"), "short", ((None, GREEN), (10, YELLOW), (30, ORANGE))),
        jump=Jump("This migration", MIGRATION, (("fleet", "Fleet"), ("vm", "VM"))),
    )


def _downtime() -> list[Panel]:
    measured = "kuaka_migration_downtime_seconds"
    return [
        figure(
            "Downtime, median",
            "Half of the guests stood still for less, in the time that is shown.",
            "s",
            Query(over_range(0.5, measured)),
            height=8,
            steps=_DOWNTIME_S,
        ),
        figure(
            "Downtime, 99 %",
            "One guest in a hundred stood still for longer, in the time that is shown.",
            "s",
            Query(over_range(0.99, measured)),
            height=8,
            steps=_DOWNTIME_S,
        ),
        bars(
            "Downtime, distribution",
            "How many guests stood still for how long, in seconds at most, in the time that is shown.",
            "short",
            Query(f"sum by (le) (increase({measured}_bucket[$__range]))", "{{le}}", buckets=True),
        ),
        series(
            "Downtime over time",
            "RESUME at the destination minus STOP at the source, as we see them; and what QEMU says of itself: it "
            "does not see what is still under way when it stops.",
            "s",
            Query(over_time(0.5, measured), "median"),
            Query(over_time(0.99, measured), "99 %"),
            Query(over_time(0.99, "kuaka_migration_qemu_downtime_seconds"), "99 %, by QEMU"),
            steps=_DOWNTIME_S,
        ),
        series(
            "Kept running for a ticket",
            "How long guests were kept from their stop until the accelerator had room for their last pages.",
            "s",
            Query(over_time(0.5, "kuaka_migration_ticket_wait_seconds"), "median"),
            Query(over_time(0.99, "kuaka_migration_ticket_wait_seconds"), "99 %"),
            width=12,
        ),
        series(
            "Rounds",
            "Pre-copy rounds of completed migrations. Many: guests change memory nearly as fast as it is sent.",
            "short",
            Query(over_time(0.5, "kuaka_migration_rounds"), "median"),
            Query(over_time(0.99, "kuaka_migration_rounds"), "99 %"),
            width=12,
        ),
    ]


def _waiting() -> list[Panel]:
    phase = "kuaka_migration_phase_duration_seconds"
    since_submission = "kuaka_vmi_migration_phase_transition_time_from_creation_seconds"
    return [
        series(
            "Wait for a slot",
            "From a migration's first wish to begin until its first slot.",
            "s",
            Query(over_time(0.5, "kuaka_migration_queue_wait_seconds"), "median"),
            Query(over_time(0.99, "kuaka_migration_queue_wait_seconds"), "99 %"),
            steps=_WAIT_S,
        ),
        series(
            "Time a migration takes",
            "Of those that completed, their wait not counted.",
            "s",
            Query(over_time(0.5, "kuaka_migration_duration_seconds"), "median"),
            Query(over_time(0.99, "kuaka_migration_duration_seconds"), "99 %"),
        ),
        series(
            "Time in each phase",
            "Mean of the migrations that left the phase.",
            "s",
            Query(
                f"sum by (phase) (rate({phase}_sum[$__rate_interval]))"
                f" / sum by (phase) (rate({phase}_count[$__rate_interval]))",
                "{{phase}}",
            ),
        ),
        series(
            "Time from submission to each phase",
            "Mean of the migrations that came into the phase; what KubeVirt calls phase transition time from creation.",
            "s",
            Query(
                f"sum by (phase) (rate({since_submission}_sum[$__rate_interval]))"
                f" / sum by (phase) (rate({since_submission}_count[$__rate_interval]))",
                "{{phase}}",
            ),
            width=12,
        ),
        series(
            "Changes of phase",
            "How often migrations come into each phase, per second.",
            "ops",
            Query("sum by (phase) (rate(kuaka_migration_phase_transitions_total[$__rate_interval]))", "{{phase}}"),
            width=12,
        ),
    ]


def _by_fleet(metric: str) -> str:
    return f'max by (fleet) ({metric}{{fleet=~"$fleet"}})'


def _of_each(metric: str) -> str:
    """A figure of each migration with the labels that say where it is."""
    return _with_place(f'max by (fleet, vm) ({metric}{{fleet=~"$fleet"}})')


def _sent_by_each() -> str:
    """QEMU says how fast it sends; of an image the bytes do."""
    by_qemu = 'max by (fleet, vm) (kuaka_vmi_migration_memory_transfer_rate_bytes{fleet=~"$fleet"})'
    bytes_sent = 'kuaka_vmi_migration_data_processed_bytes{fleet=~"$fleet"}'
    return _with_place(f"({by_qemu} or max by (fleet, vm) (deriv({bytes_sent}[$__rate_interval])))")


def _with_place(of_each: str) -> str:
    info = f'max by ({_WHO}) (kuaka_vmi_migration_info{{fleet=~"$fleet"}})'
    return f"{info} * on (fleet, vm) group_left () {of_each}"
