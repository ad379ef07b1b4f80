"""Raw deflate by QATzip: streams of a page each behind four bytes of length, and the traps of that form."""

import ctypes
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from scheduler.devices.device import DESCRIPTOR, DeviceUnavailable, Operation, Status
from scheduler.devices.qat.codes import Code
from scheduler.devices.qat.device import QatDevice, open_qat_on_emulated
from scheduler.devices.qat.libqatzip import GZIP_EXTENDED, RAW_PAGES, DeflateExtParameters, Form, QatZip, Session
from tests.scheduler.devices.qat.conftest import OpenForm
from tests.scheduler.devices.served_device import LONG_NS, served

PAGE = 4096
OUT = 2 << 20


@pytest.fixture
def library(stand_in: QatZip) -> QatZip:
    """Of a process that has no session yet."""
    return QatZip(stand_in.path)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A device that does everything, all tests' together."""
    with served(tmp_path_factory.mktemp("device") / "device") as path:
        yield path


@pytest.fixture
def device(library: QatZip, path: Path) -> Iterator[QatDevice]:
    opened = open_qat_on_emulated(library, path, 4 << 20, form=RAW_PAGES)
    yield opened
    opened.close()


def run(device: QatDevice, operation: Operation, source: bytes, room: int) -> tuple[int, bytes]:
    device.memory[: len(source)] = np.frombuffer(source, dtype=np.uint8)
    device.memory[OUT:] = 0xEE
    assert device.submit(operation, np.array([(0, len(source), OUT, room)], dtype=DESCRIPTOR)) == 1
    assert device.wait(LONG_NS)
    assert set(device.memory[OUT + room :].tolist()) == {0xEE}
    return int(device.status[0]), device.memory[OUT : OUT + int(device.output_bytes[0])].tobytes()


def texts(pages: int, seed: int = 1) -> bytes:
    return np.random.default_rng(seed).integers(97, 105, pages * PAGE, dtype=np.uint8).tobytes()


def raw_stream(data: bytes, level: int = 1) -> bytes:
    deflate = zlib.compressobj(level, zlib.DEFLATED, -12, 9)
    return deflate.compress(data) + deflate.flush()


def with_lengths(*streams: bytes) -> bytes:
    return b"".join(struct.pack("<I", len(stream)) + stream for stream in streams)


@pytest.mark.parametrize("pages", [1, 32, 33, 128])
def test_packet_is_a_stream_of_one_block_for_each_page_behind_its_length(open_any: OpenForm, pages: int) -> None:
    device, raw = open_any(RAW_PAGES), texts(pages)
    status, made = run(device, Operation.COMPRESS, raw, pages * (PAGE + 1536))
    assert status == Status.OK
    place = 0
    for index in range(pages):
        (length,) = struct.unpack_from("<I", made, place)
        stream = made[place + 4 : place + 4 + length]
        assert stream[0] & 1
        assert zlib.decompress(stream, -12) == raw[index * PAGE : (index + 1) * PAGE]
        place += 4 + length
    assert place == len(made)
    assert run(device, Operation.DECOMPRESS, made, pages * PAGE) == (Status.OK, raw)
    device.close()


def test_page_of_random_bytes_is_a_little_longer_and_has_room(device: QatDevice) -> None:
    raw = os.urandom(4 * PAGE)
    status, made = run(device, Operation.COMPRESS, raw, 4 * (PAGE + 1536))
    assert (status, len(made)) == (Status.OK, 4 * (4 + 5 + PAGE))
    assert run(device, Operation.COMPRESS, raw, 4 * PAGE)[0] == Status.OVERFLOW


def test_stream_of_several_blocks_is_not_for_hardware(device: QatDevice) -> None:
    deflate, page = zlib.compressobj(1, zlib.DEFLATED, -12), texts(1)
    several = deflate.compress(page[:100]) + deflate.flush(zlib.Z_FULL_FLUSH) + deflate.compress(page[100:])
    several += deflate.flush()
    assert zlib.decompress(several, -12) == page
    assert run(device, Operation.DECOMPRESS, with_lengths(raw_stream(page), several), 2 * PAGE)[0] == Status.FAILED


@pytest.mark.parametrize("held", [PAGE + 1, 2 * PAGE, 64 << 10, 1 << 20])
def test_stream_that_holds_more_than_a_buffer_fails_and_writes_nothing_behind_its_room(
    device: QatDevice, held: int
) -> None:
    page, bomb = texts(1), raw_stream(bytes(held), 9)
    for streams in ((bomb, raw_stream(page)), (raw_stream(page), bomb)):
        assert run(device, Operation.DECOMPRESS, with_lengths(*streams), 2 * PAGE)[0] == Status.FAILED
    assert run(device, Operation.DECOMPRESS, with_lengths(raw_stream(page)), PAGE) == (Status.OK, page)


def test_stream_that_holds_less_than_a_page_shows_by_the_length_of_all(device: QatDevice) -> None:
    page = texts(1)
    status, out = run(device, Operation.DECOMPRESS, with_lengths(raw_stream(page[:-1]), raw_stream(page)), 2 * PAGE)
    # The second one lies where a full one before it would have put it: nobody may believe these bytes.
    assert (status, len(out)) == (Status.OK, 2 * PAGE - 1)
    assert device.memory[OUT + PAGE : OUT + 2 * PAGE].tobytes() == page


@pytest.mark.parametrize(
    "damage",
    [
        b"\1",
        struct.pack("<I", 0) + b"x",
        struct.pack("<I", 2**32 - 1) + b"x",
        struct.pack("<I", 9 * PAGE // 8 + 1025) + bytes(9 * PAGE // 8 + 1025),
        struct.pack("<I", 100) + b"short",
        struct.pack("<I", 5) + b"\xff" * 5,
    ],
    ids=["no length", "length 0", "length of all", "beyond the buffer", "cut", "no deflate"],
)
def test_damaged_lengths_or_streams_are_not_ok_and_the_next_job_is(device: QatDevice, damage: bytes) -> None:
    page = texts(1)
    good = with_lengths(raw_stream(page))
    status, _ = run(device, Operation.DECOMPRESS, good + damage, 2 * PAGE)
    assert status in (Status.FAILED, Status.PAGE_FAULT)
    assert run(device, Operation.DECOMPRESS, good, PAGE) == (Status.OK, page)


def test_session_asks_for_pages_behind_their_lengths_and_for_no_software(
    monkeypatch: pytest.MonkeyPatch, library: QatZip
) -> None:
    asked: list[tuple[int, ...]] = []

    class Recording:
        def __getattr__(self, name: str) -> object:
            return getattr(loaded, name)

        def qzSetupSessionDeflateExt(self, _session: Session, parameters: DeflateExtParameters) -> int:  # noqa: N802
            deflate, common = parameters.deflate, parameters.deflate.common
            asked.append((deflate.data_fmt, common.hw_buff_sz, common.sw_backup, common.input_sz_thrshold))
            return 0

    loaded = library.library
    monkeypatch.setattr(library, "_library", Recording())
    library.setup(Session(), RAW_PAGES)
    library.setup(Session())
    assert asked == [(0, PAGE, 0, 128), (2, 64 << 10, 0, 128)]


def test_format_3_is_not_used_because_software_reads_it_and_its_buffers_are_one_stream(
    library: QatZip, path: Path
) -> None:
    assert 3 not in (RAW_PAGES.data_fmt, GZIP_EXTENDED.data_fmt)
    parameters, session, raw = library._defaults(), Session(), texts(32)
    parameters.deflate.data_fmt, parameters.deflate.common.sw_backup = 3, 0
    assert library.library.kuaka_stand_in_connect(os.fsencode(path)) == 0
    assert library.init(session) == library.library.qzSetupSessionDeflateExt(session, parameters) == 0
    room = ctypes.create_string_buffer(len(raw))
    source = ctypes.cast(raw, ctypes.c_void_p).value or 0
    assert library.compress(session, source, len(raw), ctypes.addressof(room), len(room))[0] != Code.OK
    library.end(session)


@pytest.mark.parametrize(("first", "second"), [(GZIP_EXTENDED, RAW_PAGES), (RAW_PAGES, GZIP_EXTENDED)])
def test_buffers_of_the_first_session_are_those_of_the_process_so_no_other_size_is_opened(
    library: QatZip, path: Path, first: Form, second: Form
) -> None:
    open_qat_on_emulated(library, path, 1 << 20, form=first).close()
    with pytest.raises(DeviceUnavailable, match=r"stay so, \d+ are needed: codecs qat and qat-raw") as refused:
        open_qat_on_emulated(library, path, 1 << 20, form=second)
    assert "\n" not in str(refused.value)
    open_qat_on_emulated(library, path, 1 << 20, form=first).close()
