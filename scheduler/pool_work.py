"""What a host's workers came to on one pool, flows that have ended included."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from scheduler.sub_leases import FlowCounters


@dataclass(slots=True)
class PoolWork:
    """Sums over flows, since the client is there; see `FlowCounters`."""

    used_ns: int = 0
    wait_ns: int = 0
    busy_retries: int = 0
    accelerator_pages: int = 0
    cpu_pages: int = 0
    #: Batches that got no credit, by why.
    fallbacks: Counter[str] = field(default_factory=Counter)

    def add(self, flow: FlowCounters, fallbacks: Mapping[str, int]) -> None:
        """Add a flow's."""
        self.used_ns += flow.used_ns
        self.wait_ns += flow.wait_ns
        self.busy_retries += flow.busy_retries
        self.accelerator_pages += flow.accelerator_pages
        self.cpu_pages += flow.cpu_pages
        self.fallbacks.update(fallbacks)
