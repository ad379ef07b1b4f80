"""What the simulated machines cost: a small set of physical rates, each with its source.

Rates are ns of one thread per byte (or page), device work is device-ns per byte. `scheduler.simulate.fit` computes the
first group from the fitted rows of `published.py`; the second group is taken from the references as it is.
"""

from dataclasses import dataclass
from enum import Enum

from scheduler.core.units import AcceleratorKind

PAGE_BYTES = 4096
#: Pages of a multifd packet; also the DSA batch of the series.
PACKET_PAGES = 128
#: Header and one 8-byte offset per page, on the wire (qemu-multifd.md 1.1).
PACKET_HEADER_BYTES = 320 + 8 * PACKET_PAGES


class Operation(Enum):
    """What a batch needs done, on a device or on a CPU."""

    SCAN = "scan"
    COMPRESS = "compress"
    DECOMPRESS = "decompress"


@dataclass(frozen=True, slots=True)
class Codec:
    """One compression method: CPU ns per page byte either way, and wire bytes per page byte."""

    compress_ns_b: float
    decompress_ns_b: float
    wire_ratio: float
    #: The device that can do it; None: only the CPU.
    kind: AcceleratorKind | None = None
    #: What a thread pays per byte for having the device do it, and for having it undone at the destination; and how
    #: long it sleeps for a compressed packet, whatever the device does (QATzip polls its rings from another thread).
    submit_ns_b: float = 0.0
    submit_back_ns_b: float = 0.0
    packet_latency_ns: float = 0.0
    #: The thread spins until the device is done (QPL); otherwise it sleeps.
    spins: bool = False


@dataclass(frozen=True, slots=True)
class DeviceModel:
    """A device: queue slots, engines, and device-ns per byte of each operation it does."""

    slots: int
    engines: int
    work_ns_b: dict[Operation, float]


@dataclass(frozen=True, slots=True)
class Parameters:
    """Everything the world charges for."""

    #: Migration thread, per page, alone.
    migration_ns_page: float
    #: Zero check of a page that is zero, per byte, alone.
    scan_ns_b: float
    #: Socket send per wire byte, alone; receive into guest memory per page byte.
    send_ns_b: float
    receive_ns_b: float
    #: Each other thread of the same QEMU that streams memory slows a streaming one by this fraction.
    interference: float
    #: Goodput of the calibration hosts' link, bytes per ns.
    calibration_link_b_ns: float
    #: Bytes of guest memory that are not zero, in section 2's VM.
    section_2_live_bytes: float
    codecs: dict[str, Codec]
    devices: dict[AcceleratorKind, DeviceModel]
    #: Connect, set up, start: RAM list, channels (published: `none` at 4 and 8 threads differ from bytes/rate by 9 ms).
    setup_ns: int = 9_000_000
    #: Device state, and starting the destination: the all-zero CPU row's downtime, where nothing is left to send.
    switchover_ns: int = 20_000_000
    #: A live page ends the zero check early (memory.md 4.1: 116 GB/s against 36 on zero pages).
    early_exit: float = 0.31
    #: One batch descriptor of 128 pages to DSA (accelerators.md section 5: 56 ns a page).
    dsa_submit_ns_packet: int = 7_200
    #: Waking a thread that slept for a completion: a system call and a context switch.
    wake_ns: int = 5_000
    #: Both sockets' DRAM, 8 channels of DDR5-4800 each, 80 % of 307 GB/s. Not calibrated: no published run needs it.
    memory_b_ns: float = 491.0
    retries: int = 3

    def scan_bytes(self, pages: int, live: float, *, early_exit: bool) -> float:
        """Bytes a zero check of `pages` reads, `live` of them (a share) not zero."""
        weight = live * (self.early_exit if early_exit else 1.0) + 1 - live
        return pages * PAGE_BYTES * weight
