"""What a metric's declaration says; each house declares its own in one module, `scheduler.metrics`, `pipeline.metrics`.

The rules: names begin with `kuaka_`, carry their unit (seconds, bytes, ratio, ...) and end in `_total` where they are
counters, as Prometheus has it; times are seconds, never ns. A label's values are few and known (a pool, a host, a
reason), but for `vm`, whose series live as long as its migration does, and `tenant` and `fleet`, of which only so many
have a name and the rest is "other".
"""

from dataclasses import dataclass
from enum import StrEnum

#: The label value of everybody who has no series of their own.
OTHER = "other"


class MetricKind(StrEnum):
    """How Prometheus is to read it."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric. `name` is the one in the exposition; a histogram's buckets are upper bounds without +Inf."""

    name: str
    kind: MetricKind
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


def counter(name: str, text: str, labels: tuple[str, ...] = ()) -> Metric:
    """What only grows while its process lives."""
    return Metric(name, MetricKind.COUNTER, text, labels)


def gauge(name: str, text: str, labels: tuple[str, ...] = ()) -> Metric:
    """What is now."""
    return Metric(name, MetricKind.GAUGE, text, labels)


def histogram(name: str, text: str, buckets: tuple[float, ...], labels: tuple[str, ...] = ()) -> Metric:
    """How often something took how long."""
    return Metric(name, MetricKind.HISTOGRAM, text, labels, buckets)
