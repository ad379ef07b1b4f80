"""The real binding on its peer: right answers through busy queues, faults and errors; an end that leaves nothing."""

import itertools
import os
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest

from scheduler.devices.cost import CostModel, OperationCost
from scheduler.devices.device import DeviceDown, DeviceUnavailable, Operation, Status
from scheduler.devices.dsa.descriptors import DsaDescriptors
from scheduler.devices.dsa.device import DsaDevice
from scheduler.devices.dsa.execution import DirectExecution, Disturbances, PeerMemory
from scheduler.devices.dsa.memory import prefaulted
from scheduler.devices.dsa.peer import open_dsa_on, open_dsa_on_emulated, open_dsa_on_peer
from scheduler.devices.emulated.client import DeviceObserver, EmulatedDevice
from scheduler.devices.emulated.schedule import fault_drawer
from tests.scheduler.devices.dsa.scripted_port import COST, PAGE_BYTES, mixed_pages, scans
from tests.scheduler.devices.served_device import LONG_NS, await_true, occupancy, served, settings

PAGES = 128
SCAN = Operation.ZERO_SCAN


class HeldExecution(DirectExecution):
    """A device that takes descriptors and does nothing until it may; it does not care whether it should end."""

    def __init__(self) -> None:
        super().__init__(Disturbances())
        self.go = threading.Event()

    def execute(self, batch: DsaDescriptors, memory: PeerMemory, ended: threading.Event) -> None:
        self.go.wait(20)
        super().execute(batch, memory, ended)


def put(device: DsaDevice, seed: int) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Fill the memory; whether each page is zero."""
    pages = mixed_pages(PAGES, seed)
    device.memory[:] = pages.reshape(-1)
    zero: np.ndarray[tuple[int], np.dtype[np.bool_]] = ~pages.any(axis=1)
    assert 0 < zero.sum() < PAGES
    return zero


def open_files() -> set[str]:
    """What is open, sockets and pipes by their numbers."""
    entries = list(Path("/proc/self/fd").iterdir())
    return {f"{entry.name} {entry.readlink()}" for entry in entries if entry.is_symlink()}


def threads() -> set[str]:
    return {thread.name for thread in threading.enumerate() if thread.name.startswith("dsa-")}


# Without an emulated device.


def test_mixed_pages_are_told_apart() -> None:
    device = open_dsa_on_peer(PAGES * PAGE_BYTES)
    for seed in range(5):
        zero = put(device, seed)
        assert device.submit(SCAN, scans(PAGES)) == PAGES
        assert device.wait(LONG_NS)
        assert set(device.status[:PAGES].tolist()) == {Status.OK}
        assert (device.output_bytes[:PAGES] == 0).tolist() == zero.tolist()
    device.close()


def test_queue_takes_no_more_than_its_slots_and_a_full_one_is_not_waited_for() -> None:
    execution = HeldExecution()
    device = open_dsa_on(execution, prefaulted(PAGES * PAGE_BYTES), 32, COST)
    assert device.submit(SCAN, scans(20)) == 20
    assert device.submit(SCAN, scans(20), first=20) == 12
    assert device.submit(SCAN, scans(20), first=32) == 0
    assert not device.wait(1_000_000)
    execution.go.set()
    assert device.wait(LONG_NS)
    assert device.submit(SCAN, scans(64)) == 32
    assert device.wait(LONG_NS)
    device.close()


def test_device_given_up_leaves_its_memory_to_the_peer_until_that_has_ended() -> None:
    execution = HeldExecution()
    device = open_dsa_on(execution, prefaulted(PAGES * PAGE_BYTES), 128, COST)
    device.submit(SCAN, scans(8))
    assert not device.wait(1_000_000)
    status, records = device.status, device.records
    device.close()
    await_true(lambda: threads() == {"dsa-peer", "dsa-drain"})
    execution.go.set()
    await_true(lambda: not threads())
    assert set(records["status"][:8].tolist()) == {1}
    assert set(status[:8].tolist()) == {Status.PENDING}


@pytest.mark.parametrize("how", ["closed", "collected"])
def test_nothing_is_left_of_devices_that_were_opened_and_ended(how: str) -> None:
    files = open_files()
    for _ in range(20):
        device = open_dsa_on_peer(PAGES * PAGE_BYTES)
        device.submit(SCAN, scans(8))
        assert device.wait(LONG_NS)
        if how == "closed":
            device.close()
        del device
    await_true(lambda: not threads())
    assert open_files() == files


def test_forked_child_opens_a_device_of_its_own_and_the_parents_ends_all_the_same() -> None:
    device = open_dsa_on_peer(PAGES * PAGE_BYTES)
    go, told = os.pipe()
    child = os.fork()
    if not child:
        status = 1
        try:
            device.close()
            own = open_dsa_on_peer(PAGES * PAGE_BYTES)
            status = int(own.submit(SCAN, scans(8)) != 8 or not own.wait(LONG_NS))
            os.close(told)
            # As long as the parent likes: the child has nothing of the parent's device.
            os.read(go, 1)
        finally:
            os._exit(status)
    assert device.submit(SCAN, scans(8)) == 8
    assert device.wait(LONG_NS)
    device.close()
    await_true(lambda: not threads())
    os.close(told)
    os.close(go)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def scan_all(device: DsaDevice, seed: int) -> tuple[int, int, int]:
    """Scan a memory full of pages until the device has looked at each; busy answers, faults and errors met."""
    zero = put(device, seed)
    todo = np.arange(PAGES)
    busy = faults = errors = 0
    while len(todo):
        jobs = scans(len(todo))
        jobs["source"] = todo * PAGE_BYTES
        accepted = device.submit(SCAN, jobs)
        busy += accepted < len(todo)
        assert device.wait(LONG_NS)
        status, done = device.status[:accepted], todo[:accepted]
        assert set(status.tolist()) <= {Status.OK, Status.PAGE_FAULT, Status.FAILED}
        ok = status == Status.OK
        assert (device.output_bytes[:accepted][ok] == 0).tolist() == zero[done[ok]].tolist()
        faults += int((status == Status.PAGE_FAULT).sum())
        errors += int((status == Status.FAILED).sum())
        todo = todo[accepted:]
    return busy, faults, errors


def test_hundred_thousand_pages_through_a_troubled_queue_are_all_right_and_nothing_grows() -> None:
    batches = 100_000 // PAGES + 1
    disturbances = Disturbances(50_000, 10_000, 1_000, seed=3)
    device = open_dsa_on_peer(PAGES * PAGE_BYTES, disturbances)
    scan_all(device, 0)
    process, files = psutil.Process(), open_files()
    before_bytes = process.memory_info().rss
    met = np.array([scan_all(device, 1 + batch) for batch in range(batches)]).sum(axis=0)
    assert process.memory_info().rss - before_bytes < 8 << 20
    assert (open_files(), threads()) == (files, {"dsa-peer"})
    busy, faults, errors = (met / (batches * PAGES)).tolist()
    # Of those that a submission tries once more some get in.
    assert 0.005 < busy < 0.05
    assert 0.005 < faults < 0.015
    assert 0 < errors < 0.003
    statistics = device.statistics
    assert statistics.page_faults >= met[1]
    assert statistics.errors >= met[2]
    device.close()


# On an emulated device.


def test_results_are_the_emulated_devices(tmp_path: Path) -> None:
    with served(tmp_path / "device") as path:
        device = open_dsa_on_emulated(path, PAGES * PAGE_BYTES)
        assert device.slots == 128
        for seed in range(3):
            zero = put(device, seed)
            assert device.submit(SCAN, scans(PAGES)) == PAGES
            assert device.wait(LONG_NS)
            assert set(device.status[:PAGES].tolist()) == {Status.OK}
            assert (device.output_bytes[:PAGES] == 0).tolist() == zero.tolist()
        assert DeviceObserver(path).sample("pool").completed == 3 * PAGES
        device.close()


def test_page_faults_are_the_emulated_devices(tmp_path: Path) -> None:
    with served(tmp_path / "device", draw_faults=fault_drawer(200_000, 1)) as path:
        device = open_dsa_on_emulated(path, PAGES * PAGE_BYTES)
        zero = put(device, 1)
        device.submit(SCAN, scans(PAGES))
        assert device.wait(LONG_NS)
        status = device.status[:PAGES]
        assert set(status.tolist()) == {Status.OK, Status.PAGE_FAULT}
        ok = status == Status.OK
        assert (device.output_bytes[:PAGES][ok] == 0).tolist() == zero[ok].tolist()
        assert device.statistics.page_faults == int((~ok).sum())
        device.close()


def test_queue_that_another_client_has_filled_is_busy(tmp_path: Path) -> None:
    with served(tmp_path / "device", settings(slots=64)) as path:
        observer = DeviceObserver(path)
        observer.stall(60_000_000_000)
        other = EmulatedDevice.open(path, PAGES * PAGE_BYTES)
        assert other.submit(SCAN, scans(50)) == 50
        device = open_dsa_on_emulated(path, PAGES * PAGE_BYTES)
        assert device.submit(SCAN, scans(PAGES)) == 14
        await_true(lambda: occupancy(observer) == 64)
        other.close()
        accepted = 14

        def full() -> bool:
            nonlocal accepted
            accepted += device.submit(SCAN, scans(PAGES), first=accepted)
            return accepted == 64

        await_true(full)
        assert device.submit(SCAN, scans(PAGES), first=64) == 0
        device.close()
        await_true(lambda: occupancy(observer) == 0)
        observer.close()


def test_stalled_device_costs_one_bounded_wait_and_leaves_nothing(tmp_path: Path) -> None:
    with served(tmp_path / "device") as path:
        files = open_files()
        device = open_dsa_on_emulated(path, PAGES * PAGE_BYTES)
        observer = DeviceObserver(path)
        observer.stall(60_000_000_000)
        assert device.submit(SCAN, scans(PAGES)) == PAGES
        assert not device.wait(5_000_000)
        device.close()
        observer.close()
        del device
        await_true(lambda: not threads())
        await_true(lambda: open_files() == files)


@pytest.mark.parametrize("end", [lambda path: DeviceObserver(path).disable(), None])
def test_device_that_is_disabled_or_dies_is_down_at_the_next_submission(
    tmp_path: Path, end: Callable[[Path], None] | None
) -> None:
    with served(tmp_path / "device") as path:
        device = open_dsa_on_emulated(path, PAGES * PAGE_BYTES)
        assert device.submit(SCAN, scans(8)) == 8
        assert device.wait(LONG_NS)
        if end is not None:
            end(path)
            submit_until_down(device)
            with pytest.raises(DeviceDown):
                open_dsa_on_emulated(path, PAGES * PAGE_BYTES)
    if end is None:
        submit_until_down(device)
    await_true(lambda: not threads())


def submit_until_down(device: DsaDevice) -> None:
    """One submission may go to a queue that has just been disabled: it never completes. The next one is refused."""

    def submit() -> bool:
        try:
            device.submit(SCAN, scans(8), first=8 + 8 * next(places))
            device.wait(2_000_000)
        except DeviceDown:
            return True
        return False

    places = itertools.count()
    await_true(submit)


def test_device_that_is_no_dsa_is_refused_in_one_line(tmp_path: Path) -> None:
    only_deflate = CostModel({Operation.COMPRESS: OperationCost(1, 1)})
    with served(tmp_path / "device", settings(cost=only_deflate)) as path:
        files = open_files()
        with pytest.raises(DeviceUnavailable, match="does no zero scan: name one that is a dsa"):
            open_dsa_on_emulated(path, PAGES * PAGE_BYTES)
        await_true(lambda: open_files() == files)


def test_no_device_at_that_path_is_down(tmp_path: Path) -> None:
    with pytest.raises(DeviceDown):
        open_dsa_on_emulated(tmp_path / "device", PAGES * PAGE_BYTES)
    await_true(lambda: not threads())
