"""What is simulated: hosts, guests, how they are migrated, and what breaks when. Raises ValueError for nonsense."""

from dataclasses import dataclass, field

from scheduler.core.units import AcceleratorKind, Phase
from scheduler.simulate.parameters import PACKET_PAGES, PAGE_BYTES


@dataclass(frozen=True, slots=True)
class HostSpec:
    """One machine; `link_b_ns` None: a link that is never in the way."""

    name: str
    cpus: int = 192
    link_b_ns: float | None = None
    devices: dict[AcceleratorKind, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _require(self.cpus > 0, f"host {self.name}: {self.cpus} CPUs")
        _require(self.link_b_ns is None or self.link_b_ns > 0, f"host {self.name}: a link of {self.link_b_ns} B/ns")
        _require(all(count >= 0 for count in self.devices.values()), f"host {self.name}: a negative number of devices")


@dataclass(frozen=True, slots=True)
class VmSpec:
    """One guest and its migration."""

    name: str
    source: str
    destination: str
    memory_bytes: int
    #: Share of its pages that are not zero.
    live: float
    #: What it writes per second, anywhere in its live memory.
    dirty_bytes_s: int = 0
    channels: int = 2
    weight: int = 1
    tenant: str = "fleet"
    submitted_ns: int = 0
    deadline_ns: int | None = None
    #: BACKGROUND: an image of a suspended guest, in one pass.
    phase: Phase = Phase.PRECOPY

    def __post_init__(self) -> None:
        _require(self.memory_bytes >= PAGE_BYTES, f"VM {self.name}: {self.memory_bytes} bytes of memory")
        _require(0 <= self.live <= 1, f"VM {self.name}: a live share of {self.live}")
        _require(self.dirty_bytes_s >= 0, f"VM {self.name}: a negative dirty rate")
        _require(self.channels > 0 and self.weight > 0, f"VM {self.name}: channels and weight are positive")


@dataclass(frozen=True, slots=True)
class Workload:
    """How guests are migrated: what looks for zero pages, and what compresses."""

    codec: str = "none"
    #: The device that may check for zero pages; None: the CPU does.
    scan_kind: AcceleratorKind | None = None
    #: False: live pages are read whole, as with the series' test option `normal-page-ratio` on zero memory.
    early_exit: bool = True
    downtime_limit_ns: int = 300_000_000
    #: QEMU's patience is endless; a plan's is not.
    most_rounds: int = 30


@dataclass(frozen=True, slots=True)
class Fault:
    """All devices of a kind on a host go away, or come back."""

    at_ns: int
    host: str
    kind: AcceleratorKind
    up: bool


@dataclass(frozen=True, slots=True)
class Scenario:
    """One world to run under each policy."""

    name: str
    hosts: tuple[HostSpec, ...]
    vms: tuple[VmSpec, ...]
    workload: Workload
    #: Pages a simulated batch has: a whole number of packets. Larger is faster and coarser.
    batch_pages: int = PACKET_PAGES
    faults: tuple[Fault, ...] = ()

    def __post_init__(self) -> None:
        _require(self.batch_pages > 0 and self.batch_pages % PACKET_PAGES == 0, f"a batch of {self.batch_pages} pages")
        names = {host.name for host in self.hosts}
        for vm in self.vms:
            _require({vm.source, vm.destination} <= names, f"VM {vm.name}: one of its hosts is not there")
        for fault in self.faults:
            _require(fault.host in names, f"a fault on host {fault.host}, which is not there")


def _require(condition: bool, what: str) -> None:
    if not condition:
        raise ValueError(what)
