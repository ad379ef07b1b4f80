"""Host: what moves from and to it, at what ratio, what that costs it, and do its processes keep up?"""

from grafana_foundation_sdk.builders.dashboard import Dashboard

from dashboards.board import Section, board
from dashboards.panels import GREEN, RED, YELLOW, Column, Jump, Panel, Query, figure, rows, series, states
from dashboards.uids import ACCELERATORS, HOST
from dashboards.variables import label_values

_HERE = 'host=~"$host"'
_ANY_RED = ((None, GREEN), (1, RED))
_SILENCE_S = ((None, GREEN), (1, YELLOW), (10, RED))
_LAG_S = ((None, GREEN), (0.1, YELLOW), (1, RED))


def dashboard() -> Dashboard:
    """Build it."""
    sections: list[Section] = [
        ("Now", _now()),
        ("What is sent", _sent()),
        ("What arrives", _received()),
        ("Accelerators, as this host sees them", _accelerators()),
        ("Processes", _processes()),
    ]
    # Every exporter says which host it is on, agents, controller and scheduler.
    variables = [label_values("host", "Host", "kuaka_process_start_time_seconds", "host")]
    return board(HOST, "kuaka: host", (__doc__ or "").strip(), variables, sections)


def _now() -> list[Panel]:
    return [
        figure(
            "Leaving",
            "Migrations that are sent from here.",
            "short",
            Query(f'sum(kuaka_host_migrations{{{_HERE}, direction="send"}})'),
        ),
        figure(
            "Arriving",
            "Migrations that are received here.",
            "short",
            Query(f'sum(kuaka_host_migrations{{{_HERE}, direction="receive"}})'),
        ),
        figure(
            "Failed sessions",
            "Since the agent started, of both directions.",
            "short",
            Query(f"sum(kuaka_host_failed_sessions_total{{{_HERE}}})"),
            steps=_ANY_RED,
        ),
        figure(
            "Scheduler silent for",
            "Since it last answered this host; without it the CPU does all the work. None: there is none.",
            "s",
            Query(f"max(kuaka_host_scheduler_silence_seconds{{{_HERE}}})"),
            steps=_SILENCE_S,
        ),
        figure(
            "Event loop late by",
            "The worst of the last 10 s.",
            "s",
            Query(f"max(kuaka_process_event_loop_lag_seconds{{{_HERE}}})"),
            steps=_LAG_S,
        ),
        figure(
            "Incomplete scrapes",
            "Scrapes that a part's figures were missing from, since the processes started.",
            "short",
            Query(f"sum(kuaka_exporter_failed_collections_total{{{_HERE}}})"),
            steps=_ANY_RED,
        ),
    ]


def _sent() -> list[Panel]:
    raw, wire = _rate("raw_bytes_total", "codec"), _rate("wire_bytes_total", "codec")
    return [
        series(
            "Bytes before coding, by codec",
            "Normal pages. `none` is what was sent as it is, also where a codec could not shrink it.",
            "Bps",
            Query(raw, "{{codec}}"),
            stacked=True,
        ),
        series(
            "Bytes on the wire, by codec",
            "The same pages after coding, frames included.",
            "Bps",
            Query(wire, "{{codec}}"),
            stacked=True,
        ),
        series(
            "What is left by each codec",
            "Bytes on the wire of those before coding. Near 100 % the codec is not worth its work.",
            "percentunit",
            Query(f"{wire} / ({raw} > 0)", "{{codec}}"),
            steps=((None, GREEN), (0.95, YELLOW)),
        ),
        series(
            "Pages by kind",
            "announced_zero: QEMU said so itself; zero and same: found by us; normal: coded.",
            "pps",
            Query(_rate("pages_total", "kind"), "{{kind}}"),
            stacked=True,
            width=12,
        ),
        series(
            "Migrations",
            "Under way here, by direction and kind.",
            "short",
            Query(f"sum by (direction, kind) (kuaka_host_migrations{{{_HERE}}})", "{{direction}} {{kind}}"),
            stacked=True,
            width=12,
        ),
    ]


def _received() -> list[Panel]:
    return [
        series(
            "Bytes that arrive",
            "Guest memory after decoding, and what it was on the wire.",
            "Bps",
            Query(_rate("received_raw_bytes_total", "host"), "{{host}} memory"),
            Query(_rate("received_wire_bytes_total", "host"), "{{host}} on the wire"),
            width=12,
        ),
        series(
            "Sessions that fail",
            "Per second, by direction. Each is a failed attempt; the source's guest runs on.",
            "ops",
            Query(_rate("failed_sessions_total", "direction"), "{{direction}}"),
            width=12,
        ),
    ]


def _accelerators() -> list[Panel]:
    return [
        rows(
            "Pools",
            "This host's accelerators: whether they answer, what is leased of them, who waits and how long.",
            {"pool": "Pool", "host": "Host", "kind": "Kind"},
            Column("Up", _of_pool("up"), "short", ((None, RED), (1, GREEN))),
            Column("Slots", _of_pool("capacity_slots"), "short"),
            Column("Leased", _of_pool("leased_slots"), "short"),
            Column("Flows that wait", _of_pool("waiting_flows"), "short"),
            Column("Expected wait", _of_pool("expected_wait_seconds"), "s"),
            jump=Jump("This pool", ACCELERATORS, (("host", "Host"), ("pool", "Pool"))),
        ),
        series(
            "Who codes the pages",
            "Normal pages of sessions that have an accelerator, by who coded them.",
            "pps",
            Query(_rate("coded_pages_total", "by"), "{{by}}"),
            stacked=True,
        ),
        series(
            "Batches that got no credit",
            "They asked, waited 2 ms and were done by the CPU, by the reason that the scheduler gave.",
            "ops",
            Query(_rate("fallbacks_total", "reason"), "{{reason}}"),
            stacked=True,
        ),
        series(
            "Waits for credit",
            "Time per second that all threads of this host wait for credit.",
            "s",
            Query(_rate("credit_wait_seconds_total", "pool"), "{{pool}}"),
        ),
        series(
            "Device time used",
            "Per second, by this host's workers: 1 is one engine.",
            "short",
            Query(_rate("device_seconds_total", "pool"), "{{pool}}"),
        ),
        series(
            "Submissions repeated",
            "Because the device's queue was full. None, while everybody keeps to leases.",
            "ops",
            Query(_rate("busy_retries_total", "pool"), "{{pool}}"),
        ),
        states(
            "Overloaded",
            "When the pool's queue stood, so that no migration that needs it should begin.",
            Query(f"max by (pool) (kuaka_host_pool_overloaded{{{_HERE}}})", "{{pool}}"),
            names={"0": ("no", GREEN), "1": ("yes", RED)},
            width=8,
        ),
    ]


def _processes() -> list[Panel]:
    return [
        series(
            "CPU",
            "CPU time per second of each process that has an exporter, workers not included: 1 is one core.",
            "short",
            Query(
                f"sum by (role, host) (rate(kuaka_process_cpu_seconds_total{{{_HERE}}}[$__rate_interval]))",
                "{{role}} on {{host}}",
            ),
        ),
        series(
            "Memory",
            "Resident, workers not included.",
            "bytes",
            Query(f"sum by (role, host) (kuaka_process_resident_memory_bytes{{{_HERE}}})", "{{role}} on {{host}}"),
        ),
        series(
            "Event loop late by",
            "How much later than asked for it called back, the worst of 10 s. One that is late is taken for dead.",
            "s",
            Query(f"max by (role, host) (kuaka_process_event_loop_lag_seconds{{{_HERE}}})", "{{role}} on {{host}}"),
            steps=_LAG_S,
        ),
        series(
            "Running for",
            "Since each process started; a fall is a restart.",
            "s",
            Query(
                f"time() - max by (role, host) (kuaka_process_start_time_seconds{{{_HERE}}})", "{{role}} on {{host}}"
            ),
            width=12,
        ),
        series(
            "Scheduler silent for",
            "Since it last answered each host.",
            "s",
            Query(f"max by (host) (kuaka_host_scheduler_silence_seconds{{{_HERE}}})", "{{host}}"),
            steps=_SILENCE_S,
            width=12,
        ),
    ]


def _rate(name: str, label: str) -> str:
    return f"sum by ({label}) (rate(kuaka_host_{name}{{{_HERE}}}[$__rate_interval]))"


def _of_pool(name: str) -> str:
    return f"max by (pool, host, kind) (kuaka_pool_{name}{{{_HERE}}})"
