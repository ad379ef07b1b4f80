"""How many migrations may run at the same time, and how much of each link they may be promised."""

from collections.abc import Mapping
from dataclasses import dataclass, field

# KubeVirt's defaults; it has no limit on what arrives at a host, ours is what may leave one.
PARALLEL_PER_CLUSTER = 5
PARALLEL_OUTBOUND_PER_HOST = 2
PARALLEL_INBOUND_PER_HOST = 2


@dataclass(frozen=True, slots=True)
class Limits:
    """Numbers of migrations, bytes per second, flows. What a mapping does not name has no limit of its own."""

    cluster: int = PARALLEL_PER_CLUSTER
    outbound_per_host: int = PARALLEL_OUTBOUND_PER_HOST
    inbound_per_host: int = PARALLEL_INBOUND_PER_HOST
    #: By host: wire bytes per second, in each direction.
    link_bytes_s: Mapping[str, int] = field(default_factory=dict)
    #: By accelerator pool (host/kind): migrations that may use it at the same time.
    pool_flows: Mapping[str, int] = field(default_factory=dict)
    #: Instead of `outbound_per_host` and `inbound_per_host`, for the hosts named.
    outbound: Mapping[str, int] = field(default_factory=dict)
    inbound: Mapping[str, int] = field(default_factory=dict)

    def outbound_of(self, host: str) -> int:
        """Migrations that may leave `host` at the same time."""
        return self.outbound.get(host, self.outbound_per_host)

    def inbound_of(self, host: str) -> int:
        """Migrations that may arrive at `host` at the same time."""
        return self.inbound.get(host, self.inbound_per_host)
