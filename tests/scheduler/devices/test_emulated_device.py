"""An emulated device and its clients over their socket: real bytes, busy answers, faults, stalls, strangers."""

import os
import socket
import stat
import struct
import threading
import time
from collections import deque
from pathlib import Path

import numpy as np
import pytest

from scheduler.devices.cost import CostModel, OperationCost
from scheduler.devices.device import MAX_DESCRIPTORS, DeviceDown, Operation, Status
from scheduler.devices.emulated.client import DeviceObserver, EmulatedDevice
from scheduler.devices.emulated.region import MAX_DATA_BYTES
from scheduler.devices.emulated.schedule import Disturbance, DisturbanceKind, fault_drawer
from scheduler.devices.emulated.wire import Kind, encode_hello
from tests.scheduler.devices.served_device import (
    DATA_BYTES,
    LONG_NS,
    OUTPUT_AT,
    PAGE_BYTES,
    await_true,
    decode_jobs,
    jobs,
    occupancy,
    served,
    settings,
)

#: So slow that nothing completes while a test runs.
NEVER = CostModel({Operation.COMPRESS: OperationCost(10**9, 1)})


def texts(pages: int, seed: int = 1) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
    return np.random.default_rng(seed).integers(97, 101, pages * PAGE_BYTES, dtype=np.uint8)


def test_pages_are_compressed_and_come_back(tmp_path: Path) -> None:
    raw = texts(40)
    with served(tmp_path / "device") as path:
        device = EmulatedDevice.open(path, DATA_BYTES)
        device.memory[: len(raw)] = raw
        assert device.submit(Operation.COMPRESS, jobs(40)) == 40
        assert device.wait(LONG_NS)
        assert set(device.status[:40].tolist()) == {Status.OK}
        assert device.output_bytes[:40].max() < PAGE_BYTES
        device.memory[: len(raw)] = 0
        assert device.submit(Operation.DECOMPRESS, decode_jobs(device, 40)) == 40
        assert device.wait(LONG_NS)
        assert set(device.output_bytes[:40].tolist()) == {PAGE_BYTES}
        assert np.array_equal(device.memory[: len(raw)], raw)


def test_page_that_does_not_fit_is_an_overflow_and_nothing_of_it_is_written(tmp_path: Path) -> None:
    with served(tmp_path / "device") as path:
        device = EmulatedDevice.open(path, DATA_BYTES)
        device.memory[:PAGE_BYTES] = np.frombuffer(os.urandom(PAGE_BYTES), dtype=np.uint8)
        device.submit(Operation.COMPRESS, jobs(2))
        assert device.wait(LONG_NS)
        assert device.status[:2].tolist() == [Status.OVERFLOW, Status.OK]
        assert not device.memory[OUTPUT_AT : OUTPUT_AT + PAGE_BYTES].any()


@pytest.mark.parametrize("source", [b"\xff" * 100, b"\x03", bytes(50)])
def test_stream_that_is_none_fails_alone(tmp_path: Path, source: bytes) -> None:
    with served(tmp_path / "device") as path:
        device = EmulatedDevice.open(path, DATA_BYTES)
        device.memory[:PAGE_BYTES] = texts(1)
        device.submit(Operation.COMPRESS, jobs(2))
        assert device.wait(LONG_NS)
        back = decode_jobs(device, 2)
        device.memory[OUTPUT_AT : OUTPUT_AT + len(source)] = np.frombuffer(source, dtype=np.uint8)
        back["source_bytes"][0] = len(source)
        device.submit(Operation.DECOMPRESS, back)
        assert device.wait(LONG_NS)
        # b"\x03" is a whole stream, of nothing.
        assert device.status[1] == Status.OK
        assert device.status[0] == Status.FAILED or device.output_bytes[0] == 0


def test_decompression_beyond_its_capacity_fails_and_writes_nothing_past_it(tmp_path: Path) -> None:
    with served(tmp_path / "device") as path:
        device = EmulatedDevice.open(path, DATA_BYTES)
        device.memory[: 2 * PAGE_BYTES] = texts(2)
        device.submit(Operation.COMPRESS, jobs(1))
        assert device.wait(LONG_NS)
        back = decode_jobs(device, 1)
        back["capacity_bytes"] = PAGE_BYTES - 1
        before = device.memory[PAGE_BYTES : 2 * PAGE_BYTES].copy()
        device.submit(Operation.DECOMPRESS, back)
        assert device.wait(LONG_NS)
        assert device.status[0] == Status.FAILED
        assert np.array_equal(device.memory[PAGE_BYTES : 2 * PAGE_BYTES], before)


def test_zero_scan_tells_zero_pages_from_others(tmp_path: Path) -> None:
    with served(tmp_path / "device") as path:
        device = EmulatedDevice.open(path, DATA_BYTES)
        device.memory[2 * PAGE_BYTES - 1] = 1
        device.submit(Operation.ZERO_SCAN, jobs(3))
        assert device.wait(LONG_NS)
        assert device.output_bytes[:3].tolist() == [0, 1, 0]


def test_full_queue_takes_what_fits_and_the_rest_when_that_is_done(tmp_path: Path) -> None:
    with served(tmp_path / "device", settings(slots=8)) as path:
        device = EmulatedDevice.open(path, DATA_BYTES)
        batch = jobs(20)
        taken = 0
        while taken < 20:
            accepted = device.submit(Operation.COMPRESS, batch[taken:], taken)
            assert 0 < accepted <= 8
            assert device.wait(LONG_NS)
            taken += accepted
        assert set(device.status[:20].tolist()) == {Status.OK}


def test_full_queue_is_busy_for_every_client(tmp_path: Path) -> None:
    with served(tmp_path / "device", settings(slots=8, cost=NEVER)) as path:
        first, second = (EmulatedDevice.open(path, DATA_BYTES) for _ in range(2))
        assert first.submit(Operation.COMPRESS, jobs(8)) == 8
        assert second.submit(Operation.COMPRESS, jobs(3)) == 0
        assert second.wait(0)
        assert not first.wait(1_000_000)
        assert DeviceObserver(path).sample("a/iaa/0").refused == 3


def test_client_that_closes_leaves_room_for_others(tmp_path: Path) -> None:
    with served(tmp_path / "device", settings(slots=8, cost=NEVER)) as path:
        first, second = (EmulatedDevice.open(path, DATA_BYTES) for _ in range(2))
        first.submit(Operation.COMPRESS, jobs(8))
        first.close()
        observer = DeviceObserver(path)
        await_true(lambda: occupancy(observer) == 0)
        assert second.submit(Operation.COMPRESS, jobs(8)) == 8


def test_clients_of_one_queue_get_their_own_results(tmp_path: Path) -> None:
    wrong: list[int] = []

    def use(seed: int) -> None:
        device, raw = EmulatedDevice.open(path, DATA_BYTES), texts(16, seed)
        for _ in range(10):
            device.memory[: len(raw)] = raw
            for operation, batch in ((Operation.COMPRESS, None), (Operation.DECOMPRESS, 16)):
                todo = jobs(16) if batch is None else decode_jobs(device, 16)
                taken = 0
                while taken < 16:
                    taken += device.submit(operation, todo[taken:], taken)
                    assert device.wait(LONG_NS)
            if not np.array_equal(device.memory[: len(raw)], raw):
                wrong.append(seed)

    with served(tmp_path / "device", settings(slots=24)) as path:
        threads = [threading.Thread(target=use, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert not any(thread.is_alive() for thread in threads)
        assert DeviceObserver(path).sample("p").completed == 4 * 10 * 2 * 16
    assert wrong == []


def test_first_come_is_first_served_between_clients(tmp_path: Path) -> None:
    slow = CostModel({Operation.COMPRESS: OperationCost(20_000_000, 1)})
    with served(tmp_path / "device", settings(engines=1, cost=slow)) as path:
        first, second = (EmulatedDevice.open(path, DATA_BYTES) for _ in range(2))
        first.submit(Operation.COMPRESS, jobs(4))
        second.submit(Operation.COMPRESS, jobs(1))
        assert second.wait(LONG_NS)
        # What was submitted before it was done before it, message or no message.
        assert set(first.status[:4].tolist()) == {Status.OK}


def test_page_faults_hit_the_descriptors_that_the_seed_says(tmp_path: Path) -> None:
    expected = fault_drawer(300_000, 5)(64)
    assert any(expected)
    assert not all(expected)
    with served(tmp_path / "device", draw_faults=fault_drawer(300_000, 5)) as path:
        device = EmulatedDevice.open(path, DATA_BYTES)
        device.submit(Operation.COMPRESS, jobs(64))
        assert device.wait(LONG_NS)
        assert [status == Status.PAGE_FAULT for status in device.status[:64].tolist()] == expected


def test_stalled_device_takes_descriptors_and_completes_them_when_it_goes_on(tmp_path: Path) -> None:
    with served(tmp_path / "device") as path:
        device, observer = EmulatedDevice.open(path, DATA_BYTES), DeviceObserver(path)
        observer.stall(300_000_000)
        assert device.submit(Operation.COMPRESS, jobs(4)) == 4
        assert not device.wait(1_000_000)
        assert device.status[:4].tolist() == [Status.PENDING] * 4
        assert device.wait(LONG_NS)
        assert device.status[:4].tolist() == [Status.OK] * 4


def test_records_of_a_new_submission_say_nothing_of_the_one_before(tmp_path: Path) -> None:
    with served(tmp_path / "device") as path:
        device = EmulatedDevice.open(path, DATA_BYTES)
        device.submit(Operation.COMPRESS, jobs(8))
        assert device.wait(LONG_NS)
        DeviceObserver(path).stall(20 * LONG_NS)
        device.submit(Operation.COMPRESS, jobs(4))
        assert device.status[:8].tolist() == [Status.PENDING] * 4 + [Status.OK] * 4


def test_disabled_device_lets_its_clients_go_and_takes_none_until_it_is_enabled(tmp_path: Path) -> None:
    with served(tmp_path / "device", settings(cost=NEVER)) as path:
        device, observer = EmulatedDevice.open(path, DATA_BYTES), DeviceObserver(path)
        device.submit(Operation.COMPRESS, jobs(4))
        observer.disable()
        with pytest.raises(DeviceDown):
            device.wait(LONG_NS)
        with pytest.raises(DeviceDown):
            device.submit(Operation.COMPRESS, jobs(4))
        with pytest.raises(DeviceDown, match="disabled"):
            EmulatedDevice.open(path, DATA_BYTES)
        assert occupancy(observer) == 0
        observer.enable()
        assert EmulatedDevice.open(path, DATA_BYTES).submit(Operation.COMPRESS, jobs(4)) == 4


def test_scheduled_disable_comes_and_goes_by_itself(tmp_path: Path) -> None:
    disturbance = Disturbance(DisturbanceKind.DISABLE, 50_000_000, 300_000_000)
    with served(tmp_path / "device", settings(cost=NEVER), disturbances=(disturbance,)) as path:
        observer = DeviceObserver(path)

        def use() -> None:
            device = EmulatedDevice.open(path, DATA_BYTES)
            device.submit(Operation.COMPRESS, jobs(1))
            device.wait(LONG_NS)

        # While it waits, or on a busy machine before it has come so far.
        with pytest.raises(DeviceDown):
            use()
        await_true(lambda: _opens(path))
        assert occupancy(observer) == 0


def _opens(path: Path) -> bool:
    try:
        EmulatedDevice.open(path, DATA_BYTES).close()
    except DeviceDown:
        return False
    return True


def test_counters_add_up_to_the_work_that_was_done(tmp_path: Path) -> None:
    with served(tmp_path / "device") as path:
        device = EmulatedDevice.open(path, DATA_BYTES)
        device.submit(Operation.COMPRESS, jobs(10))
        assert device.wait(LONG_NS)
        sample = DeviceObserver(path).sample("a/iaa/0")
        assert sample.pool == "a/iaa/0"
        assert sample.busy_ns == 10 * device.cost.cost_ns(Operation.COMPRESS, PAGE_BYTES)
        assert (sample.completed, sample.refused, sample.occupancy) == (10, 0, 0)
        assert sample.latency_p99_ns > 0


def test_no_device_is_device_down(tmp_path: Path) -> None:
    with pytest.raises(DeviceDown, match="does not answer"):
        EmulatedDevice.open(tmp_path / "none", DATA_BYTES)
    with pytest.raises(DeviceDown, match="does not answer"):
        DeviceObserver(tmp_path / "none")


def test_device_that_never_answers_is_down_within_the_bound(tmp_path: Path) -> None:
    path = tmp_path / "device"
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(path))
        listener.listen()
        with pytest.raises(DeviceDown, match="does not answer"):
            EmulatedDevice.open(path, DATA_BYTES)


def test_batches_that_are_none_are_refused_before_they_are_sent(tmp_path: Path) -> None:
    with served(tmp_path / "device", settings(cost=NEVER)) as path:
        device = EmulatedDevice.open(path, DATA_BYTES)
        for batch, first in ((jobs(0), 0), (jobs(2), MAX_DESCRIPTORS - 1), (jobs(1), -1), (np.zeros(4), 0)):
            with pytest.raises(ValueError, match="descriptors"):
                device.submit(Operation.COMPRESS, batch, first)
        with pytest.raises(ValueError, match="zero_scan"):
            device.submit(Operation.ZERO_SCAN, jobs(1))
        with pytest.raises(ValueError, match="memory"):
            EmulatedDevice.open(path, 0)


HOSTILE = [
    b"\0",
    os.urandom(200),
    bytes([Kind.SUBMIT]) + b"\xff" * 15,
    struct.pack("<BBHHxxI4I", Kind.SUBMIT, 0, 1, 0, 1, 0, 2**32 - 1, 0, 1),
    struct.pack("<BBHHxxI4I", Kind.SUBMIT, 0, 1, 0, 1, 2**32 - 1, 1, 0, 1),
    struct.pack("<BBHHxxI4I", Kind.SUBMIT, 0, 1, 1024, 1, 0, 1, 0, 1),
    struct.pack("<BBHHxxI4I", Kind.SUBMIT, 9, 1, 0, 1, 0, 1, 0, 1),
    struct.pack("<BBHHxxI", Kind.SUBMIT, 0, 0, 0, 1),
    bytes(17_000),
]


@pytest.mark.parametrize("message", HOSTILE, ids=range(len(HOSTILE)))
@pytest.mark.parametrize(
    "hello", [encode_hello(DATA_BYTES), encode_hello(0), None], ids=["client", "observer", "stranger"]
)
def test_hostile_message_costs_its_sender_the_connection_and_nobody_else_anything(
    tmp_path: Path, message: bytes, hello: bytes | None
) -> None:
    with served(tmp_path / "device") as path:
        device = EmulatedDevice.open(path, DATA_BYTES)
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as stranger:
            stranger.settimeout(10)
            stranger.connect(str(path))
            if hello is not None:
                stranger.send(hello)
                assert stranger.recv(100)
            stranger.send(message)
            try:
                assert stranger.recv(100) == b""
            except ConnectionResetError:
                pass
        assert device.submit(Operation.COMPRESS, jobs(4)) == 4
        assert device.wait(LONG_NS)


def test_memory_that_a_client_may_ask_for_has_a_limit(tmp_path: Path) -> None:
    with served(tmp_path / "device") as path, pytest.raises(DeviceDown):
        EmulatedDevice.open(path, MAX_DATA_BYTES + 1)


def test_client_that_reads_no_answers_is_let_go(tmp_path: Path) -> None:
    with served(tmp_path / "device") as path:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as deaf:
            deaf.settimeout(5)
            deaf.connect(str(path))
            deaf.send(encode_hello(0))
            sample = struct.pack("<BxxxxxxxQ", Kind.SAMPLE, 0)
            with pytest.raises(OSError, match=r"Broken pipe|reset"):
                deque((deaf.send(sample) for _ in range(100_000)), maxlen=0)
        device = EmulatedDevice.open(path, DATA_BYTES)
        assert device.submit(Operation.COMPRESS, jobs(4)) == 4


def test_shared_memory_cannot_be_shrunk_under_the_device(tmp_path: Path) -> None:
    with served(tmp_path / "device") as path, socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client:
        client.connect(str(path))
        client.send(encode_hello(DATA_BYTES))
        _message, (memory,), _flags, _address = socket.recv_fds(client, 100, 1)
        try:
            assert stat.S_ISREG(os.fstat(memory).st_mode)
            with pytest.raises(PermissionError):
                os.ftruncate(memory, 0)
        finally:
            os.close(memory)


def test_completion_takes_roughly_the_modelled_time(tmp_path: Path) -> None:
    # Roughly live: nothing is faster than the model, however fast the machine; how much slower is the machine's affair.
    cost = CostModel({Operation.COMPRESS: OperationCost(2_000_000, 1)})
    with served(tmp_path / "device", settings(engines=2, cost=cost)) as path:
        device = EmulatedDevice.open(path, DATA_BYTES)
        began_ns = time.monotonic_ns()
        device.submit(Operation.COMPRESS, jobs(10))
        assert device.wait(LONG_NS)
        assert time.monotonic_ns() - began_ns >= 5 * 2_000_000
