"""The DSA's work queue as a device, with the test in the place of the hardware: it writes the completion records."""

import gc
import mmap
import os
import resource
import struct
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from scheduler.devices.device import DESCRIPTOR, MAX_DESCRIPTORS, Descriptors, DeviceDown, Operation, Status
from scheduler.devices.dsa import draining
from scheduler.devices.dsa.descriptors import Completion
from scheduler.devices.dsa.device import SPIN_NS, DsaDevice
from scheduler.devices.dsa.memory import prefaulted
from scheduler.devices.dsa.submission import WritePort
from tests.scheduler.devices.dsa.scripted_port import COST, PAGE_BYTES, ScriptedPort, scans
from tests.scheduler.devices.served_device import await_true

PAGES = 256
SCAN = Operation.ZERO_SCAN


class Clock:
    """Time that passes by looking at it and by sleeping."""

    def __init__(self) -> None:
        self.now_ns = 0
        self.slept_ns: list[int] = []

    def read(self) -> int:
        self.now_ns += 2_000
        return self.now_ns

    def sleep(self, seconds: float) -> None:
        self.slept_ns.append(round(seconds * 1e9))
        self.now_ns += self.slept_ns[-1]


@pytest.fixture
def port() -> ScriptedPort:
    return ScriptedPort()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def device(port: ScriptedPort, clock: Clock) -> Iterator[DsaDevice]:
    device = DsaDevice(port, prefaulted(PAGES * PAGE_BYTES), 128, COST, clock=clock.read, sleep=clock.sleep)
    yield device
    port.may_close.set()
    device.close()


def complete(device: DsaDevice, first: int, completions: list[int], result: int = 0) -> None:
    """What the hardware would do."""
    records = device.records[first : first + len(completions)]
    records["result"] = result
    records["status"] = completions


def test_descriptors_name_the_pages_and_the_records_of_their_indexes(port: ScriptedPort, device: DsaDevice) -> None:
    assert device.submit(SCAN, scans(3, first=10), first=7) == 3
    (submitted,) = port.submitted
    base, records = device.memory.ctypes.data, device.records.ctypes.data
    assert submitted["source"].tolist() == [base + page * PAGE_BYTES for page in (10, 11, 12)]
    assert submitted["transfer_bytes"].tolist() == [PAGE_BYTES] * 3
    assert submitted["completion_address"].tolist() == [records + 32 * index for index in (7, 8, 9)]
    assert (submitted["flags_opcode"] == 6 << 24 | 0xC).all()
    assert not submitted["pattern"].any()


def test_page_is_zero_only_by_success_without_a_difference(device: DsaDevice) -> None:
    device.submit(SCAN, scans(6))
    complete(device, 0, [1, 2, 1, 3, 0x10, 0x83])
    device.records["result"][2] = 1
    assert device.wait(0)
    assert device.status[:6].tolist() == [
        Status.OK,
        Status.OK,
        Status.OK,
        Status.PAGE_FAULT,
        Status.FAILED,
        Status.PAGE_FAULT,
    ]
    zero = (device.status[:6] == Status.OK) & (device.output_bytes[:6] == 0)
    assert zero.tolist() == [True, False, False, False, False, False]


def test_false_predicate_is_not_zero_whatever_the_result_byte_says(device: DsaDevice) -> None:
    device.submit(SCAN, scans(1))
    complete(device, 0, [Completion.FALSE_PREDICATE], result=0)
    assert device.wait(0)
    assert (device.status[0], device.output_bytes[0]) == (Status.OK, 1)


@pytest.mark.parametrize("fault", [3, 4, 0x83, 0x84])
def test_page_fault_without_block_on_fault_leaves_the_page_to_the_caller(device: DsaDevice, fault: int) -> None:
    device.submit(SCAN, scans(2))
    complete(device, 0, [1, fault])
    assert device.wait(0)
    assert device.status[:2].tolist() == [Status.OK, Status.PAGE_FAULT]
    assert device.statistics.page_faults == 1


@pytest.mark.parametrize("error", [5, 0x10, 0x11, 0x13, 0x1B, 0x20, 0x22, 0x7F, 0xFF])
def test_device_error_fails_its_page_alone_and_is_reported(device: DsaDevice, error: int) -> None:
    device.submit(SCAN, scans(3))
    complete(device, 0, [1, error, 1])
    assert device.wait(0)
    assert device.status[:3].tolist() == [Status.OK, Status.FAILED, Status.OK]
    assert (device.statistics.errors, device.statistics.last_error) == (1, error)


def test_records_of_an_earlier_batch_say_nothing_of_the_next(device: DsaDevice) -> None:
    device.submit(SCAN, scans(4))
    complete(device, 0, [1] * 4, result=1)
    assert device.wait(0)
    device.submit(SCAN, scans(4))
    assert not device.wait(0)
    assert device.status[:4].tolist() == [Status.PENDING] * 4


def test_partial_acceptance_waits_for_what_was_taken_only(port: ScriptedPort, device: DsaDevice) -> None:
    port.room = 5
    assert device.submit(SCAN, scans(8)) == 5
    complete(device, 0, [1] * 5)
    assert device.wait(0)
    assert device.status[:8].tolist() == [Status.OK] * 5 + [Status.PENDING] * 3


def test_busy_queue_leaves_nothing_in_flight(port: ScriptedPort, device: DsaDevice) -> None:
    port.room = 0
    assert device.submit(SCAN, scans(8)) == 0
    assert device.wait(0)


def test_dedicated_queue_is_never_overrun_because_it_would_lose_descriptors_silently(
    port: ScriptedPort, device: DsaDevice
) -> None:
    assert device.submit(SCAN, scans(100)) == 100
    assert device.submit(SCAN, scans(100), first=100) == 28
    assert device.submit(SCAN, scans(100), first=200) == 0
    assert [len(submitted) for submitted in port.submitted] == [100, 28]
    complete(device, 0, [1] * 100)
    assert device.submit(SCAN, scans(100), first=200) == 100


def test_several_submissions_complete_in_any_order(device: DsaDevice) -> None:
    device.submit(SCAN, scans(4), first=0)
    device.submit(SCAN, scans(4), first=100)
    complete(device, 100, [1] * 4)
    assert not device.wait(0)
    assert device.status[100:104].tolist() == [Status.OK] * 4
    complete(device, 0, [1] * 4)
    assert device.wait(0)


def test_records_in_flight_cannot_be_submitted_again(device: DsaDevice) -> None:
    device.submit(SCAN, scans(4), first=10)
    with pytest.raises(ValueError, match="in flight"):
        device.submit(SCAN, scans(8), first=3)
    assert device.submit(SCAN, scans(7), first=3) == 7


def test_wait_ends_with_its_bound_and_what_was_complete_is_final(device: DsaDevice, clock: Clock) -> None:
    device.submit(SCAN, scans(4))
    complete(device, 0, [1, 3, 0x20])
    began_ns = clock.now_ns
    assert not device.wait(10_000_000)
    assert 10_000_000 <= clock.now_ns - began_ns < 10_100_000
    assert device.status[:4].tolist() == [Status.OK, Status.PAGE_FAULT, Status.FAILED, Status.PENDING]
    assert not device.wait(0)
    assert (device.statistics.page_faults, device.statistics.errors) == (1, 1)


def test_wait_looks_without_pause_for_a_batchs_time_and_then_sleeps_longer_and_longer(
    device: DsaDevice, clock: Clock
) -> None:
    device.submit(SCAN, scans(4))
    device.wait(SPIN_NS // 2)
    assert not clock.slept_ns
    device.wait(5_000_000)
    assert clock.slept_ns[:4] == [50_000, 100_000, 200_000, 400_000]
    assert max(clock.slept_ns) == 500_000


@pytest.mark.parametrize(
    ("jobs", "first"),
    [
        (scans(0), 0),
        (scans(MAX_DESCRIPTORS + 1), 0),
        (scans(2), MAX_DESCRIPTORS - 1),
        (scans(1), -1),
        (scans(1, first=PAGES), 0),
        (np.zeros(1, dtype=DESCRIPTOR), 0),
        (np.zeros(4, dtype=np.uint8), 0),
    ],
)
def test_what_is_no_batch_is_refused_and_nothing_is_submitted(
    port: ScriptedPort, device: DsaDevice, jobs: Descriptors, first: int
) -> None:
    with pytest.raises(ValueError, match=r"descriptors|source|records"):
        device.submit(SCAN, jobs, first)
    assert not port.submitted
    assert device.wait(0)


def test_source_whose_end_overflows_32_bits_is_beyond_the_memory(device: DsaDevice) -> None:
    jobs = scans(1)
    jobs["source"], jobs["source_bytes"] = 4096, 2**32 - 4096
    with pytest.raises(ValueError, match="beyond"):
        device.submit(SCAN, jobs)


@pytest.mark.parametrize("operation", [Operation.COMPRESS, Operation.DECOMPRESS])
def test_device_scans_and_does_nothing_else(device: DsaDevice, operation: Operation) -> None:
    assert device.cost.supports(SCAN)
    assert not device.cost.supports(operation)
    with pytest.raises(ValueError, match="does not"):
        device.submit(operation, scans(1))


def test_closed_device_is_down(device: DsaDevice, port: ScriptedPort) -> None:
    device.close()
    device.close()
    assert port.closed == 1
    with pytest.raises(DeviceDown, match="closed"):
        device.submit(SCAN, scans(1))
    with pytest.raises(DeviceDown, match="closed"):
        device.wait(0)


def test_refused_submission_closes_the_device_and_what_was_complete_stays(
    port: ScriptedPort, device: DsaDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    device.submit(SCAN, scans(2))
    complete(device, 0, [1, 1])
    assert device.wait(0)

    def refuse(rows: object) -> int:
        raise DeviceDown("disabled")

    monkeypatch.setattr(port, "submit", refuse)
    with pytest.raises(DeviceDown, match="disabled"):
        device.submit(SCAN, scans(2), first=8)
    assert port.closed == 1
    assert device.status[:2].tolist() == [Status.OK] * 2


# Memory.


def present(address: int, size_bytes: int) -> bool:
    """Whether all pages of a range are there, as the kernel says."""
    pages = (size_bytes + mmap.PAGESIZE - 1) // mmap.PAGESIZE
    with Path("/proc/self/pagemap").open("rb") as pagemap:
        pagemap.seek(address // mmap.PAGESIZE * 8)
        entries = struct.unpack(f"{pages}Q", pagemap.read(8 * pages))
    return all(entry >> 63 for entry in entries)


def test_memory_and_records_are_prefaulted_and_aligned(device: DsaDevice) -> None:
    assert present(device.memory.ctypes.data, PAGES * PAGE_BYTES)
    assert present(device.records.ctypes.data, device.records.nbytes)
    assert device.memory.ctypes.data % PAGE_BYTES == 0
    assert device.records.ctypes.data % 32 == 0


def test_memory_is_not_made_read_only_by_a_fork() -> None:
    memory = prefaulted(2000 * PAGE_BYTES)
    child = os.fork()
    if not child:
        os._exit(0)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    memory[::PAGE_BYTES] = 1
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    os.waitpid(child, 0)
    assert faults < 1000


@pytest.mark.parametrize("how", ["closed", "collected"])
def test_memory_of_a_device_given_up_is_kept_until_the_kernel_has_drained_it(how: str) -> None:
    port = ScriptedPort()
    port.may_close.clear()
    device = DsaDevice(port, prefaulted(PAGES * PAGE_BYTES), 128, COST)
    memory, records = weakref.ref(device.memory), weakref.ref(device.records)
    device.submit(SCAN, scans(8))
    assert not device.wait(0)
    if how == "closed":
        device.close()
    del device
    gc.collect()
    assert memory() is not None
    assert records() is not None
    assert port.closed == 0
    port.may_close.set()
    await_true(lambda: memory() is None and records() is None)
    assert port.closed == 1


def test_device_that_never_drains_is_opened_a_few_times_and_then_no_more(tmp_path: Path) -> None:
    queue = tmp_path / "wq0.0"
    queue.touch()
    ports = [ScriptedPort() for _ in range(draining.MAX_DRAINING)]
    for port in ports:
        port.may_close.clear()
        DsaDevice(port, prefaulted(1), 128, COST).close()
    with pytest.raises(DeviceDown, match="have not drained: reset the device"):
        DsaDevice.open(queue, PAGE_BYTES, 128, COST)
    for port in ports:
        port.may_close.set()
    await_true(lambda: all(port.closed for port in ports))
    device = DsaDevice.open(queue, PAGE_BYTES, 128, COST)
    device.close()


# Forks.


def in_child(check: Callable[[], bool]) -> int:
    """Exit status of a forked child that runs `check`: 0 where it returns True."""
    child = os.fork()
    if not child:
        try:
            os._exit(0 if check() else 1)
        finally:
            os._exit(2)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_device_is_down_in_a_forked_child_and_stays_up_in_its_parent(port: ScriptedPort, device: DsaDevice) -> None:
    def refused() -> bool:
        for attempt in (lambda: device.submit(SCAN, scans(1)), lambda: device.wait(0)):
            try:
                attempt()
            except DeviceDown as error:
                if "before a fork" not in str(error):
                    return False
            else:
                return False
        return not port.submitted

    assert in_child(refused) == 0
    assert device.submit(SCAN, scans(1)) == 1


def test_forked_child_keeps_no_copy_of_the_queues_file(tmp_path: Path) -> None:
    queue = tmp_path / "wq0.0"
    queue.touch()
    port = WritePort(queue)

    def no_copy() -> bool:
        return not any(link == str(queue) for link in links())

    assert queue in {Path(link) for link in links()}
    assert in_child(no_copy) == 0
    assert queue in {Path(link) for link in links()}
    port.close()


def links() -> list[str]:
    """What this process has open."""
    folder = Path("/proc/self/fd")
    return [str(entry.readlink()) for entry in list(folder.iterdir()) if entry.is_symlink()]


def test_real_queue_is_never_mapped(tmp_path: Path) -> None:
    queue = tmp_path / "wq0.0"
    queue.touch()
    device = DsaDevice.open(queue, PAGE_BYTES, 128, COST)
    assert device.submit(SCAN, scans(1)) == 1
    assert str(queue) not in Path("/proc/self/maps").read_text()
    assert queue.read_bytes()[7] == 6
    assert not device.wait(1)
    device.close()
