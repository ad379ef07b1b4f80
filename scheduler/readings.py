"""What one scrape finds: samples of declared metrics, and the registry that asks for them.

A process makes its own registry (`Exposition.registry`), with nothing in it but what is declared. Whoever has
figures is a part: a function that is called for each scrape with the `Readings` to fill, in the scrape's own thread.
One that fails costs its figures and is counted; the rest of the page is there all the same.
"""

import itertools
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence

from prometheus_client import CollectorRegistry
from prometheus_client import Metric as Family
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

from scheduler.metric import Metric
from scheduler.metrics import FAILED_COLLECTIONS

_TOTAL = "_total"

_log = logging.getLogger(__name__)


class Readings:
    """The samples of one scrape. A metric that was given none is left out."""

    def __init__(self) -> None:
        #: By the metric's name, whose hash is known.
        self._families: dict[str, Family] = {}
        #: One for all series with the same labels, so that a page has their text once.
        self._labels: dict[tuple[tuple[str, ...], tuple[str, ...]], dict[str, str]] = {}

    def put(self, metric: Metric, value: float, *labels: str) -> None:
        """One sample; `labels` are the values of the metric's labels in their order. No series may be given twice."""
        named = self._labels.get((metric.labels, labels))
        if named is None:
            named = self._labels[metric.labels, labels] = dict(zip(metric.labels, labels, strict=True))
        self._family(metric).samples.append(Sample(metric.name, named, value))

    def put_distribution(self, metric: Metric, counts: Sequence[int], total: float, *labels: str) -> None:
        """A histogram's series: `counts` by bucket, one more than there are bounds, and the sum of all seen."""
        samples = self._family(metric).samples
        named = dict(zip(metric.labels, labels, strict=True))
        bounds = [*(f"{bound:g}" for bound in metric.buckets), "+Inf"]
        for bound, count in zip(bounds, itertools.accumulate(counts), strict=True):
            samples.append(Sample(f"{metric.name}_bucket", {**named, "le": bound}, count))
        samples.append(Sample(f"{metric.name}_count", named, sum(counts)))
        samples.append(Sample(f"{metric.name}_sum", named, total))

    def families(self) -> Iterable[Family]:
        """What the client library writes a page of."""
        return self._families.values()

    def _family(self, metric: Metric) -> Family:
        family = self._families.get(metric.name)
        if family is None:
            family = self._families[metric.name] = Family(
                metric.name.removesuffix(_TOTAL), metric.help, metric.kind.value
            )
        return family


#: Raises `Exception` for figures that cannot be had.
Part = Callable[[Readings], None]


class Exposition(Collector):
    """The figures of one process; `role` and `host` say whose."""

    def __init__(self, role: str, host: str, parts: Iterable[Part]) -> None:
        self.registry = CollectorRegistry(auto_describe=False)
        self._parts = list(parts)
        self._identity = role, host
        self._failures = 0
        self.registry.register(self)

    def collect(self) -> Iterator[Family]:
        """One scrape."""
        readings = Readings()
        for part in self._parts:
            found = Readings()
            try:
                part(found)
            except Exception as error:
                self._failures += 1
                _log.info("metrics: %s: %s", type(error).__name__, error)
            else:
                yield from found.families()
        readings.put(FAILED_COLLECTIONS, self._failures, *self._identity)
        yield from readings.families()
