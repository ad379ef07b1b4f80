"""Snapshots of hosts as agents' exporters are given them, and what a page says."""

from collections import Counter
from collections.abc import Iterable

from prometheus_client.registry import Collector

from pipeline.fleet.host_accelerators import AcceleratorStatistics
from pipeline.fleet.host_statistics import HostStatistics, SentKind, SentSession
from pipeline.offload import OffloadCounters
from pipeline.qemu.switchover import RamProgress
from pipeline.shard import ShardCounters
from scheduler.pool_work import PoolWork

POOL = "run-1/a/iaa/0"
COUNTERS = ShardCounters(
    pages=1000,
    announced_zero_pages=100,
    zero_pages=200,
    same_pages=50,
    raw_bytes=1000 * 4096,
    wire_bytes=2_000_000,
    codec_pages={"zstd": 600, "none": 50},
    codec_wire_bytes={"zstd": 1_795_200, "none": 204_800},
)


def guest(vm: str, fleet: str = "drain", wire_bytes: int = 2_000_000) -> SentSession:
    """A guest that has an accelerator and waits for its ticket."""
    counters = ShardCounters()
    counters.add(COUNTERS)
    counters.wire_bytes = wire_bytes
    ram = RamProgress("active", 3, 5_000_000, 90_000_000, 1_000_000)
    offload = OffloadCounters(400, 250, 0, 30_000_000, "bulk", {"iaa": 400})
    return SentSession(vm, fleet, SentKind.QEMU, 1.7e9, 1 << 30, counters, ram, offload, 12.5)


def image(vm: str) -> SentSession:
    """An image that is halfway."""
    return SentSession(vm, "drain", SentKind.IMAGE, 1.7e9, 8_192_000, COUNTERS)


def host(sent: Iterable[SentSession] = (), *, accelerated: bool = True) -> HostStatistics:
    """A host that has sent and received before."""
    work = PoolWork(10**9, 2 * 10**9, 3, 400, 250, Counter({"queued": 7, "used-up": 2}))
    scan = PoolWork(10**8, 0, 0, 900, 0)
    pools = {POOL: work, "run-1/a/dsa/0": scan}
    accelerators = AcceleratorStatistics(
        150_000_000, pools, {POOL: "iaa", "run-1/a/dsa/0": "dsa"}, {POOL: True, "run-1/a/dsa/0": False}
    )
    return HostStatistics(
        tuple(sent),
        {SentKind.QEMU: 1, SentKind.IMAGE: 0},
        COUNTERS,
        ShardCounters(raw_bytes=4096, wire_bytes=100),
        {"send": 1},
        accelerators if accelerated else None,
    )


def values(page: Collector, name: str) -> dict[tuple[str, ...], float]:
    """The samples of one metric by the values of their labels, in the declared order."""
    return {
        tuple(sample.labels.values()): sample.value
        for family in page.collect()
        for sample in family.samples
        if sample.name == name
    }


def series(page: Collector) -> set[tuple[str, tuple[tuple[str, str], ...]]]:
    """All series; raises AssertionError for one that is there twice."""
    every = [(sample.name, tuple(sample.labels.items())) for family in page.collect() for sample in family.samples]
    assert len(every) == len(set(every))
    return set(every)
