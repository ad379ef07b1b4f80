"""The DSA binding: building 128 descriptors, handing them in, looking at 128 records; beside numpy's whole scan.

The Python of it is measured with a port that completes what it is given at once. The submission is measured as a write
of 8 KiB to memory, which is what the system call costs without a device. On silicon the kernel then does one ENQCMD
after the other: 0.14 to 0.55 us each by the published rates of a core (7.3 and 1.8 million a second), which nothing
here can measure; it is added as a range, not as a figure that was seen. With one BATCH by a mapped portal it would be
one ENQCMD for all.
"""

import os
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from benchmarks.batch_cpu import batch_cpu_us
from benchmarks.report import Figure, Report
from pipeline.memory.pages import PAGE_BYTES, WORDS_PER_PAGE
from pipeline.memory.scan import scan
from scheduler.devices.cost import CostModel, OperationCost
from scheduler.devices.device import DESCRIPTOR, Operation
from scheduler.devices.dsa.descriptors import DESCRIPTOR_BYTES, Completion, DsaCompletions
from scheduler.devices.dsa.device import SPIN_NS, DsaDevice
from scheduler.devices.dsa.memory import prefaulted
from scheduler.devices.dsa.submission import DescriptorRows

_PAGES = 128
_BOUND_US = 40
_ENQCMD_US = (0.14, 0.55)
_COST = CostModel({Operation.ZERO_SCAN: OperationCost(100, 124)})


class _InstantPort:
    """Completes what it is given: one write to the status column, beside which a real port does a system call."""

    records: DsaCompletions

    def submit(self, descriptors: DescriptorRows) -> int:
        self.records["status"][: len(descriptors)] = Completion.SUCCESS
        return len(descriptors)

    def close(self) -> None:
        """Nothing is open."""


def run(report: Report, folder: Path, runs: int) -> None:
    """Medians; `folder` is not used."""
    zero = np.zeros((_PAGES, WORDS_PER_PAGE), dtype=np.uint64)
    live = np.random.default_rng(1).integers(0, 1 << 63, zero.shape, dtype=np.uint64)
    device = _instant_device()
    file = os.memfd_create("descriptors", os.MFD_CLOEXEC)
    descriptors = bytes(_PAGES * DESCRIPTOR_BYTES)
    try:
        cpu_us = batch_cpu_us(
            {
                "python": _scan_on(device),
                "write": lambda: os.pwrite(file, descriptors, 0),
                "copy": lambda: np.copyto(device.memory, zero.reshape(-1).view(np.uint8)),
                "zero": lambda: scan(zero),
                "live": lambda: scan(live),
            },
            runs,
        )
    finally:
        device.close()
        os.close(file)
    report.add(f"DSA by write(2), CPU of the caller per batch of {_PAGES} pages", (), _figures(cpu_us))


def _instant_device() -> DsaDevice:
    port = _InstantPort()
    device = DsaDevice(port, prefaulted(_PAGES * PAGE_BYTES), _PAGES, _COST)
    port.records = device.records
    return device


def _scan_on(device: DsaDevice) -> Callable[[], bool]:
    jobs = np.zeros(_PAGES, dtype=DESCRIPTOR)
    jobs["source"] = np.arange(_PAGES) * PAGE_BYTES
    jobs["source_bytes"] = PAGE_BYTES

    def scan_once() -> bool:
        return device.submit(Operation.ZERO_SCAN, jobs) == _PAGES and device.wait(0)

    assert scan_once()
    return scan_once


def _figures(cpu_us: Mapping[str, float]) -> list[Figure]:
    def figure(what: str, value_us: float, at_most: float | None = None) -> Figure:
        return Figure("dsa", what, value_us, " us", at_most)

    least_us, most_us = (_PAGES * each for each in _ENQCMD_US)
    python_us, write_us = cpu_us["python"], cpu_us["write"]
    return [
        figure("build, submit and poll, all of the Python", python_us, _BOUND_US),
        figure("submission: the system call and 8 KiB of descriptors, no device", write_us),
        figure("submission on silicon, at least (inferred)", write_us + least_us),
        figure("submission on silicon, at most (inferred)", write_us + most_us),
        figure("looking at records without a pause, at most", SPIN_NS / 1000),
        figure("copy of the pages into the device's memory", cpu_us["copy"]),
        figure("numpy's scan of zero pages", cpu_us["zero"]),
        figure("numpy's scan of live pages", cpu_us["live"]),
        Figure(
            "dsa", "device against numpy, zero pages, at best", (python_us + write_us + least_us) / cpu_us["zero"], "x"
        ),
    ]
