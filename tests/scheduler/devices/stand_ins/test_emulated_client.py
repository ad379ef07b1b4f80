"""The C client against a real emulated device: the same answers as the Python client's, and never a wait for ever."""

import errno
import os
import signal
import socket
import stat
from pathlib import Path

import numpy as np
import pytest

from scheduler.devices.cost import CostModel, OperationCost
from scheduler.devices.device import MAX_DESCRIPTORS, Operation, Status
from scheduler.devices.emulated.client import DeviceObserver
from scheduler.devices.emulated.region import MAX_DATA_BYTES
from scheduler.devices.emulated.schedule import fault_drawer
from tests.conftest import ROOT
from tests.scheduler.devices.served_device import (
    DATA_BYTES,
    LONG_NS,
    OUTPUT_AT,
    PAGE_BYTES,
    await_true,
    decode_jobs,
    device_process,
    jobs,
    served,
    settings,
)
from tests.scheduler.devices.stand_ins.c_client import CClient

#: So slow that nothing completes while a test runs.
NEVER = CostModel({Operation.COMPRESS: OperationCost(10**9, 1)})
GONE = -1


def texts(pages: int) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
    return np.random.default_rng(1).integers(97, 101, pages * PAGE_BYTES, dtype=np.uint8)


def test_pages_go_through_a_device_process_and_come_back(c_client: Path, tmp_path: Path) -> None:
    with device_process(ROOT / "examples/devices/iaa-small.yaml", tmp_path / "device"):
        device, raw = CClient(c_client, tmp_path / "device", DATA_BYTES), texts(40)
        assert device.slots == DeviceObserver(tmp_path / "device").welcome.slots
        device.memory[: len(raw)] = raw
        assert device.submit(Operation.COMPRESS, jobs(40)) == 40
        assert device.wait(LONG_NS) == 1
        assert set(device.status[:40].tolist()) == {Status.OK}
        assert device.output_bytes[:40].max() < PAGE_BYTES
        device.memory[: len(raw)] = 0
        assert device.submit(Operation.DECOMPRESS, decode_jobs(device, 40)) == 40
        assert device.wait(LONG_NS) == 1
        assert np.array_equal(device.memory[: len(raw)], raw)
        device.close()


def test_killed_device_is_gone_for_who_waits_and_for_who_comes(c_client: Path, tmp_path: Path) -> None:
    file = tmp_path / "slow.yaml"
    file.write_text(
        "apiVersion: kuaka/v1\nkind: EmulatedDevice\nmetadata: {name: slow}\n"
        "spec: {kind: iaa, size: 32, engines: 1, operations: {compress: {fixedNs: 1000000000, nsPerByte: 1}}}\n"
    )
    with device_process(file, tmp_path / "device") as process:
        device = CClient(c_client, tmp_path / "device", DATA_BYTES)
        assert device.submit(Operation.COMPRESS, jobs(4)) == 4
        os.kill(process.pid, signal.SIGKILL)
        assert device.wait(LONG_NS) == GONE
        assert device.wait(LONG_NS) == GONE
        assert device.submit(Operation.COMPRESS, jobs(4)) == GONE
        assert device.status[:4].tolist() == [Status.PENDING] * 4
        device.close()
        # Until it is gone for good its listener may still take a connection, and end it.
        process.wait()
        with pytest.raises(ConnectionRefusedError):
            CClient(c_client, tmp_path / "device", DATA_BYTES)


def test_full_queue_takes_what_fits_and_the_wait_runs_out(c_client: Path, tmp_path: Path) -> None:
    with served(tmp_path / "device", settings(slots=8, cost=NEVER)) as path:
        first, second = (CClient(c_client, path, DATA_BYTES) for _ in range(2))
        assert first.submit(Operation.COMPRESS, jobs(6)) == 6
        assert second.submit(Operation.COMPRESS, jobs(4)) == 2
        assert second.submit(Operation.COMPRESS, jobs(4), 4) == 0
        assert second.wait(0) == 0
        assert first.wait(1_000_000) == 0
        second.close()
        first.close()


def test_occupancy_is_that_of_all_clients_and_falls_before_the_owner_hears_of_it(
    c_client: Path, tmp_path: Path
) -> None:
    slow = CostModel({Operation.COMPRESS: OperationCost(5_000_000, 1)})
    with served(tmp_path / "device", settings(cost=slow)) as path:
        first, second = (CClient(c_client, path, DATA_BYTES) for _ in range(2))
        assert (first.occupancy, second.occupancy) == (0, 0)
        first.submit(Operation.COMPRESS, jobs(6))
        assert (first.occupancy, second.occupancy) == (6, 6)
        assert CClient(c_client, path, DATA_BYTES).occupancy == 6
        assert first.wait(LONG_NS) == 1
        assert (first.occupancy, second.occupancy) == (0, 0)


def test_occupancy_falls_when_a_client_goes(c_client: Path, tmp_path: Path) -> None:
    with served(tmp_path / "device", settings(cost=NEVER)) as path:
        first, second = (CClient(c_client, path, DATA_BYTES) for _ in range(2))
        first.submit(Operation.COMPRESS, jobs(6))
        first.close()
        await_true(lambda: second.occupancy == 0)


def test_several_submissions_are_waited_for_together(c_client: Path, tmp_path: Path) -> None:
    with served(tmp_path / "device") as path:
        device = CClient(c_client, path, DATA_BYTES)
        for first in range(0, 32, 8):
            assert device.submit(Operation.COMPRESS, jobs(8, first=first), first) == 8
        assert device.wait(LONG_NS) == 1
        assert set(device.status[:32].tolist()) == {Status.OK}
        assert device.wait(0) == 1


def test_page_faults_and_overflows_are_told_per_record(c_client: Path, tmp_path: Path) -> None:
    expected = fault_drawer(300_000, 5)(16)
    with served(tmp_path / "device", draw_faults=fault_drawer(300_000, 5)) as path:
        device = CClient(c_client, path, DATA_BYTES)
        device.memory[:OUTPUT_AT] = np.random.default_rng(2).integers(0, 256, OUTPUT_AT, dtype=np.uint8)
        device.submit(Operation.COMPRESS, jobs(16))
        assert device.wait(LONG_NS) == 1
        statuses = [Status.PAGE_FAULT if fault else Status.OVERFLOW for fault in expected]
        assert device.status[:16].tolist() == statuses


def test_disabled_device_lets_the_client_go_and_takes_none(c_client: Path, tmp_path: Path) -> None:
    with served(tmp_path / "device", settings(cost=NEVER)) as path:
        device, observer = CClient(c_client, path, DATA_BYTES), DeviceObserver(path)
        device.submit(Operation.COMPRESS, jobs(4))
        observer.disable()
        assert device.wait(LONG_NS) == GONE
        with pytest.raises(OSError, match="unavailable") as refused:
            CClient(c_client, path, DATA_BYTES)
        assert refused.value.errno == errno.EAGAIN


def test_batches_that_are_none_are_refused_and_cost_nothing(c_client: Path, tmp_path: Path) -> None:
    with served(tmp_path / "device") as path:
        device = CClient(c_client, path, DATA_BYTES)
        for count, first in ((0, 0), (2, MAX_DESCRIPTORS - 1), (1, MAX_DESCRIPTORS), (MAX_DESCRIPTORS + 1, 0)):
            assert device.submit(Operation.COMPRESS, jobs(1), first, count) == GONE
        assert device.submit(Operation.COMPRESS, jobs(1)) == 1
        assert device.wait(LONG_NS) == 1


def test_range_beyond_the_memory_costs_the_connection(c_client: Path, tmp_path: Path) -> None:
    with served(tmp_path / "device") as path:
        device, wrong = CClient(c_client, path, DATA_BYTES), jobs(1)
        wrong["source"] = DATA_BYTES
        assert device.submit(Operation.COMPRESS, wrong) == GONE
        assert device.wait(0) == GONE


def test_nothing_there_too_much_memory_and_a_path_too_long_are_no_device(c_client: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        CClient(c_client, tmp_path / "none", DATA_BYTES)
    with pytest.raises(OSError, match="too long"):
        CClient(c_client, tmp_path / ("n" * 200), DATA_BYTES)
    with served(tmp_path / "device") as path:
        with pytest.raises(OSError, match=r"reset|Broken pipe"):
            CClient(c_client, path, MAX_DATA_BYTES + 1)
        with pytest.raises(OSError, match="rgument"):
            CClient(c_client, path, 0)


def test_device_that_never_answers_is_none_within_the_bound(c_client: Path, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(tmp_path / "device"))
        listener.listen()
        with pytest.raises(TimeoutError):
            CClient(c_client, tmp_path / "device", DATA_BYTES)


def test_closed_clients_leave_no_descriptor_open(c_client: Path, tmp_path: Path) -> None:
    with served(tmp_path / "device") as path:
        before = _files()
        for _ in range(20):
            CClient(c_client, path, DATA_BYTES).close()
        await_true(lambda: _files() <= before)


def _files() -> int:
    """Sockets and anonymous memory that this process has open."""
    modes = []
    for each in Path("/proc/self/fd").iterdir():
        try:
            modes.append(each.stat().st_mode)
        except FileNotFoundError:
            continue
    return sum(stat.S_ISSOCK(mode) or stat.S_ISREG(mode) for mode in modes)
