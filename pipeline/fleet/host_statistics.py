"""What a host looks like from outside: taken on request, on the host's loop. Metrics are made from it."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from pipeline.fleet.host_accelerators import AcceleratorStatistics
from pipeline.offload import OffloadCounters
from pipeline.qemu.switchover import RamProgress
from pipeline.shard import ShardCounters


class SentKind(StrEnum):
    """What is being sent."""

    QEMU = "qemu"
    IMAGE = "image"


@dataclass(frozen=True, slots=True)
class SentSession:
    """One migration that leaves a host."""

    vm: str
    fleet: str
    kind: SentKind
    #: When it began, seconds since 1970.
    began_s: float
    #: Memory to be moved at least once; 0 where this host does not know.
    total_bytes: int
    counters: ShardCounters
    #: What QEMU said last; None for an image, and before it was asked.
    ram: RamProgress | None = None
    offload: OffloadCounters | None = None
    ticket_wait_ms: float | None = None


@dataclass(frozen=True, slots=True)
class HostStatistics:
    """One host."""

    sent: tuple[SentSession, ...]
    #: How many are being received.
    received: Mapping[SentKind, int]
    #: All that was sent and received since the host has workers, sessions that have ended included.
    sent_total: ShardCounters
    received_total: ShardCounters
    #: Sessions that failed here, by direction.
    failed: Mapping[str, int]
    accelerators: AcceleratorStatistics | None
