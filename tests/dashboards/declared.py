"""The series that both houses declare, by the names that queries select."""

from pipeline.metrics import METRICS as PIPELINE
from scheduler.metric import Metric, MetricKind
from scheduler.metrics import METRICS as SCHEDULER

METRICS = (*PIPELINE, *SCHEDULER)


def _series(metric: Metric) -> dict[str, set[str]]:
    if metric.kind is not MetricKind.HISTOGRAM:
        return {metric.name: set(metric.labels)}
    labels = set(metric.labels)
    return {f"{metric.name}_bucket": labels | {"le"}, f"{metric.name}_sum": labels, f"{metric.name}_count": labels}


#: Their labels, by name.
SERIES: dict[str, set[str]] = {name: labels for metric in METRICS for name, labels in _series(metric).items()}
