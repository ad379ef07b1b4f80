"""The zero scan by a device: the answers are numpy's, whatever part the device had in them."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.codecs.device_access import DeviceAccess
from pipeline.codecs.device_scan import DEVICE_MEMORY_BYTES, DeviceScan
from pipeline.memory.pages import MAX_BATCH_PAGES, WORDS_PER_PAGE, PageWords
from scheduler.devices.emulated.client import DeviceObserver, EmulatedDevice
from scheduler.devices.emulated.schedule import fault_drawer
from tests.codecs.given_credit import Credit
from tests.codecs.scans import check
from tests.scheduler.devices.served_device import served

ZERO, SAME, ODD_SAME, NEARLY_ZERO, OTHER = range(5)


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with served(tmp_path_factory.mktemp("device") / "device") as path:
        yield path


def scan_on(path: Path, credit: Credit) -> DeviceScan:
    return DeviceScan(DeviceAccess(lambda: EmulatedDevice.open(path, DEVICE_MEMORY_BYTES)), credit)


def pages_of(textures: list[int]) -> PageWords:
    pages = np.zeros((len(textures), WORDS_PER_PAGE), dtype=np.uint64)
    for page, texture in zip(pages, textures, strict=True):
        if texture in (SAME, ODD_SAME):
            page[:] = 7 + texture
        elif texture == NEARLY_ZERO:
            page[333] = 1
        elif texture == OTHER:
            page[:] = np.arange(WORDS_PER_PAGE)
    return pages


@settings(max_examples=40, deadline=None)
@given(
    textures=st.lists(st.integers(ZERO, OTHER), min_size=1, max_size=140),
    window=st.sampled_from([0, 1, 7, 128, 1024]),
    current=st.booleans(),
)
def test_answers_are_those_of_numpy_with_any_credit(
    device: Path, textures: list[int], window: int, current: bool
) -> None:
    credit = Credit(window, current=current)
    check(scan_on(device, credit), pages_of(textures))
    assert credit.held == 0


def test_device_looks_at_what_there_is_credit_for_and_numpy_at_the_rest(device: Path) -> None:
    credit = Credit(window=100)
    check(scan_on(device, credit), pages_of([ZERO, OTHER] * 64))
    assert credit.accelerator_pages == 100
    assert credit.cpu_pages == 50 + 28
    assert credit.used_ns > 0


def test_largest_batch_fits(device: Path) -> None:
    check(scan_on(device, Credit()), pages_of([ZERO, SAME, OTHER, NEARLY_ZERO] * (MAX_BATCH_PAGES // 4)))


def test_split_that_says_cpu_is_heeded_and_the_work_counts_as_asked_for(device: Path) -> None:
    credit = Credit(device=False)
    check(scan_on(device, credit), pages_of([ZERO] * 32))
    assert (credit.accelerator_pages, credit.cpu_pages) == (0, 32)
    assert credit.asked_ns > 0


def test_page_that_met_a_fault_is_looked_at_again(tmp_path: Path) -> None:
    with served(tmp_path / "device", draw_faults=fault_drawer(500_000, 1)) as path:
        check(scan_on(path, Credit()), pages_of([ZERO, NEARLY_ZERO] * 64))


def test_device_that_goes_away_costs_nothing_but_the_offload(tmp_path: Path) -> None:
    credit = Credit()
    with served(tmp_path / "device") as path:
        scanner = scan_on(path, credit)
        check(scanner, pages_of([ZERO] * 8))
        DeviceObserver(path).disable()
        check(scanner, pages_of([ZERO, OTHER] * 8))
    check(scanner, pages_of([ZERO, SAME] * 8))
    assert credit.accelerator_pages == 8
    assert credit.held == 0
