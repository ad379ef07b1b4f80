"""The tables of docs/metrics.md, made of the declarations: `python -m tests.metrics_table` prints them anew."""

from collections.abc import Callable, Sequence

from pipeline import metrics as pipeline_metrics
from scheduler import metrics as scheduler_metrics
from scheduler.metric import Metric

EVERY: tuple[Metric, ...] = scheduler_metrics.METRICS + pipeline_metrics.METRICS
_OF_ALL = ("kuaka_process_", "kuaka_exporter_")
_SCHEDULER = ("kuaka_scheduler_", "kuaka_pool_", "kuaka_tenant_")

SECTIONS: tuple[tuple[str, Callable[[Metric], bool]], ...] = (
    ("Every exporter", lambda metric: metric.name.startswith(_OF_ALL)),
    ("Scheduler", lambda metric: metric.name.startswith(_SCHEDULER)),
    (
        "Agent: each migration that leaves its host, while it does",
        lambda metric: metric.labels[:3] == ("host", "fleet", "vm"),
    ),
    ("Agent: its host", lambda metric: metric.labels[:1] == ("host",)),
    ("Controller", lambda metric: True),
)


def tables() -> str:
    """Markdown, a heading and a table for each section; every metric is in the first section that has it."""
    left = list(EVERY)
    parts = []
    for heading, belongs in SECTIONS:
        parts.append(f"### {heading}\n\n{_table([metric for metric in left if belongs(metric)])}")
        left = [metric for metric in left if not belongs(metric)]
    return "\n\n".join(parts)


def _table(metrics: Sequence[Metric]) -> str:
    rows = [f"| `{each.name}` | {each.kind} | {', '.join(each.labels)} | {each.help} |" for each in metrics]
    return "\n".join(("| name | type | labels | meaning |", "|---|---|---|---|", *rows))


if __name__ == "__main__":
    print(tables())  # noqa: T201
