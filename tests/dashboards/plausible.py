"""A process that exports every declared metric with plausible values, so that every panel has something to show."""

import itertools
import time
from collections.abc import Callable, Iterator

from scheduler.metric import Metric, MetricKind
from scheduler.readings import Readings
from tests.dashboards.declared import METRICS

#: Values of labels; `kind` is a page's, a migration's or a device's.
LABELS: dict[str, tuple[str, ...]] = {
    "by": ("iaa", "cpu"),
    "class": ("bulk", "background"),
    "codec": ("zstd", "none"),
    "destination": ("b",),
    "direction": ("send", "receive"),
    "fleet": ("drain",),
    "host": ("a",),
    "kind": ("iaa",),
    "outcome": ("succeeded", "failed"),
    "phase": ("Running",),
    "pool": ("a/iaa/0",),
    "reason": ("queued", "no-slots"),
    "role": ("agent",),
    "source": ("a",),
    "state": ("steady", "busy"),
    "tenant": ("drain", "other"),
    "vm": ("db-1",),
}
#: What counters gain.
_PER_SECOND = 100.0


class EveryMetric:
    """A part of an `Exposition`: counters and buckets grow from scrape to scrape, gauges are 1 or a time."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._began = clock()

    def __call__(self, readings: Readings) -> None:
        age_s = self._clock() - self._began
        for metric in METRICS:
            for values in _label_values(metric):
                if metric.kind is MetricKind.HISTOGRAM:
                    counts = [1 + int(age_s)] * (len(metric.buckets) + 1)
                    readings.put_distribution(metric, counts, age_s, *values)
                else:
                    readings.put(metric, self._value(metric, age_s), *values)

    def _value(self, metric: Metric, age_s: float) -> float:
        if metric.kind is MetricKind.COUNTER:
            return _PER_SECOND * age_s
        return self._began - 1 if metric.name.endswith("time_seconds") else 1.0


def _label_values(metric: Metric) -> Iterator[tuple[str, ...]]:
    return itertools.product(*(LABELS[label] for label in metric.labels))
