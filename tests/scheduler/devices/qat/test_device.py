"""QatDevice on the stand-in library over an emulated device: the protocol's promises, and the traps of QATzip."""

import ctypes
import gc
import gzip
import os
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from isal import igzip

from scheduler.devices.cost import CostModel, OperationCost
from scheduler.devices.device import DESCRIPTOR, Descriptors, DeviceDown, DeviceUnavailable, Operation, Status
from scheduler.devices.emulated.client import DeviceObserver
from scheduler.devices.qat import device as device_module
from scheduler.devices.qat import session as session_module
from scheduler.devices.qat.codes import Code
from scheduler.devices.qat.device import QatDevice, open_qat, open_qat_on_emulated
from scheduler.devices.qat.libqatzip import (
    HW_BUFFER_BYTES,
    SOFTWARE_BIT,
    DeflateExtParameters,
    QatZip,
    Session,
)
from tests.scheduler.devices.qat.conftest import OpenForm
from tests.scheduler.devices.served_device import LONG_NS, await_true, served, settings

PACKET = 128 * 4096
OUT = 2 << 20
NEVER = CostModel({operation: OperationCost(10**12, 1) for operation in (Operation.COMPRESS, Operation.DECOMPRESS)})
Open = Callable[[Path], QatDevice]


@pytest.fixture
def device_path(tmp_path: Path) -> Iterator[Path]:
    with served(tmp_path / "device") as path:
        yield path


def job(source: int, source_bytes: int, destination: int, capacity_bytes: int) -> Descriptors:
    return np.array([(source, source_bytes, destination, capacity_bytes)], dtype=DESCRIPTOR)


def texts(size: int, seed: int = 1) -> bytes:
    return np.random.default_rng(seed).integers(97, 105, size, dtype=np.uint8).tobytes()


def compressed(device: QatDevice, raw: bytes, capacity_bytes: int | None = None) -> bytes:
    device.memory[: len(raw)] = np.frombuffer(raw, dtype=np.uint8)
    assert device.submit(Operation.COMPRESS, job(0, len(raw), OUT, capacity_bytes or len(raw))) == 1
    assert device.wait(LONG_NS)
    assert device.status[0] == Status.OK
    return device.memory[OUT : OUT + int(device.output_bytes[0])].tobytes()


def decoded(device: QatDevice, stream: bytes, capacity_bytes: int) -> tuple[int, bytes]:
    device.memory[: len(stream)] = np.frombuffer(stream, dtype=np.uint8)
    assert device.submit(Operation.DECOMPRESS, job(0, len(stream), OUT, capacity_bytes)) == 1
    assert device.wait(LONG_NS)
    return int(device.status[0]), device.memory[OUT : OUT + int(device.output_bytes[0])].tobytes()


@pytest.mark.parametrize("size", [4096, 65536, 65536 + 4096, PACKET, 2 << 20])
def test_packet_goes_both_ways_and_its_stream_is_anybodys_gzip(open_any: OpenForm, size: int) -> None:
    device, raw = open_any(), texts(size)
    stream = compressed(device, raw)
    assert len(stream) < len(raw)
    assert gzip.decompress(stream) == raw
    assert igzip.decompress(stream) == raw
    assert decoded(device, stream, size) == (Status.OK, raw)
    device.close()


def test_every_member_tells_its_sizes_and_none_holds_more_than_a_hardware_buffer(open_any: OpenForm) -> None:
    device, raw = open_any(), texts(PACKET + 4096)
    stream, place, sizes = compressed(device, raw), 0, []
    while place < len(stream):
        assert stream[place : place + 16] == b"\x1f\x8b\x08\x04\0\0\0\0\0\xff\x0c\0QZ\x08\0"
        holds, length = np.frombuffer(stream, dtype="<u4", count=2, offset=place + 16).tolist()
        piece = zlib.decompress(stream[place + 24 : place + 24 + length], -15)
        assert np.frombuffer(stream, dtype="<u4", count=2, offset=place + 24 + length).tolist() == [
            zlib.crc32(piece),
            holds,
        ]
        sizes.append(holds)
        place += 24 + length + 8
    assert sizes == [HW_BUFFER_BYTES] * 8 + [4096]
    device.close()


def test_packet_that_does_not_fit_overflows_and_nothing_is_written_behind_its_room(
    open_device: Open, device_path: Path
) -> None:
    device, raw = open_device(device_path), os.urandom(PACKET)
    device.memory[: len(raw)] = np.frombuffer(raw, dtype=np.uint8)
    device.memory[OUT:] = 0xEE
    device.submit(Operation.COMPRESS, job(0, len(raw), OUT, len(raw) - 1))
    assert device.wait(LONG_NS)
    assert device.status[0] == Status.OVERFLOW
    assert set(device.memory[OUT + len(raw) - 1 :].tolist()) == {0xEE}
    device.close()


@pytest.mark.parametrize("damage", ["crc", "size", "deflate", "cut", "header", "more", "none of it"])
def test_damaged_stream_fails_and_the_next_one_does_not(open_device: Open, device_path: Path, damage: str) -> None:
    device, raw = open_device(device_path), texts(PACKET)
    good = compressed(device, raw)
    bad = bytearray(good)
    capacity = PACKET
    if damage == "crc":
        bad[-8] ^= 1
    elif damage == "size":
        bad[-1] ^= 1
    elif damage == "deflate":
        bad[24:40] = b"\xff" * 16
    elif damage == "cut":
        del bad[-100:]
    elif damage == "header":
        bad[12] ^= 1
    elif damage == "more":
        capacity = PACKET - 4096
    else:
        bad = bytearray(texts(5000))
    status, _ = decoded(device, bytes(bad), capacity)
    assert status == Status.FAILED
    assert decoded(device, good, PACKET) == (Status.OK, raw)
    device.close()


def test_several_jobs_are_done_in_order(open_device: Open, device_path: Path) -> None:
    device, raw = open_device(device_path), texts(4 * 65536)
    device.memory[: len(raw)] = np.frombuffer(raw, dtype=np.uint8)
    places = [(index * 65536, 65536, OUT + index * 70000, 70000) for index in range(4)]
    assert device.submit(Operation.COMPRESS, np.array(places, dtype=DESCRIPTOR), 3) == 4
    assert device.wait(LONG_NS)
    assert device.status[3:7].tolist() == [Status.OK] * 4
    parts = [
        device.memory[place : place + int(size)]
        for (_, _, place, _), size in zip(places, device.output_bytes[3:7], strict=True)
    ]
    assert gzip.decompress(b"".join(part.tobytes() for part in parts)) == raw
    device.close()


def test_batches_that_are_none_are_refused(open_device: Open, device_path: Path) -> None:
    device = open_device(device_path)
    whole = len(device.memory)
    for batch, first in (
        (np.zeros(0, dtype=DESCRIPTOR), 0),
        (np.zeros(4), 0),
        (job(0, 1, 0, 1), 1024),
        (job(0, 1, 0, 1), -1),
        (job(whole, 1, 0, 1), 0),
        (job(0, 1, 2**32 - 1, 2**32 - 1), 0),
    ):
        with pytest.raises(ValueError, match=r"descriptors|beyond"):
            device.submit(Operation.COMPRESS, batch, first)
    with pytest.raises(ValueError, match="zero_scan"):
        device.submit(Operation.ZERO_SCAN, job(0, 4096, 0, 1))
    with pytest.raises(ValueError, match="memory"):
        open_qat(0)
    device.close()


# The traps.


def test_no_hardware_and_no_backup_is_unavailable_and_says_so(any_library: QatZip, has_hardware: bool) -> None:
    if has_hardware:
        pytest.skip("this host has QAT hardware")
    with pytest.raises(DeviceUnavailable, match="QAT"):
        open_qat(1 << 20, library=any_library)


def test_no_hardware_with_backup_is_ok_with_state_11_and_no_software_bit(
    any_library: QatZip, has_hardware: bool
) -> None:
    if has_hardware:
        pytest.skip("this host has QAT hardware")
    raw, session, parameters = texts(65536), Session(), any_library._defaults()
    assert any_library.library.qzInit(session, 1) == 0
    assert session.hw_session_stat == Code.NO_HW
    assert any_library.library.qzSetupSessionDeflateExt(session, parameters) in (Code.OK, Code.NO_HW)
    room = ctypes.create_string_buffer(1 << 17)
    read, written, extended = ctypes.c_uint(len(raw)), ctypes.c_uint(len(room)), ctypes.c_uint64(0)
    result = any_library.library.qzCompressExt(
        session, ctypes.cast(raw, ctypes.c_void_p), read, ctypes.cast(room, ctypes.c_void_p), written, 1, extended
    )
    assert (result, extended.value & SOFTWARE_BIT) == (Code.OK, 0)
    assert gzip.decompress(room.raw[: written.value]) == raw
    any_library.end(session)


def test_second_attempt_to_attach_without_hardware_is_a_duplicate_and_no_session_all_the_same(
    any_library: QatZip, has_hardware: bool
) -> None:
    if has_hardware:
        pytest.skip("this host has QAT hardware")
    first, second = Session(), Session()
    any_library.init(first)
    assert any_library.init(second) == Code.DUPLICATE
    assert second.hw_session_stat == 0
    assert any_library.setup(second) == Code.NOSW_NO_HW
    for _ in range(2):
        with pytest.raises(DeviceUnavailable, match="no QAT hardware"):
            open_qat(1 << 20, library=any_library)


def test_input_below_the_threshold_is_compressed_in_software_without_a_word_so_it_is_never_submitted(
    open_device: Open, device_path: Path, stand_in: QatZip
) -> None:
    assert stand_in.library.kuaka_stand_in_connect(os.fsencode(device_path)) == 0
    session, room, raw = Session(), ctypes.create_string_buffer(4096), texts(127)
    assert (stand_in.init(session), stand_in.setup(session)) == (0, 0)
    source = ctypes.cast(raw, ctypes.c_void_p).value or 0
    result, read, _, by_software = stand_in.compress(session, source, len(raw), ctypes.addressof(room), len(room))
    assert (result, read, by_software, session.hw_session_stat) == (0, 127, False, 0)
    assert DeviceObserver(device_path).sample("p").completed == 0
    stand_in.end(session)
    device = open_device(device_path)
    with pytest.raises(ValueError, match="less than 128 bytes"):
        device.submit(Operation.COMPRESS, job(0, 127, OUT, 4096))
    # The threshold is set as low as it goes: the smallest packet there is, one page, is hardware's.
    assert gzip.decompress(compressed(device, texts(128), 4096)) == texts(128)
    device.close()


def test_small_member_is_not_for_hardware(open_device: Open, device_path: Path) -> None:
    device = open_device(device_path)
    good = compressed(device, texts(128), 4096)
    small = good[:16] + (127).to_bytes(4, "little") + good[20:]
    assert decoded(device, small, 4096)[0] == Status.FAILED
    device.close()


def test_stream_of_nothing_is_a_success_of_qatzip_and_never_submitted(
    open_device: Open, device_path: Path, stand_in: QatZip
) -> None:
    read, written = ctypes.c_uint(0), ctypes.c_uint(100)
    room = ctypes.create_string_buffer(100)
    assert (
        stand_in.library.qzDecompressExt(Session(), ctypes.addressof(room), read, ctypes.addressof(room), written, None)
        == 0
    )
    assert written.value == 0
    device = open_device(device_path)
    for descriptor in (job(0, 0, OUT, 4096), job(0, 4096, OUT, 0)):
        with pytest.raises(ValueError, match="no bytes"):
            device.submit(Operation.DECOMPRESS, descriptor)
    device.close()


def test_member_larger_than_the_hardware_buffer_is_not_for_hardware(open_device: Open, device_path: Path) -> None:
    raw = texts(65536 + 4096)
    deflate = zlib.compressobj(1, zlib.DEFLATED, -12)
    stream = deflate.compress(raw) + deflate.flush()
    sizes = np.array([len(raw), len(stream)], dtype="<u4").tobytes()
    footer = np.array([zlib.crc32(raw), len(raw)], dtype="<u4").tobytes()
    member = b"\x1f\x8b\x08\x04\0\0\0\0\0\xff\x0c\0QZ\x08\0" + sizes + stream + footer
    assert gzip.decompress(member) == raw
    device = open_device(device_path)
    assert decoded(device, member, len(raw))[0] == Status.PAGE_FAULT
    device.close()


def test_plain_gzip_is_not_for_hardware(open_device: Open, device_path: Path) -> None:
    device = open_device(device_path)
    assert decoded(device, gzip.compress(texts(65536)), 65536)[0] == Status.FAILED
    device.close()


@pytest.mark.parametrize(
    ("raw_bytes", "blocks", "result"), [(4096, 1, 0), (65535, 1, 0), (65536, 1, Code.FAIL), (4096, 2, Code.FAIL)]
)
def test_raw_stream_is_hardware_s_only_as_one_block_below_the_buffer(
    stand_in: QatZip, device_path: Path, raw_bytes: int, blocks: int, result: int
) -> None:
    raw = texts(raw_bytes)
    deflate = zlib.compressobj(1, zlib.DEFLATED, -12, 9)
    parts = [deflate.compress(raw[: len(raw) // blocks])]
    if blocks == 2:
        parts += [deflate.flush(zlib.Z_SYNC_FLUSH), deflate.compress(raw[len(raw) // 2 :])]
    stream = b"".join([*parts, deflate.flush()])
    parameters, session = stand_in._defaults(), Session()
    parameters.deflate.data_fmt, parameters.deflate.common.sw_backup = 3, 0
    assert stand_in.library.kuaka_stand_in_connect(os.fsencode(device_path)) == 0
    try:
        assert stand_in.init(session) == 0
        assert stand_in.library.qzSetupSessionDeflateExt(session, parameters) == 0
        room = ctypes.create_string_buffer(1 << 17)
        got, _read, written, _software = stand_in.decompress(
            session, ctypes.cast(stream, ctypes.c_void_p).value or 0, len(stream), ctypes.addressof(room), len(room)
        )
        assert got == result
        assert room.raw[:written] == (raw if result == 0 else b"")
    finally:
        stand_in.end(session)


def test_defaults_ask_for_backup_and_the_binding_does_not(
    monkeypatch: pytest.MonkeyPatch, stand_in: QatZip, open_device: Open, device_path: Path
) -> None:
    asked: list[DeflateExtParameters] = []
    real = stand_in.library.qzSetupSessionDeflateExt

    class Recording:
        def __getattr__(self, name: str) -> object:
            return getattr(library, name)

        def qzSetupSessionDeflateExt(self, session: Session, parameters: DeflateExtParameters) -> int:  # noqa: N802
            asked.append(parameters)
            return int(real(session, parameters))

    library = stand_in.library
    monkeypatch.setattr(stand_in, "_library", Recording())
    open_device(device_path).close()
    assert stand_in._defaults().deflate.common.sw_backup == 1
    (parameters,) = asked
    common = parameters.deflate.common
    assert (common.sw_backup, common.input_sz_thrshold, common.hw_buff_sz) == (0, 128, HW_BUFFER_BYTES)
    assert common.is_sensitive_mode == 0
    assert (parameters.deflate.data_fmt, parameters.zlib_format) == (2, 0)


def test_call_that_finds_no_instance_is_the_callers_work_and_the_session_lives(
    open_device: Open, device_path: Path, stand_in: QatZip
) -> None:
    device = open_device(device_path)
    stand_in.library.kuaka_stand_in_disturb(1_000_000, 0, 0, ctypes.c_uint64(1))
    try:
        device.submit(Operation.COMPRESS, job(0, PACKET, OUT, PACKET))
        assert device.wait(LONG_NS)
        assert device.status[0] == Status.PAGE_FAULT
    finally:
        stand_in.library.kuaka_stand_in_disturb(0, 0, 0, ctypes.c_uint64(0))
    compressed(device, texts(PACKET))
    device.close()


def test_call_that_never_returns_is_waited_for_within_the_bound_and_left_alone(
    open_device: Open, tmp_path: Path
) -> None:
    with served(tmp_path / "device") as path:
        observer = DeviceObserver(path)
        device = open_device(path)
        observer.stall(60_000_000_000)
        device.submit(Operation.COMPRESS, job(0, PACKET, OUT, PACKET))
        began = time.monotonic()
        assert not device.wait(20_000_000)
        device.close()
        assert time.monotonic() - began < 5
        assert device.status[0] == Status.PENDING
        with pytest.raises(DeviceDown):
            device.wait(0)
        with pytest.raises(DeviceDown):
            device.submit(Operation.COMPRESS, job(0, PACKET, OUT, PACKET))
        assert device.memory[0] == 0
        assert _threads() == 1
    # The device has gone, so its call returns, and the thread ends.
    await_true(lambda: _threads() == 0)
    assert device.status[0] == Status.PENDING


def test_calls_that_never_return_are_not_let_pile_up(open_device: Open, tmp_path: Path) -> None:
    with served(tmp_path / "device") as path:
        DeviceObserver(path).stall(60_000_000_000)

        def pile_up() -> None:
            # On a busy machine a call may end after all, the device being too slow with its answer.
            for _ in range(10 * session_module.MAX_ABANDONED):
                device = open_device(path)
                device.submit(Operation.COMPRESS, job(0, PACKET, OUT, PACKET))
                assert not device.wait(1_000_000)
                device.close()

        with pytest.raises(DeviceDown, match="4 calls that do not return"):
            pile_up()
    await_true(lambda: _threads() == 0)
    with served(tmp_path / "another") as path:
        open_device(path).close()


def test_memory_of_an_abandoned_call_is_freed_only_after_it_has_returned(
    monkeypatch: pytest.MonkeyPatch, stand_in: QatZip, tmp_path: Path
) -> None:
    freed: list[int] = []
    real = stand_in.free
    monkeypatch.setattr(stand_in, "free", lambda address: (freed.append(address), real(address)))
    with served(tmp_path / "device") as path:
        observer, device = DeviceObserver(path), open_qat_on_emulated(stand_in, path, 4 << 20)
        observer.stall(60_000_000_000)
        device.submit(Operation.COMPRESS, job(0, PACKET, OUT, PACKET))
        assert not device.wait(1_000_000)
        device.close()
        del device
        gc.collect()
        assert freed == []
    await_true(lambda: gc.collect() >= 0 and len(freed) == 1)


def test_memory_outlives_the_device_as_long_as_somebody_has_a_view_of_it(
    monkeypatch: pytest.MonkeyPatch, stand_in: QatZip, device_path: Path
) -> None:
    freed: list[int] = []
    real = stand_in.free
    monkeypatch.setattr(stand_in, "free", lambda address: (freed.append(address), real(address)))
    device = open_qat_on_emulated(stand_in, device_path, 1 << 20)
    device.memory[:4] = (1, 2, 3, 4)
    view = device.memory.data[:4]
    device.close()
    del device
    gc.collect()
    assert (bytes(view), freed) == (b"\1\2\3\4", [])
    del view
    await_true(lambda: gc.collect() >= 0 and len(freed) == 1)


def test_device_that_dies_is_down_after_a_few_calls_and_no_wait_is_for_ever(open_device: Open, tmp_path: Path) -> None:
    with served(tmp_path / "device") as path:
        device = open_device(path)
        compressed(device, texts(PACKET))
    statuses: list[int] = []

    def go_on() -> None:
        while len(statuses) < 10:
            device.submit(Operation.COMPRESS, job(0, PACKET, OUT, PACKET))
            assert device.wait(LONG_NS)
            statuses.append(int(device.status[0]))

    with pytest.raises(DeviceDown, match="last result was -2"):
        go_on()
    assert set(statuses) <= {Status.FAILED}
    assert len(statuses) < 5
    device.close()


def test_device_that_nobody_has_any_more_leaves_no_thread(open_device: Open, device_path: Path) -> None:
    device = open_device(device_path)
    compressed(device, texts(65536))
    del device
    await_true(lambda: gc.collect() >= 0 and _threads() == 0)


def test_disabled_device_is_down_when_opened(open_device: Open, device_path: Path) -> None:
    DeviceObserver(device_path).disable()
    with pytest.raises(DeviceDown, match="does not answer"):
        open_device(device_path)
    await_true(lambda: _threads() == 0)


def test_library_that_does_not_come_up_is_down_within_the_bound(
    monkeypatch: pytest.MonkeyPatch, stand_in: QatZip
) -> None:
    release = threading.Event()
    monkeypatch.setattr(session_module, "OPEN_S", 0.05)
    with pytest.raises(DeviceDown, match="does not come up"):
        open_qat(4096, library=stand_in, prepare=lambda _library: (release.wait(20), None)[1])
    release.set()
    await_true(lambda: _threads() == 0)


def test_session_is_not_for_a_process_forked_since(
    monkeypatch: pytest.MonkeyPatch, open_device: Open, device_path: Path
) -> None:
    device, parent = open_device(device_path), os.getpid()
    monkeypatch.setattr(device_module.os, "getpid", lambda: parent + 1)
    with pytest.raises(DeviceDown, match="forked"):
        device.submit(Operation.COMPRESS, job(0, PACKET, OUT, PACKET))
    monkeypatch.undo()
    device.close()


def test_each_thread_has_a_session_of_its_own(open_device: Open, device_path: Path) -> None:
    right: list[int] = []
    wrong: list[int] = []

    def use(seed: int) -> None:
        device = open_device(device_path)
        for turn in range(5):
            raw = texts(PACKET, 10 * seed + turn)
            status, back = decoded(device, compressed(device, raw), PACKET)
            # A device that is too slow with an answer has failed the job, and mixed nothing up.
            if status == Status.OK:
                (right if back == raw else wrong).append(seed)
        device.close()

    threads = [threading.Thread(target=use, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    assert wrong == []
    assert right


def test_full_queue_only_makes_a_call_longer(open_device: Open, tmp_path: Path) -> None:
    with served(tmp_path / "device", settings(slots=3)) as path:
        device, raw = open_device(path), texts(PACKET)
        assert gzip.decompress(compressed(device, raw)) == raw
        assert DeviceObserver(path).sample("p").refused > 0
        device.close()


def test_devices_that_are_closed_leave_no_thread_and_no_connection(open_device: Open, device_path: Path) -> None:
    before = _sockets()
    for _ in range(10):
        device = open_device(device_path)
        compressed(device, texts(65536))
        device.close()
    assert _threads() == 0
    await_true(lambda: _sockets() <= before)


def _threads() -> int:
    return sum(thread.name == "kuaka-qat" for thread in threading.enumerate())


def _sockets() -> int:
    found = 0
    for each in Path("/proc/self/fd").iterdir():
        try:
            found += str(each.readlink()).startswith("socket:")
        except FileNotFoundError:
            continue
    return found
