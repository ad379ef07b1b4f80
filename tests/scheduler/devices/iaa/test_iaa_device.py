"""IAA as a device: what it asks of libqpl, how often, and what becomes of jobs that do not end."""

import gc
from collections.abc import Callable, Iterator
from itertools import chain, repeat

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.devices.device import MAX_DESCRIPTORS, DeviceDown, DeviceUnavailable, Operation, Status
from scheduler.devices.iaa.device import IaaDevice
from scheduler.devices.iaa.jobs import MOST_ABANDONED, abandoned
from tests.scheduler.devices.iaa.scripted_library import FLAGS, Clock, ScriptedLibrary, scripted_device
from tests.scheduler.devices.served_device import DATA_BYTES, LONG_NS, PAGE_BYTES, decode_jobs, jobs

PENDING, OK, OVERFLOW, FAULT, FAILED = (int(status) for status in Status)


def ending(*codes: int) -> Callable[[int], Iterator[int]]:
    """Each job ends with its code, at once."""
    return lambda index: iter([codes[index]])


@pytest.fixture(autouse=True)
def nothing_left_behind() -> Iterator[None]:
    yield
    gc.collect()
    # A pool that the test abandoned ends when the next one is made, if its jobs have.
    scripted_device(ScriptedLibrary()).close()
    assert abandoned() == 0


def test_each_descriptor_is_a_job_of_its_own_with_what_it_names() -> None:
    library = ScriptedLibrary()
    device = scripted_device(library)
    assert device.submit(Operation.COMPRESS, jobs(3, first=2), 5) == 3
    base = int(device.memory.ctypes.data)
    for index in range(3):
        request = library.request(index)
        assert request["next_in_ptr"] == base + (2 + index) * PAGE_BYTES
        assert request["next_out_ptr"] == base + DATA_BYTES // 2 + (2 + index) * PAGE_BYTES
        assert (request["available_in"], request["available_out"]) == (PAGE_BYTES, PAGE_BYTES - 1)
        assert (request["op"], request["flags"], request["level"], request["numa_id"]) == (1, FLAGS, 1, 3)
        assert (request["huffman_table"], request["dictionary"], request["total_out"]) == (0, 0, 0)
    assert library.submitted == library.made[:3]


def test_jobs_lie_apart_by_an_odd_number_of_cache_lines() -> None:
    library = ScriptedLibrary()
    scripted_device(library)
    apart = {later - earlier for earlier, later in zip(library.made, library.made[1:], strict=False)}
    assert len(apart) == 1
    assert apart.pop() % 128 == 64


def test_busy_stops_the_submission_at_that_descriptor() -> None:
    library = ScriptedLibrary([0, 0, 5])
    device = scripted_device(library)
    assert device.submit(Operation.COMPRESS, jobs(6)) == 2
    assert len(library.submitted) == 3
    assert device.wait(0)
    assert device.status[:6].tolist() == [OK, OK, PENDING, PENDING, PENDING, PENDING]


def test_submission_takes_no_more_than_there_are_jobs_and_jobs_are_used_again() -> None:
    library = ScriptedLibrary(checks=lambda index: iter([1] if index == 0 else []))
    device = scripted_device(library, count=4)
    assert device.slots == 4
    assert device.submit(Operation.COMPRESS, jobs(3)) == 3
    assert device.submit(Operation.COMPRESS, jobs(3, first=3), 3) == 1
    assert device.submit(Operation.COMPRESS, jobs(3, first=4), 4) == 0
    assert device.wait(LONG_NS)
    assert device.submit(Operation.DECOMPRESS, jobs(4), 100) == 4
    assert device.wait(LONG_NS)
    assert device.status[100:104].tolist() == [OK] * 4
    assert len(library.made) == 4


def test_ends_are_told_in_the_words_of_the_scheduler() -> None:
    device = scripted_device(ScriptedLibrary(checks=ending(0, 2, 303, 431, 217, 5)))
    assert device.submit(Operation.COMPRESS, jobs(6)) == 6
    assert device.wait(0)
    assert device.status[:6].tolist() == [OK, OVERFLOW, FAULT, FAULT, FAILED, FAILED]


def test_descriptor_that_the_submission_refuses_has_failed_and_the_others_go_on() -> None:
    library = ScriptedLibrary([0, 59, 0])
    device = scripted_device(library)
    assert device.submit(Operation.COMPRESS, jobs(4)) == 4
    assert device.status[:4].tolist() == [PENDING, FAILED, PENDING, PENDING]
    assert device.wait(0)
    assert device.status[:4].tolist() == [OK, FAILED, OK, OK]
    assert library.made[1] not in library.asked


@pytest.mark.parametrize("code", [500, 501, 502, 503])
def test_queue_that_has_gone_makes_the_device_unavailable(code: int) -> None:
    library = ScriptedLibrary([0, code])
    device = scripted_device(library)
    with pytest.raises(DeviceUnavailable, match=f"code {code}"):
        device.submit(Operation.COMPRESS, jobs(4))
    # What it took before counts.
    assert device.wait(0)
    assert device.status[:4].tolist() == [OK, PENDING, PENDING, PENDING]


def test_wait_sleeps_longer_and_longer_and_ends_at_its_bound() -> None:
    clock = Clock()
    library = ScriptedLibrary(checks=lambda _index: repeat(1, 20))
    device = scripted_device(library, clock)
    device.submit(Operation.COMPRESS, jobs(1))
    assert not device.wait(3_000_000)
    assert clock.slept_ns == [20_000, 40_000, 80_000, 160_000, 320_000, 500_000, 500_000, 500_000, 500_000, 380_000]
    assert clock.now_ns == 3_000_000
    assert device.wait(LONG_NS)


def test_wait_asks_about_the_oldest_job_only_until_its_bound_and_then_about_all() -> None:
    library = ScriptedLibrary(checks=lambda index: repeat(1, 100) if index == 1 else iter(()))
    device = scripted_device(library)
    device.submit(Operation.COMPRESS, jobs(4))
    assert not device.wait(50_000)
    assert [library.asked.count(address) for address in library.made[:4]] == [1, 4, 1, 1]
    assert device.status[:4].tolist() == [OK, PENDING, OK, OK]
    assert device.wait(LONG_NS)
    assert device.status[:4].tolist() == [OK] * 4


def test_memory_of_a_job_that_never_ends_outlives_its_device() -> None:
    never_ends = chain(repeat(1, 50))
    library = ScriptedLibrary(checks=lambda index: never_ends if index == 1 else iter(()))
    device = scripted_device(library)
    device.submit(Operation.COMPRESS, jobs(3))
    assert not device.wait(0)
    device.close()
    del device
    gc.collect()
    assert abandoned() == 1
    assert library.finished == []
    other = scripted_device(ScriptedLibrary())
    assert abandoned() == 1
    # Only the one that had not ended was asked about, and its memory is still where it was.
    assert library.asked[-1] == library.made[1]
    assert library.request(1)["available_in"] == PAGE_BYTES
    list(never_ends)
    other.close()
    scripted_device(ScriptedLibrary()).close()
    assert (abandoned(), library.finished) == (0, library.made)


def test_device_that_is_forgotten_with_jobs_in_flight_keeps_its_memory() -> None:
    library = ScriptedLibrary(checks=lambda _index: repeat(1))
    scripted_device(library).submit(Operation.COMPRESS, jobs(1))
    gc.collect()
    assert library.request(0)["available_in"] == PAGE_BYTES
    assert library.finished == []


def test_no_more_devices_are_made_after_a_few_whose_jobs_never_ended() -> None:
    answers = chain(repeat(1, 1000))
    for _ in range(MOST_ABANDONED):
        device = scripted_device(ScriptedLibrary(checks=lambda _index: answers))
        device.submit(Operation.COMPRESS, jobs(1))
        device.close()
    with pytest.raises(DeviceUnavailable, match="4 times jobs were submitted that have not ended"):
        scripted_device(ScriptedLibrary())
    list(answers)


def test_closed_device_is_down() -> None:
    library = ScriptedLibrary()
    device = scripted_device(library)
    device.close()
    device.close()
    assert library.finished == library.made
    with pytest.raises(DeviceDown):
        device.submit(Operation.COMPRESS, jobs(1))
    with pytest.raises(DeviceDown):
        device.wait(0)


@pytest.mark.parametrize(
    ("field", "value"),
    [("source", DATA_BYTES), ("source_bytes", 2**32 - 1), ("destination", 2**32 - 1), ("capacity_bytes", DATA_BYTES)],
)
def test_range_beyond_the_memory_is_refused_before_the_device_would_write_there(field: str, value: int) -> None:
    library = ScriptedLibrary()
    descriptors = jobs(3)
    descriptors[field][1] = value
    with pytest.raises(ValueError, match="beyond the 1048576 bytes"):
        scripted_device(library).submit(Operation.COMPRESS, descriptors)
    assert library.submitted == []


@pytest.mark.parametrize(("count", "first"), [(0, 0), (1, MAX_DESCRIPTORS), (2, MAX_DESCRIPTORS - 1), (1, -1)])
def test_what_is_no_batch_is_refused(count: int, first: int) -> None:
    with pytest.raises(ValueError, match="descriptors of"):
        scripted_device(ScriptedLibrary()).submit(Operation.COMPRESS, jobs(count), first)


def test_zero_scan_is_nothing_that_iaa_does() -> None:
    with pytest.raises(ValueError, match="does not zero_scan"):
        scripted_device(ScriptedLibrary()).submit(Operation.ZERO_SCAN, jobs(1))


def test_pages_go_through_the_device_and_back(open_device: Callable[[int], IaaDevice]) -> None:
    device = open_device(DATA_BYTES)
    pages = np.resize(np.arange(1000, dtype=np.uint8), 64 * PAGE_BYTES)
    device.memory[: len(pages)] = pages
    assert device.submit(Operation.COMPRESS, jobs(64)) == 64
    assert device.wait(LONG_NS)
    assert device.status[:64].tolist() == [OK] * 64
    back = decode_jobs(device, 64)
    device.memory[: len(pages)] = 0
    assert device.submit(Operation.DECOMPRESS, back) == 64
    assert device.wait(LONG_NS)
    assert device.output_bytes[:64].tolist() == [PAGE_BYTES] * 64
    assert device.memory[: len(pages)].tobytes() == pages.tobytes()
    device.close()


@given(
    st.lists(st.tuples(st.sampled_from([0, 0, 0, 5, 59]), st.integers(0, 3), st.sampled_from([0, 2, 217, 303]))),
    st.lists(st.integers(1, 12), min_size=1, max_size=8),
)
def test_every_descriptor_that_was_taken_ends_once_and_no_other_is_touched(
    script: list[tuple[int, int, int]], batches: list[int]
) -> None:
    """Lines of the script: what the submission answers, how often the job is under way, its end."""
    ends = {0: OK, 2: OVERFLOW, 217: FAILED, 303: FAULT, 59: FAILED}
    lines = iter(script)
    batch: list[tuple[int, int, int]] = []
    library = ScriptedLibrary(checks=lambda index: iter([1] * batch[index][1] + [batch[index][2]]))
    device = scripted_device(library)
    for size in batches:
        batch = [next(lines, (0, 0, 0)) for _ in range(min(size, device.slots))]
        accepted = next((index for index, (code, _, _) in enumerate(batch) if code == 5), len(batch))
        library.submissions[:] = [code for code, _, _ in batch]
        device.status[:] = 99
        assert device.submit(Operation.COMPRESS, jobs(size), 3) == accepted
        assert device.wait(LONG_NS)
        expected = [ends[code or end] for code, _, end in batch[:accepted]] + [PENDING] * (size - accepted)
        assert device.status[: size + 4].tolist() == [99] * 3 + expected + [99]
    device.close()
    assert library.finished == library.made
