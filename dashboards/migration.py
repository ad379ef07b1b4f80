"""One migration: where is it, does it converge, who compresses its pages, and what does it wait for?

Its series are there while it is: choose a time in which it was under way.
"""

from grafana_foundation_sdk.builders.dashboard import Dashboard

from dashboards.board import Section, board
from dashboards.panels import GREEN, ORANGE, RED, YELLOW, Column, Jump, Panel, Query, figure, rows, series, states
from dashboards.uids import HOST, MIGRATION
from dashboards.variables import label_values

_THIS = 'fleet=~"$fleet", vm="$vm"'
_ROUNDS = ((None, GREEN), (10, YELLOW), (30, ORANGE))
_TICKET_WAIT_S = ((None, GREEN), (1, YELLOW), (5, RED))


def dashboard() -> Dashboard:
    """Build it."""
    sections: list[Section] = [
        ("Where it is", _place()),
        ("Does it converge", _convergence()),
        ("Its pages", _pages()),
        ("Its accelerator", _accelerator()),
    ]
    variables = [
        label_values("fleet", "Fleet", "kuaka_vmi_migration_info", "fleet"),
        label_values("vm", "VM", 'kuaka_vmi_migration_info{fleet=~"$fleet"}', "vm", many=False),
    ]
    return board(MIGRATION, "kuaka: one migration", " ".join((__doc__ or "").split()), variables, sections)


def _place() -> list[Panel]:
    return [
        rows(
            "Now",
            "Its phase, what it is, and the hosts that it leaves and goes to. Empty once it has ended.",
            {"vm": "VM", "fleet": "Fleet", "kind": "Kind", "phase": "Phase", "source": "From", "destination": "To"},
            Column(
                "Here",
                f"max by (fleet, vm, phase, kind, source, destination) (kuaka_vmi_migration_info{{{_THIS}}})",
                "short",
                hidden=True,
            ),
            jump=Jump("Its source", HOST, (("host", "From"),)),
            width=12,
        ),
        states(
            "Phases",
            "When it was in which phase. Back in Pending means that an attempt failed and another one is to come.",
            Query(f"max by (phase) (kuaka_vmi_migration_info{{{_THIS}}})", "{{phase}}"),
            names={"1": ("here", GREEN)},
            width=12,
        ),
        figure("Remaining", "Guest memory still to be sent.", "bytes", Query(_sum("data_remaining_bytes"))),
        figure("Sent per second", "Guest memory, before coding.", "Bps", Query(_sent())),
        figure(
            "Changed per second",
            "By the guest, as of QEMU's last round.",
            "Bps",
            Query(_sum("dirty_memory_rate_bytes")),
        ),
        figure("Rounds", "Pre-copy rounds so far.", "short", Query(_max("rounds")), steps=_ROUNDS),
        figure(
            "Under way for", "Since its attempt's first bytes.", "s", Query(f"time() - {_max('start_time_seconds')}")
        ),
        figure(
            "Kept for a ticket",
            "How long the running guest was kept from its stop until the accelerator had room for its last pages.",
            "s",
            Query(_max("ticket_wait_seconds")),
            steps=_TICKET_WAIT_S,
        ),
    ]


def _convergence() -> list[Panel]:
    return [
        series(
            "Remaining",
            "Memory still to be sent, beside what has been sent in all rounds. A saw that does not get lower does not "
            "converge.",
            "bytes",
            Query(_sum("data_remaining_bytes"), "remaining"),
            Query(_sum("data_processed_bytes"), "sent"),
            Query(_sum("data_bytes_total"), "to be moved"),
            width=12,
        ),
        series(
            "Sent against changed",
            "It ends by itself while more is sent than the guest changes.",
            "Bps",
            Query(_sent(), "sent"),
            Query(_sum("dirty_memory_rate_bytes"), "changed by the guest"),
            Query(f"sum(rate(kuaka_vmi_migration_wire_bytes_total{{{_THIS}}}[$__rate_interval]))", "on the wire"),
            width=12,
        ),
    ]


def _pages() -> list[Panel]:
    sent = f"sum(rate(kuaka_vmi_migration_pages_total{{{_THIS}}}[$__rate_interval]))"
    return [
        series(
            "Pages by kind",
            "Zero and same-filled pages cost next to nothing; normal ones are coded.",
            "pps",
            Query(f"sum by (kind) (rate(kuaka_vmi_migration_pages_total{{{_THIS}}}[$__rate_interval]))", "{{kind}}"),
            stacked=True,
            width=12,
        ),
        series(
            "Wire per page",
            "Bytes on the wire for each page that is sent, zero ones included. At 4096 nothing shrinks.",
            "bytes",
            Query(
                f"sum(rate(kuaka_vmi_migration_wire_bytes_total{{{_THIS}}}[$__rate_interval])) / ({sent} > 0)",
                "wire bytes per page",
            ),
            steps=((None, GREEN), (4096, RED)),
            width=12,
        ),
    ]


def _accelerator() -> list[Panel]:
    return [
        series(
            "Who codes its pages",
            "Normal pages by the accelerator and by the CPU. Empty without an accelerator.",
            "pps",
            Query(f"sum by (by) (rate(kuaka_vmi_migration_coded_pages_total{{{_THIS}}}[$__rate_interval]))", "{{by}}"),
            stacked=True,
            width=12,
        ),
        series(
            "Waits for credit",
            "Time per second that its threads together wait for credit. A batch waits 2 ms, then the CPU does it.",
            "s",
            Query(f"sum(rate(kuaka_vmi_migration_credit_wait_seconds_total{{{_THIS}}}[$__rate_interval]))", "waiting"),
            width=12,
        ),
    ]


def _sent() -> str:
    """QEMU says how fast it sends; of an image the bytes do."""
    by_bytes = f"sum(deriv(kuaka_vmi_migration_data_processed_bytes{{{_THIS}}}[$__rate_interval]))"
    return f"{_sum('memory_transfer_rate_bytes')} or {by_bytes}"


def _sum(name: str) -> str:
    """Over the host that sends it: one, unless an attempt has just followed another."""
    return f"sum(kuaka_vmi_migration_{name}{{{_THIS}}})"


def _max(name: str) -> str:
    return f"max(kuaka_vmi_migration_{name}{{{_THIS}}})"
