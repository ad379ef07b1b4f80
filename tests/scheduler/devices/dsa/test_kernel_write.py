"""The kernel's side of a write, on a FIFO: what it refuses, what it takes, and how much."""

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from scheduler.devices.device import DeviceDown
from scheduler.devices.dsa.descriptors import DsaDescriptors, comparisons_with_zero
from scheduler.devices.dsa.kernel_write import KernelWrite
from scheduler.devices.dsa.submission import WritePort

BATCH = 1 << 24 | 0xC


def rows(table: DsaDescriptors) -> np.ndarray[tuple[int, int], np.dtype[np.uint8]]:
    return table.view(np.uint8).reshape(-1, 64)


@pytest.fixture
def fifo(tmp_path: Path) -> Iterator[tuple[Path, int]]:
    """A FIFO, and its end to read from."""
    path = tmp_path / "wq0.0"
    os.mkfifo(path)
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    yield path, fd
    os.close(fd)


def take_all(wanted: int, written: int) -> int:
    return wanted


def test_batch_opcode_is_refused_as_on_first_generation_devices(fifo: tuple[Path, int]) -> None:
    table = comparisons_with_zero(0, 4)
    table["flags_opcode"][0] = BATCH
    with pytest.raises(DeviceDown, match="refuses the descriptor"):
        WritePort(fifo[0], KernelWrite(take_all)).submit(rows(table))
    with pytest.raises(BlockingIOError):
        os.read(fifo[1], 64)


@pytest.mark.parametrize("address", [8, 16, 33])
def test_completion_record_that_is_not_aligned_to_32_bytes_is_refused(fifo: tuple[Path, int], address: int) -> None:
    table = comparisons_with_zero(0, 1)
    table["completion_address"] = address
    with pytest.raises(DeviceDown, match="refuses the descriptor"):
        WritePort(fifo[0], KernelWrite(take_all)).submit(rows(table))


def test_descriptors_before_a_refused_one_are_submitted(fifo: tuple[Path, int]) -> None:
    table = comparisons_with_zero(0, 4)
    table["completion_address"][2] += 1
    fd = os.open(fifo[0], os.O_WRONLY)
    assert KernelWrite(take_all)(fd, rows(table).data) == 2 * 64
    os.close(fd)
    assert os.read(fifo[1], 4096) == table[:2].tobytes()


def test_other_process_than_the_opener_may_not_submit(fifo: tuple[Path, int], monkeypatch: pytest.MonkeyPatch) -> None:
    port = WritePort(fifo[0], KernelWrite(take_all))
    own = os.getpid()
    monkeypatch.setattr("scheduler.devices.dsa.kernel_write.os.getpid", lambda: own + 1)
    with pytest.raises(DeviceDown, match="opened by another process or before a fork: open it in this one"):
        port.submit(rows(comparisons_with_zero(0, 1)))


def test_full_pipe_is_a_busy_queue(fifo: tuple[Path, int]) -> None:
    port = WritePort(fifo[0], KernelWrite(take_all))
    fcntl.fcntl(fifo[1], fcntl.F_SETPIPE_SZ, 4096)
    table = comparisons_with_zero(0, 128)
    assert port.submit(rows(table)) == 64
    assert port.submit(rows(table)) == 0
    assert os.read(fifo[1], 8192) == table[:64].tobytes()
    assert port.submit(rows(table)) == 64


def test_reader_that_has_gone_is_a_device_that_has_gone(tmp_path: Path) -> None:
    path = tmp_path / "wq0.0"
    os.mkfifo(path)
    with pytest.raises(DeviceDown, match="gone"):
        WritePort(path, KernelWrite(take_all))
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    port = WritePort(path, KernelWrite(take_all))
    os.close(reader)
    with pytest.raises(DeviceDown, match="gone"):
        port.submit(rows(comparisons_with_zero(0, 1)))


def test_queue_takes_what_there_is_room_for_and_counts_what_it_took(fifo: tuple[Path, int]) -> None:
    asked: list[tuple[int, int]] = []

    def room(wanted: int, written: int) -> int:
        asked.append((wanted, written))
        return min(wanted, 10 - written)

    port = WritePort(fifo[0], KernelWrite(room))
    assert port.submit(rows(comparisons_with_zero(0, 16))) == 10
    assert asked == [(16, 0), (6, 10)]
