"""The zero scan over the real DSA binding on its peer: numpy's answers, whatever the queue does."""

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.codecs.device_access import DeviceAccess
from pipeline.codecs.device_scan import DEVICE_MEMORY_BYTES, DeviceScan
from pipeline.memory.pages import MAX_BATCH_PAGES, WORDS_PER_PAGE, PageWords
from scheduler.devices.device import Device
from scheduler.devices.dsa.execution import Disturbances
from scheduler.devices.dsa.peer import open_dsa_on_emulated, open_dsa_on_peer
from scheduler.devices.emulated.client import DeviceObserver
from scheduler.devices.emulated.schedule import fault_drawer
from tests.codecs.given_credit import Credit
from tests.codecs.scans import check
from tests.scheduler.devices.served_device import served

#: Per million: busy answers, page faults, errors.
TROUBLE = (50_000, 10_000, 1_000)


def mixed(count: int, seed: int) -> PageWords:
    """Zero, same-filled, nearly zero and other pages."""
    generator = np.random.default_rng(seed)
    pages = np.zeros((count, WORDS_PER_PAGE), dtype=np.uint64)
    kinds = generator.integers(0, 5, count)
    pages[kinds == 2] = 7
    pages[kinds == 3, generator.integers(0, WORDS_PER_PAGE)] = 1 << 63
    pages[kinds == 4] = generator.integers(0, 1 << 63, WORDS_PER_PAGE, dtype=np.uint64)
    return pages


def scanner_on(open_device: Callable[[], Device], credit: Credit) -> tuple[DeviceScan, DeviceAccess]:
    access = DeviceAccess(open_device)
    return DeviceScan(access, credit), access


@settings(max_examples=40, deadline=None)
@given(
    counts=st.lists(st.integers(1, MAX_BATCH_PAGES), min_size=1, max_size=4),
    window=st.sampled_from([1, 7, 128, 1024]),
    trouble=st.sampled_from([(0, 0, 0), TROUBLE, (300_000, 300_000, 300_000), (1_000_000, 0, 0), (0, 0, 1_000_000)]),
    seed=st.integers(0, 99),
)
def test_answers_are_those_of_numpy_whatever_the_queue_does(
    counts: list[int], window: int, trouble: tuple[int, int, int], seed: int
) -> None:
    credit = Credit(window)
    disturbances = Disturbances(*trouble, seed=seed)
    scanner, access = scanner_on(lambda: open_dsa_on_peer(DEVICE_MEMORY_BYTES, disturbances), credit)
    for number, count in enumerate(counts):
        check(scanner, mixed(count, seed + number))
    assert credit.held == 0
    access.close()


def test_device_does_most_of_the_work_and_the_cpu_what_met_trouble() -> None:
    credit = Credit()
    scanner, access = scanner_on(lambda: open_dsa_on_peer(DEVICE_MEMORY_BYTES, Disturbances(0, 10_000, 1_000)), credit)
    for seed in range(50):
        check(scanner, mixed(128, seed))
    assert credit.accelerator_pages == 50 * 128
    access.close()


def test_answers_are_those_of_numpy_on_an_emulated_device_with_page_faults(tmp_path: Path) -> None:
    credit = Credit()
    with served(tmp_path / "device", draw_faults=fault_drawer(100_000, 1)) as path:
        scanner, access = scanner_on(lambda: open_dsa_on_emulated(path, DEVICE_MEMORY_BYTES), credit)
        for seed in range(10):
            check(scanner, mixed(128, seed))
        assert credit.accelerator_pages == 10 * 128
        access.close()


@pytest.mark.parametrize("trouble", ["stall", "disable"])
def test_queue_that_stalls_or_is_disabled_mid_run_costs_nothing_but_the_offload(tmp_path: Path, trouble: str) -> None:
    credit = Credit()
    with served(tmp_path / "device") as path:
        access = DeviceAccess(lambda: open_dsa_on_emulated(path, DEVICE_MEMORY_BYTES), wait_ns=5_000_000)
        scanner = DeviceScan(access, credit)
        check(scanner, mixed(128, 1))
        observer = DeviceObserver(path)
        if trouble == "stall":
            observer.stall(100_000_000)
        else:
            observer.disable(100_000_000)
        for seed in range(4):
            check(scanner, mixed(128, 2 + seed))
        done = credit.accelerator_pages
        deadline_ns = time.monotonic_ns() + 20_000_000_000
        while credit.accelerator_pages == done:
            assert time.monotonic_ns() < deadline_ns, "the device is not tried again"
            check(scanner, mixed(16, 9))
        assert credit.held == 0
        observer.close()
        access.close()
