"""What libqpl does that nobody would expect, one test each: of the library, and of the binding that must cope.

Those of the software path run on libqpl itself too where this machine has it.
"""

import zlib
from pathlib import Path

import numpy as np
import pytest
from isal import igzip_lib

from pipeline.codecs.device_arithmetic import DeflateArithmetic
from scheduler.devices.cost import CostModel, OperationCost
from scheduler.devices.device import DeviceUnavailable, Operation, Status
from scheduler.devices.emulated.client import DeviceObserver
from scheduler.devices.emulated.schedule import fault_drawer
from scheduler.devices.iaa.device import open_iaa
from scheduler.devices.iaa.emulated import open_iaa_on_emulated
from scheduler.devices.iaa.libqpl import FLAG_FIRST, FLAG_LAST, OP_COMPRESS, Library
from tests.scheduler.devices.iaa.conftest import connect, disturb
from tests.scheduler.devices.iaa.raw_job import AUTO, FLAGS, HARDWARE, SOFTWARE, RawJob
from tests.scheduler.devices.served_device import (
    DATA_BYTES,
    FAST,
    LONG_NS,
    PAGE_BYTES,
    await_true,
    jobs,
    occupancy,
    served,
    settings,
)

PAGE = b"a page of a guest's memory, more or less. " * 98
PAGE = PAGE[:PAGE_BYTES]
NOISE = np.random.default_rng(1).bytes(PAGE_BYTES)
DYNAMIC = 0x2000
#: A distance between 4 and 8 KiB, which a window of 4 KiB cannot hold and a decoder's own buffer would.
FAR_APART = NOISE + NOISE[:1000] + NOISE[:3000]
VERIFIED = FLAG_FIRST | FLAG_LAST


def deflated(data: bytes, window_bits: int = 15) -> bytes:
    deflate = zlib.compressobj(6, zlib.DEFLATED, -window_bits)
    return deflate.compress(data) + deflate.flush()


def inflated(stream: bytes) -> bytes:
    return zlib.decompress(stream, -15)


def test_init_without_hardware_answers_503_and_makes_a_job_of_the_software_path(stand_in_alone: Library) -> None:
    job = RawJob(stand_in_alone, HARDWARE)
    assert (job.init_code, job.field("path")) == (503, SOFTWARE)
    # The page is compressed, by this thread.
    assert job.compress(PAGE, PAGE_BYTES) == 0
    assert inflated(job.written) == PAGE


def test_device_without_hardware_is_unavailable_and_says_so_in_one_line(stand_in_alone: Library) -> None:
    with pytest.raises(DeviceUnavailable, match=r"^IAA: there is no enabled shared work queue .*code 503\)$"):
        open_iaa(DATA_BYTES, library=stand_in_alone)


def test_path_auto_does_on_the_callers_cpu_what_a_busy_queue_refuses_and_tells_nobody(
    stand_in_alone: Library, tmp_path: Path
) -> None:
    with served(tmp_path / "device") as path:
        connect(stand_in_alone, path)
        disturb(stand_in_alone, busy=1_000_000)
        job = RawJob(stand_in_alone, AUTO)
        assert (job.init_code, job.compress(PAGE, PAGE_BYTES), job.check()) == (0, 0, 0)
        assert inflated(job.written) == PAGE
        assert DeviceObserver(path).sample("p").completed == 0


def test_device_tells_a_busy_queue_where_path_auto_would_hide_it(stand_in_alone: Library, tmp_path: Path) -> None:
    with served(tmp_path / "device") as path:
        device = open_iaa_on_emulated(stand_in_alone, path, DATA_BYTES)
        disturb(stand_in_alone, busy=1_000_000)
        assert device.submit(Operation.COMPRESS, jobs(4)) == 0
        assert device.wait(0)


def test_submission_of_the_software_path_is_the_whole_execution(library: Library) -> None:
    job = RawJob(library, SOFTWARE)
    job.describe(OP_COMPRESS, PAGE, PAGE_BYTES)
    assert job.submit() == 0
    assert inflated(job.written) == PAGE


def test_check_of_the_software_path_says_ok_whatever_the_submission_said(library: Library) -> None:
    job = RawJob(library, SOFTWARE)
    job.describe(OP_COMPRESS, NOISE, 100)
    assert (job.submit(), job.check()) == (2, 0)


def test_verification_of_the_software_path_fails_from_32_kib_on(library: Library) -> None:
    job = RawJob(library, SOFTWARE)
    assert job.compress(PAGE * 16, 65_536, VERIFIED) == 229
    assert job.compress(PAGE * 16, 65_536) == 0
    assert inflated(job.written) == PAGE * 16
    assert job.compress(PAGE, PAGE_BYTES, VERIFIED) == 0


def test_distances_beyond_4_kib_are_refused_by_the_software_path(library: Library) -> None:
    job = RawJob(library, SOFTWARE)
    assert job.decompress(deflated(FAR_APART), 16_384) == 217
    assert job.decompress(deflated(FAR_APART, 12), 16_384) == 0
    assert job.written == FAR_APART


def test_distances_beyond_4_kib_are_refused_by_the_hardware_path(stand_in_alone: Library, tmp_path: Path) -> None:
    with served(tmp_path / "device", arithmetic=DeflateArithmetic()) as path:
        connect(stand_in_alone, path)
        job = RawJob(stand_in_alone, HARDWARE)
        assert job.decompress(deflated(FAR_APART), 16_384) == 217
        assert job.decompress(deflated(FAR_APART, 12), 16_384) == 0
        assert job.written == FAR_APART


def test_page_that_does_not_compress_is_status_2_at_its_size_and_stored_where_it_fits(library: Library) -> None:
    job = RawJob(library, SOFTWARE)
    assert job.compress(NOISE, PAGE_BYTES) == 2
    assert job.compress(NOISE, 4136) == 0
    assert (len(job.written), inflated(job.written)) == (4101, NOISE)


def test_page_that_does_not_compress_is_stored_by_the_callers_cpu_on_the_hardware_path(
    stand_in_alone: Library, tmp_path: Path
) -> None:
    with served(tmp_path / "device") as path:
        connect(stand_in_alone, path)
        job = RawJob(stand_in_alone, HARDWARE)
        assert job.compress(NOISE, PAGE_BYTES - 1) == 2
        assert job.compress(NOISE, 4101) == 0
        assert (len(job.written), inflated(job.written)) == (4101, NOISE)


def test_safe_size_of_the_output_of_a_page_is_4136_bytes(library: Library) -> None:
    assert library.handle.qpl_get_safe_deflate_compression_buffer_size(PAGE_BYTES) == 4136


def test_page_fault_is_tried_again_by_the_synchronous_call_only(stand_in_alone: Library, tmp_path: Path) -> None:
    # Every second descriptor faults.
    faults = iter([True, False] * 4)
    with served(tmp_path / "device", draw_faults=lambda count: [next(faults) for _ in range(count)]) as path:
        connect(stand_in_alone, path)
        job = RawJob(stand_in_alone, HARDWARE)
        assert job.compress(PAGE, PAGE_BYTES) == 0
        job.describe(OP_COMPRESS, PAGE, PAGE_BYTES)
        assert job.submit() == 0
        assert job.check_until_ended() in (303, 431)


def test_page_faults_of_reading_and_of_writing_are_both_page_faults(stand_in_alone: Library, tmp_path: Path) -> None:
    with served(tmp_path / "device", draw_faults=fault_drawer(1_000_000, 1)) as path:
        device = open_iaa_on_emulated(stand_in_alone, path, DATA_BYTES)
        assert device.submit(Operation.COMPRESS, jobs(4)) == 4
        assert device.wait(LONG_NS)
        assert device.status[:4].tolist() == [Status.PAGE_FAULT] * 4


@pytest.mark.parametrize("flags", [FLAGS | DYNAMIC, VERIFIED], ids=["dynamic Huffman", "verification"])
def test_second_descriptor_of_a_job_may_find_the_queue_busy_and_then_the_job_never_ends(
    stand_in_alone: Library, tmp_path: Path, flags: int
) -> None:
    with served(tmp_path / "device") as path:
        connect(stand_in_alone, path)
        job = RawJob(stand_in_alone, HARDWARE)
        job.describe(OP_COMPRESS, PAGE, PAGE_BYTES, flags)
        assert job.submit() == 0
        disturb(stand_in_alone, busy=1_000_000)
        assert job.check_until_ended() == 5
        assert {job.check() for _ in range(100)} == {1}
        disturb(stand_in_alone)
        assert job.compress(PAGE, PAGE_BYTES, flags) == 0
        assert inflated(job.written) == PAGE


def test_device_gives_the_caller_a_page_whose_verification_found_the_queue_busy(
    stand_in_alone: Library, tmp_path: Path
) -> None:
    with served(tmp_path / "device") as path:
        device = open_iaa_on_emulated(stand_in_alone, path, DATA_BYTES, verify=True)
        assert device.submit(Operation.COMPRESS, jobs(4)) == 4
        disturb(stand_in_alone, busy=1_000_000)
        assert device.wait(LONG_NS)
        assert device.status[:4].tolist() == [Status.FAILED] * 4
        disturb(stand_in_alone)
        assert device.submit(Operation.COMPRESS, jobs(4)) == 4
        assert device.wait(LONG_NS)
        assert device.status[:4].tolist() == [Status.OK] * 4


def test_job_that_was_never_submitted_is_7(stand_in_alone: Library, tmp_path: Path) -> None:
    with served(tmp_path / "device") as path:
        connect(stand_in_alone, path)
        job = RawJob(stand_in_alone, HARDWARE)
        job.describe(OP_COMPRESS, PAGE, PAGE_BYTES)
        assert (job.init_code, job.check()) == (0, 7)


def test_job_that_is_asked_about_after_its_end_counts_its_output_twice(stand_in_alone: Library, tmp_path: Path) -> None:
    with served(tmp_path / "device") as path:
        connect(stand_in_alone, path)
        job = RawJob(stand_in_alone, HARDWARE)
        assert job.compress(PAGE, PAGE_BYTES) == 0
        length = job.field("total_out")
        assert (job.check(), job.field("total_out")) == (0, 2 * length)


def test_device_that_is_waited_for_again_does_not_ask_about_jobs_that_ended(
    stand_in_alone: Library, tmp_path: Path
) -> None:
    with served(tmp_path / "device", settings(engines=1)) as path:
        device = open_iaa_on_emulated(stand_in_alone, path, DATA_BYTES)
        device.memory[: len(PAGE) * 8] = np.frombuffer(PAGE * 8, dtype=np.uint8)
        assert device.submit(Operation.COMPRESS, jobs(8)) == 8
        while not device.wait(0):
            pass
        assert device.wait(0)
        for index, length in enumerate(device.output_bytes[:8].tolist()):
            place = int(jobs(8)["destination"][index])
            assert inflated(device.memory[place : place + length].tobytes()) == PAGE


def test_level_3_is_refused_by_the_hardware_path(stand_in_alone: Library, tmp_path: Path) -> None:
    with served(tmp_path / "device") as path:
        connect(stand_in_alone, path)
        assert RawJob(stand_in_alone, HARDWARE).compress(PAGE, PAGE_BYTES, level=3) == 87


def test_queue_without_room_is_5_and_takes_jobs_again_when_it_has(stand_in_alone: Library, tmp_path: Path) -> None:
    endless = CostModel({**FAST.operations, Operation.COMPRESS: OperationCost(4 * 10**9, 1)})
    with served(tmp_path / "device", settings(slots=8, cost=endless)) as path:
        connect(stand_in_alone, path)
        taken = [RawJob(stand_in_alone, HARDWARE) for _ in range(9)]
        for job in taken:
            job.describe(OP_COMPRESS, PAGE, PAGE_BYTES)
        assert [job.submit() for job in taken] == [0] * 8 + [5]
        assert {job.check() for job in taken[:8]} == {1}
        await_true(lambda: occupancy(DeviceObserver(path)) == 8)
        assert taken[8].submit() == 5
        connect(stand_in_alone, path)
        await_true(lambda: occupancy(DeviceObserver(path)) == 0)
        assert taken[8].submit() == 0


def test_work_queue_that_was_disabled_ends_the_jobs_in_flight_and_takes_no_others(
    stand_in_alone: Library, tmp_path: Path
) -> None:
    with served(tmp_path / "device") as path:
        device = open_iaa_on_emulated(stand_in_alone, path, DATA_BYTES)
        observer = DeviceObserver(path)
        observer.stall(20_000_000_000)
        assert device.submit(Operation.COMPRESS, jobs(4)) == 4
        assert not device.wait(1_000_000)
        observer.disable()
        assert device.wait(LONG_NS)
        assert device.status[:4].tolist() == [Status.FAILED] * 4
        with pytest.raises(DeviceUnavailable, match="no work queue any more"):
            device.submit(Operation.COMPRESS, jobs(4))


def test_streams_end_with_their_final_block_whatever_follows(library: Library) -> None:
    job = RawJob(library, SOFTWARE)
    assert job.decompress(deflated(PAGE, 12) + b"\xff\xff", PAGE_BYTES) == 0
    assert job.written == PAGE


@pytest.mark.parametrize(
    ("stream", "code"),
    [(b"\x07" + bytes(32), 213), (b"\x01\x01" + bytes(32), 214), (igzip_lib.compress(PAGE, 0, 0, 0, 12)[:-8], None)],
    ids=["block type", "stored length", "cut off"],
)
def test_streams_that_are_none_fail_with_a_code_of_200_and_more(
    library: Library, stream: bytes, code: int | None
) -> None:
    answer = RawJob(library, SOFTWARE).decompress(stream, PAGE_BYTES)
    assert answer == code if code is not None else answer not in (0, 1, 2, 5)


def test_jobs_take_most_of_a_megabyte_or_190_kb(stand_in_alone: Library) -> None:
    from scheduler.devices.iaa.libqpl import Path as JobPath

    assert [stand_in_alone.job_bytes(path) for path in (JobPath.HARDWARE, JobPath.SOFTWARE)] == [188_736, 740_864]
