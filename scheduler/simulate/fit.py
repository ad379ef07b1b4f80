"""Parameters from the fitted rows alone, by arithmetic that is written down here: nothing is tuned by hand.

Section 3's two CPU rows and section 2's `none` give the migration thread (t), the zero check (s), the send (x) and how
much threads of one QEMU that stream memory slow each other (k). With b streaming threads busy on average,
a thread's work costs 1 + k x (others that are busy) times what it costs alone:

    all-zero:      N t (1 + k b) = T                  (its migration thread is busy all the time)
                   N t (1 + k b) + N P s (1 + k b 7/8) = CPU
    none:          N t (..) + scan + B x (1 + k b 3/4) = CPU
    half-normal:   N t (..) + N P s (..) + B x (..)    = CPU

Four equations, four unknowns; the last is solved for k by bisection.
"""

from functools import cache

from scheduler.core.units import AcceleratorKind
from scheduler.simulate.parameters import (
    PACKET_HEADER_BYTES,
    PACKET_PAGES,
    PAGE_BYTES,
    Codec,
    DeviceModel,
    Operation,
    Parameters,
)
from scheduler.simulate.published import row

_GIB = 1 << 30
_MS = 1e6
_PACKET_BYTES = PACKET_PAGES * PAGE_BYTES
#: What a packet adds to its pages on the wire.
_FRAMING = 1 + PACKET_HEADER_BYTES / _PACKET_BYTES
_SECTION_3_PAGES = 100 * _GIB // PAGE_BYTES
_SECTION_2_PAGES = 64 * _GIB // PAGE_BYTES
#: 90 % of 64 GiB is filled with Silesia; the rest is zero (accelerators.md section 5).
SECTION_4_LIVE_BYTES = 0.9 * 64 * _GIB
_FIXED_MS = 29.0
_EARLY_EXIT = 0.31


class _Streaming:
    """t, s and x for a given k, from three rows; `half_normal_cpu_ms` is the fourth."""

    def __init__(self, interference: float) -> None:
        self.k = interference
        self._all_zero()
        self._none()

    def _slowdown(self, busy: float, channels: int | None = None) -> float:
        """Of the migration thread, or of one of `channels` that are `busy` together."""
        others = busy if channels is None else busy * (channels - 1) / channels
        return 1 + self.k * others

    def _all_zero(self) -> None:
        published = row("all-zero cpu", 8)
        assert published.send_cpu_ms is not None
        migration_ms = published.total_ms - _FIXED_MS
        scan_ms = published.send_cpu_ms - migration_ms
        busy = scan_ms / migration_ms
        self.migration_ns = migration_ms * _MS / _SECTION_3_PAGES / self._slowdown(busy)
        self.scan_ns = scan_ms * _MS / (_SECTION_3_PAGES * PAGE_BYTES) / self._slowdown(busy, 8)

    def _none(self) -> None:
        published = row("none", 4)
        assert published.send_cpu_ms is not None
        # How busy the channels are depends on the migration thread's part, which depends on that: twice is enough.
        busy = published.send_cpu_ms / published.total_ms
        for _ in range(20):
            migration_ms = _SECTION_2_PAGES * self.migration_ns * self._slowdown(busy) / _MS
            busy = (published.send_cpu_ms - migration_ms) / published.total_ms
        scan_ns = published.wire_bytes / _FRAMING * _EARLY_EXIT * self.scan_ns
        channels_ns = busy * published.total_ms * _MS / self._slowdown(busy, 4)
        self.send_ns = (channels_ns - scan_ns) / published.wire_bytes

    def half_normal_cpu_ms(self) -> float:
        published = row("half-normal cpu", 8)
        busy = 3.0
        scan_ms = _SECTION_3_PAGES * PAGE_BYTES * self.scan_ns / _MS
        send_ms = _SECTION_3_PAGES / 2 * PAGE_BYTES * _FRAMING * self.send_ns / _MS
        for _ in range(100):
            busy = min(8.0, (scan_ms + send_ms) * self._slowdown(busy, 8) / published.total_ms)
        migration_ms = _SECTION_3_PAGES * self.migration_ns * self._slowdown(busy) / _MS
        return migration_ms + busy * published.total_ms


def _solve() -> _Streaming:
    published = row("half-normal cpu", 8)
    assert published.send_cpu_ms is not None
    low, high = 0.0, 5.0
    for _ in range(60):
        middle = (low + high) / 2
        if _Streaming(middle).half_normal_cpu_ms() < published.send_cpu_ms:
            low = middle
        else:
            high = middle
    return _Streaming(low)


def _software(name: str, streaming: _Streaming, live_bytes: float, receive_ns: float) -> Codec:
    """A CPU codec: four threads that are busy all the time, less the scan and the send."""
    published = row(name, 4)
    assert published.receive_cpu_ms is not None
    wire_ratio = published.wire_bytes / live_bytes / _FRAMING
    thread_ns = 4 * published.total_ms * _MS / live_bytes
    streaming_ns = wire_ratio * streaming.send_ns + _EARLY_EXIT * streaming.scan_ns
    decode_ns = published.receive_cpu_ms * _MS / live_bytes - receive_ns
    return Codec(thread_ns - streaming_ns, decode_ns, wire_ratio)


def _qatzip(streaming: _Streaming, live_bytes: float, receive_ns: float, work_ns_b: float) -> Codec:
    """What a QATzip packet costs the thread, and how long it sleeps beyond the device's own time."""
    published = row("qatzip", 4)
    assert published.send_cpu_ms is not None
    assert published.receive_cpu_ms is not None
    wire_ratio = published.wire_bytes / live_bytes / _FRAMING
    packet_ns = 4 * published.total_ms * _MS / (live_bytes / _PACKET_BYTES)
    migration_ms = _SECTION_2_PAGES * streaming.migration_ns / _MS
    cpu_ns_b = (published.send_cpu_ms - migration_ms) * _MS / live_bytes
    streaming_ns = wire_ratio * streaming.send_ns + _EARLY_EXIT * streaming.scan_ns
    # In the model a thread also waits while its bytes are on the link, which three others leave it a part of.
    link_ns = wire_ratio * _PACKET_BYTES / _link_b_ns()
    latency = packet_ns - (cpu_ns_b + work_ns_b) * _PACKET_BYTES - link_ns
    decode_ns = published.receive_cpu_ms * _MS / live_bytes - receive_ns
    return Codec(
        # Without a device QATzip compresses with zlib (accelerators.md section 4: 100 MB/s, 298 MB/s back).
        compress_ns_b=10.0,
        decompress_ns_b=3.36,
        wire_ratio=wire_ratio,
        kind=AcceleratorKind.QAT,
        submit_ns_b=cpu_ns_b - streaming_ns,
        submit_back_ns_b=decode_ns,
        packet_latency_ns=latency,
    )


def _iaa() -> Codec:
    published = row("qpl always-wait", 4)
    return Codec(
        # Intel's QPL software path, one thread: 0.414 GB/s (accelerators.md 5); back 0.57 GB/s (2.4, fixed Huffman).
        compress_ns_b=1 / 0.414,
        decompress_ns_b=1 / 0.571,
        wire_ratio=published.wire_bytes / SECTION_4_LIVE_BYTES / _FRAMING,
        kind=AcceleratorKind.IAA,
        # One ENQCMD at a time and core, at most 0.55 us (accelerators.md 1.4); every page is one.
        submit_ns_b=550 / PAGE_BYTES,
        submit_back_ns_b=550 / PAGE_BYTES,
        spins=True,
    )


def _link_b_ns() -> float:
    """One link for both sections, of about 50 Gbit/s: the mean of what the two fitted rows carried."""
    return (row("none", 4).mbit_s + row("half-normal cpu", 8).mbit_s) / 2 / 8000


def _devices() -> dict[AcceleratorKind, DeviceModel]:
    iaa_ms = row("qpl always-wait", 4).total_ms - _FIXED_MS
    return {
        # 2 compressions at once (section 1); four channels that always wait leave no gap: the rate is theirs.
        AcceleratorKind.IAA: DeviceModel(
            slots=128,
            engines=2,
            work_ns_b={
                Operation.COMPRESS: 2 * iaa_ms * _MS / SECTION_4_LIVE_BYTES,
                # 30 GB/s of output per device (section 1).
                Operation.DECOMPRESS: 2 / 30,
            },
        ),
        # 30 GB/s read by one device, 4 engines (accelerators.md 1.4 and 5).
        AcceleratorKind.DSA: DeviceModel(slots=128, engines=4, work_ns_b={Operation.SCAN: 4 / 30}),
        # Two devices measured by users: about 7 GB/s deflate (section 1); the same back. Requests are 64 KiB.
        AcceleratorKind.QAT: DeviceModel(
            slots=64,
            engines=2,
            work_ns_b={Operation.COMPRESS: 2 / 3.5, Operation.DECOMPRESS: 2 / 3.5},
        ),
    }


@cache
def calibrated() -> Parameters:
    """The parameters that all scenarios use."""
    streaming = _solve()
    none = row("none", 4)
    assert none.receive_cpu_ms is not None
    live_bytes = none.wire_bytes / _FRAMING
    receive_ns = none.receive_cpu_ms * _MS / live_bytes
    devices = _devices()
    qat = devices[AcceleratorKind.QAT]
    return Parameters(
        migration_ns_page=streaming.migration_ns,
        scan_ns_b=streaming.scan_ns,
        send_ns_b=streaming.send_ns,
        receive_ns_b=receive_ns,
        interference=streaming.k,
        calibration_link_b_ns=_link_b_ns(),
        section_2_live_bytes=live_bytes,
        codecs={
            "none": Codec(0.0, 0.0, 1.0),
            "zlib": _software("zlib", streaming, live_bytes, receive_ns),
            "zstd": _software("zstd", streaming, live_bytes, receive_ns),
            "qatzip": _qatzip(streaming, live_bytes, receive_ns, qat.work_ns_b[Operation.COMPRESS] / qat.engines),
            "deflate": _iaa(),
        },
        devices=devices,
    )
