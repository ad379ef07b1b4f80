"""Pages as raw deflate streams, by QAT and by the CPU: QAT, IAA and the CPU can decode each one, whoever made it.

QAT here is the stand-in library over an emulated device, with QATzip's four bytes of length and hardware's limits.
"""

import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typing_extensions import Buffer

from pipeline.codecs.codec import Codec, CodecId, DecodeError
from pipeline.codecs.device_access import DeviceAccess
from pipeline.codecs.device_arithmetic import DeflateArithmetic
from pipeline.codecs.device_deflate import DEVICE_MEMORY_BYTES as DEFLATE_MEMORY_BYTES
from pipeline.codecs.device_deflate import DeviceDeflateCodec
from pipeline.codecs.device_qat_raw import DEVICE_MEMORY_BYTES, MIN_DEVICE_PAGES, DeviceQatRawCodec
from pipeline.codecs.gzip_extended import HISTORY_BITS
from pipeline.codecs.qat_raw import QatRawCodec, is_one_block
from pipeline.memory.pages import MAX_BATCH_PAGES, PAGE_BYTES, PageBatch
from pipeline.wire.frames import HEAD_BYTES, decode_pages, encode_pages, parse_head
from scheduler.devices.cost import CostModel, OperationCost
from scheduler.devices.device import Device, DeviceDown, Operation
from scheduler.devices.emulated.client import DeviceObserver, EmulatedDevice
from scheduler.devices.emulated.schedule import fault_drawer
from scheduler.devices.qat.device import open_qat_on_emulated
from scheduler.devices.qat.libqatzip import RAW_PAGES, QatZip
from scheduler.devices.stand_ins.build import build
from tests.codecs.given_credit import Credit
from tests.codecs.page_bytes import TEXTURES, textured
from tests.needs import need
from tests.scheduler.devices.served_device import await_true, served

ARITHMETIC = DeflateArithmetic(HISTORY_BITS)
COST = CostModel({operation: OperationCost(1000, 1) for operation in (Operation.COMPRESS, Operation.DECOMPRESS)})
PAGES = 128
CodecOn = Callable[..., DeviceQatRawCodec]


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory: pytest.TempPathFactory) -> QatZip:
    need("cc")
    return QatZip(str(build("libqatzip", tmp_path_factory.mktemp("qatzip"))))


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A device that does everything, all tests' together."""
    with served(tmp_path_factory.mktemp("device") / "device", arithmetic=ARITHMETIC) as path:
        yield path


@pytest.fixture
def codec_on(stand_in: QatZip) -> Iterator[CodecOn]:
    opened: list[DeviceAccess] = []

    def make(path: Path, credit: Credit, **settings: int) -> DeviceQatRawCodec:
        def connect() -> Device:
            return open_qat_on_emulated(stand_in, path, DEVICE_MEMORY_BYTES, cost=COST, form=RAW_PAGES)

        opened.append(DeviceAccess(connect, **settings))
        return DeviceQatRawCodec(opened[-1], credit)

    yield make
    for access in opened:
        access.close()


def mixed(pages: int, seed: int = 1) -> bytes:
    """Pages of all textures in turn."""
    return b"".join(textured(TEXTURES[(index + seed) % len(TEXTURES)], 1, seed + index) for index in range(pages))


def page_of(raw: bytes, index: int) -> bytes:
    return raw[index * PAGE_BYTES : (index + 1) * PAGE_BYTES]


def encoded(codec: Codec, raw: bytes) -> list[bytes | None]:
    """One stream per page, once every side was found to be able to decode every one of them."""
    streams = [None if stream is None else bytes(stream) for stream in codec.encode(memoryview(raw))]
    assert len(streams) == len(raw) // PAGE_BYTES
    for index, stream in enumerate(streams):
        if stream is not None:
            assert len(stream) < PAGE_BYTES
            # QAT takes one block; IAA a window of 4 KiB.
            assert is_one_block(stream)
            assert DeflateArithmetic().decompress(memoryview(stream), PAGE_BYTES) == page_of(raw, index)
            assert zlib.decompress(stream, -12) == page_of(raw, index)
    return streams


def through(codec: Codec, streams: Sequence[bytes | None], raw: bytes) -> None:
    """What the streams hold is what they were made of, whoever decodes."""
    there = [index for index, stream in enumerate(streams) if stream is not None]
    decoded = codec.decode_streams([memoryview(streams[index] or b"") for index in there], PAGE_BYTES)
    assert list(map(bytes, decoded)) == [page_of(raw, index) for index in there]


def several_blocks(page: bytes) -> bytes:
    """A page as a stream that hardware refuses."""
    deflate = zlib.compressobj(1, zlib.DEFLATED, -12)
    return (
        deflate.compress(page[:100]) + deflate.flush(zlib.Z_FULL_FLUSH) + deflate.compress(page[100:]) + deflate.flush()
    )


# Who decodes what.


@pytest.mark.parametrize("level", [0, 1, 2, 3])
def test_cpu_makes_what_every_side_decodes(level: int) -> None:
    raw = mixed(40)
    streams = encoded(QatRawCodec(level), raw)
    assert 0 < streams.count(None) < 40
    through(QatRawCodec(), streams, raw)


@pytest.mark.parametrize("pages", [MIN_DEVICE_PAGES, 17, PAGES, MAX_BATCH_PAGES])
def test_device_makes_what_every_side_decodes(codec_on: CodecOn, device: Path, pages: int) -> None:
    credit, raw = Credit(), mixed(pages)
    codec = codec_on(device, credit)
    streams = encoded(codec, raw)
    assert (credit.accelerator_pages, credit.cpu_pages, credit.held) == (pages, 0, 0)
    assert credit.used_ns == pages * COST.cost_ns(Operation.COMPRESS, PAGE_BYTES)
    through(QatRawCodec(), streams, raw)
    through(codec, encoded(QatRawCodec(), raw), raw)


def test_device_decodes_what_the_cpu_and_the_device_made(codec_on: CodecOn, device: Path) -> None:
    raw, credit = textured("text", PAGES), Credit()
    codec = codec_on(device, credit)
    for maker in (QatRawCodec(), codec):
        before = credit.accelerator_pages
        streams = encoded(maker, raw)
        through(codec, streams, raw)
        assert credit.accelerator_pages - before == PAGES * (2 if maker is codec else 1)
    assert credit.cpu_pages == 0


def test_iaa_decodes_what_qat_made_and_qat_what_iaa_made(codec_on: CodecOn, device: Path, tmp_path: Path) -> None:
    raw, credit = textured("text", PAGES), Credit()
    with served(tmp_path / "iaa", arithmetic=DeflateArithmetic()) as path:
        access = DeviceAccess(lambda: EmulatedDevice.open(path, DEFLATE_MEMORY_BYTES))
        iaa = DeviceDeflateCodec(access, credit, codec_id=CodecId.QAT_RAW)
        assert iaa.codec_id is CodecId.QAT_RAW
        through(iaa, encoded(codec_on(device, Credit()), raw), raw)
        assert (credit.accelerator_pages, credit.cpu_pages) == (PAGES, 0)
        qat = Credit()
        through(codec_on(device, qat), encoded(DeviceDeflateCodec(access, Credit()), raw), raw)
        assert (qat.accelerator_pages, qat.cpu_pages) == (PAGES, 0)
        access.close()


def test_frame_has_the_lengths_and_the_checksum_of_the_pages(codec_on: CodecOn, device: Path) -> None:
    raw, codec = mixed(PAGES), codec_on(device, Credit())
    batch = PageBatch(
        b"ram", np.arange(PAGES, dtype=np.uint32), np.zeros(PAGES, np.uint8), np.empty(0, np.uint64), memoryview(raw)
    )
    wire = b"".join(map(bytes, encode_pages(batch, codec, 0, 7).parts))
    head = parse_head(wire[:HEAD_BYTES], 0)
    assert (head.codec_id, head.stream_count) == (CodecId.QAT_RAW, PAGES)
    table, streams = wire[HEAD_BYTES:][: head.table_bytes], memoryview(wire)[HEAD_BYTES + head.table_bytes :]
    for decoder in (QatRawCodec(), codec):
        assert bytes(decode_pages(head, table, streams, decoder).normal) == raw


@settings(max_examples=15)
@given(st.integers(MIN_DEVICE_PAGES, 64), st.integers(0, 2**32 - 1), st.integers(1, 9000))
def test_any_pages_decode_on_either_side(shared_codec: DeviceQatRawCodec, pages: int, seed: int, period: int) -> None:
    rng = np.random.default_rng(seed)
    raw = np.resize(rng.integers(0, 1 + seed % 255, period, dtype=np.uint8), pages * PAGE_BYTES).tobytes()
    for maker, reader in ((shared_codec, QatRawCodec()), (QatRawCodec(), shared_codec), (shared_codec, shared_codec)):
        through(reader, encoded(maker, raw), raw)


@pytest.fixture(scope="module")
def shared_codec(stand_in: QatZip, device: Path) -> Iterator[DeviceQatRawCodec]:
    """One for the tests that run many examples."""

    def connect() -> Device:
        return open_qat_on_emulated(stand_in, device, DEVICE_MEMORY_BYTES, cost=COST, form=RAW_PAGES)

    access = DeviceAccess(connect)
    yield DeviceQatRawCodec(access, Credit())
    access.close()


# What hardware cannot decode is the CPU's.


@pytest.mark.parametrize("pages", [15, 16, PAGES])
def test_stream_of_several_pages_is_the_cpus(codec_on: CodecOn, device: Path, pages: int) -> None:
    # 16 pages are the 64 KiB that no output of hardware's may reach.
    credit, raw = Credit(), textured("text", pages)
    deflate = zlib.compressobj(1, zlib.DEFLATED, -12)
    stream = deflate.compress(raw) + deflate.flush()
    assert bytes(codec_on(device, credit).decode(memoryview(stream), len(raw))) == raw
    assert (credit.accelerator_pages, credit.cpu_pages, credit.timeouts_ns) == (0, pages, [])


@pytest.mark.parametrize("at", [0, 20, PAGES - 1])
def test_stream_of_several_blocks_never_reaches_the_device(codec_on: CodecOn, device: Path, at: int) -> None:
    credit, raw = Credit(), textured("text", PAGES)
    streams = encoded(QatRawCodec(), raw)
    streams[at] = several_blocks(page_of(raw, at))
    through(codec_on(device, credit), streams, raw)
    assert (credit.accelerator_pages, credit.cpu_pages) == ((at, PAGES - at) if at >= MIN_DEVICE_PAGES else (0, PAGES))


def test_page_of_which_the_device_makes_several_blocks_is_made_again_by_the_cpu(
    tmp_path: Path, stand_in: QatZip
) -> None:
    class Chopped(DeflateArithmetic):
        def compress(self, data: memoryview) -> bytes:
            return several_blocks(bytes(data)) if data[0] % 2 else super().compress(data)

    raw, credit = textured("text", PAGES), Credit()
    odd = sum(raw[place] % 2 for place in range(0, len(raw), PAGE_BYTES))
    with served(tmp_path / "device", arithmetic=Chopped(HISTORY_BITS)) as path:
        access = DeviceAccess(
            lambda: open_qat_on_emulated(stand_in, path, DEVICE_MEMORY_BYTES, cost=COST, form=RAW_PAGES)
        )
        through(QatRawCodec(), encoded(DeviceQatRawCodec(access, credit), raw), raw)
        access.close()
    assert 0 < odd < PAGES
    assert (credit.accelerator_pages, credit.cpu_pages) == (PAGES - odd, odd)


# Hostile streams.


@pytest.mark.parametrize("size", [1, PAGE_BYTES - 1, PAGE_BYTES + 1, 3 * PAGE_BYTES, 1 << 20])
def test_stream_that_holds_more_or_less_than_its_page_is_refused_and_writes_nothing_beyond(
    codec_on: CodecOn, device: Path, size: int
) -> None:
    raw = textured("text", PAGES)
    streams = encoded(QatRawCodec(), raw)
    hostile = zlib.compress(bytes(size), 9, -12)
    assert is_one_block(hostile)
    streams[PAGES // 2] = hostile
    with pytest.raises(DecodeError):
        through(codec_on(device, Credit()), streams, raw)


def test_two_lies_that_add_up_to_the_announced_size_are_found(codec_on: CodecOn, device: Path) -> None:
    raw, credit = textured("text", PAGES), Credit()
    streams = encoded(QatRawCodec(), raw)
    streams[3], streams[4] = (zlib.compress(bytes(size), 9, -12) for size in (PAGE_BYTES - 1, PAGE_BYTES + 1))
    with pytest.raises(DecodeError):
        through(codec_on(device, credit), streams, raw)


@settings(max_examples=20)
@given(st.lists(st.tuples(st.integers(0, 31), st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=4))
def test_damaged_streams_are_refused_or_of_the_announced_size(
    shared_codec: DeviceQatRawCodec, damage: list[tuple[int, float, int]]
) -> None:
    raw = textured("text", 32)
    streams = [bytearray(stream or b"") for stream in QatRawCodec().encode(memoryview(raw))]
    for page, place, value in damage:
        streams[page][int(place * len(streams[page]))] = value
    try:
        decoded = shared_codec.decode_streams(list(map(memoryview, streams)), PAGE_BYTES)
    except DecodeError:
        return
    assert [len(memoryview(page)) for page in decoded] == [PAGE_BYTES] * 32


# Credit, and a device that fails.


def test_window_smaller_than_the_packet_takes_it_piece_by_piece(codec_on: CodecOn, device: Path) -> None:
    credit, raw = Credit(48), mixed(PAGES)
    codec = codec_on(device, credit)
    streams = encoded(codec, raw)
    assert (credit.accelerator_pages, credit.cpu_pages, len(credit.timeouts_ns)) == (PAGES, 0, 3)
    through(codec, streams, raw)
    assert credit.held == 0


def test_packet_that_runs_out_of_credit_is_finished_by_the_cpu(codec_on: CodecOn, device: Path) -> None:
    credit, raw = Credit(32), textured("text", PAGES)
    codec = codec_on(device, credit)
    credit.pieces = 2
    streams = encoded(codec, raw)
    assert (credit.accelerator_pages, credit.cpu_pages) == (64, 64)
    credit.pieces = 1
    through(codec, streams, raw)
    assert (credit.accelerator_pages, credit.cpu_pages) == (96, 160)


@pytest.mark.parametrize(
    "credit", [Credit(0), Credit(current=False), Credit(7), Credit(device=False)], ids=["none", "over", "few", "split"]
)
def test_without_enough_credit_nothing_is_submitted(codec_on: CodecOn, tmp_path: Path, credit: Credit) -> None:
    with served(tmp_path / "device", arithmetic=ARITHMETIC) as path:
        raw = textured("text", PAGES)
        codec = codec_on(path, credit)
        through(codec, encoded(codec, raw), raw)
        assert DeviceObserver(path).sample("p").completed == 0
    assert (credit.accelerator_pages, credit.cpu_pages, credit.held, credit.used_ns) == (0, 2 * PAGES, 0, 0)
    assert (credit.asked_ns > 0) is not credit.device


def test_no_device_or_too_few_pages_are_the_cpus_work(codec_on: CodecOn, device: Path, tmp_path: Path) -> None:
    for path, pages in ((tmp_path / "none", PAGES), (device, MIN_DEVICE_PAGES - 1)):
        credit, raw = Credit(), mixed(pages)
        through(QatRawCodec(), encoded(codec_on(path, credit), raw), raw)
        assert (credit.accelerator_pages, credit.cpu_pages) == (0, pages)


def test_stalled_device_costs_one_bounded_wait_and_no_page(codec_on: CodecOn, tmp_path: Path) -> None:
    with served(tmp_path / "device", arithmetic=ARITHMETIC) as path:
        credit, raw = Credit(), textured("text", PAGES)
        codec = codec_on(path, credit, wait_ns=20_000_000)
        streams = encoded(codec, raw)
        DeviceObserver(path).stall(60_000_000_000)
        encoded(codec, raw)
        through(codec, streams, raw)
        assert (credit.accelerator_pages, credit.cpu_pages, credit.held) == (PAGES, 2 * PAGES, 0)


def test_disabled_device_is_given_up_and_found_again(codec_on: CodecOn, tmp_path: Path) -> None:
    with served(tmp_path / "device", arithmetic=ARITHMETIC) as path:
        credit, observer, raw = Credit(), DeviceObserver(path), textured("text", PAGES)
        codec = codec_on(path, credit)
        encoded(codec, raw)
        observer.disable()
        for _ in range(6):
            encoded(codec, raw)
        assert (credit.accelerator_pages, credit.cpu_pages) == (PAGES, 6 * PAGES)
        observer.enable()

        def used_again() -> bool:
            encoded(codec, raw)
            return credit.accelerator_pages > PAGES

        await_true(used_again)


def test_device_that_speaks_another_form_is_down_in_the_same_process(
    stand_in: QatZip, codec_on: CodecOn, device: Path
) -> None:
    raw = textured("text", PAGES)
    encoded(codec_on(device, Credit()), raw)
    with pytest.raises(DeviceDown, match="codecs qat and qat-raw are not for one worker"):
        open_qat_on_emulated(stand_in, device, DEVICE_MEMORY_BYTES)


def mixtures(codec: DeviceQatRawCodec, packets: int) -> Iterator[tuple[list[bytes], Sequence[Buffer]]]:
    """Pages that went through the codec both ways, as they were and as they came back."""
    for number in range(packets):
        raw = mixed(PAGES, number)
        streams = [None if stream is None else bytes(stream) for stream in codec.encode(memoryview(raw))]
        there = [index for index, stream in enumerate(streams) if stream is not None]
        back = codec.decode_streams([memoryview(streams[index] or b"") for index in there], PAGE_BYTES)
        yield [page_of(raw, index) for index in there], back


def disturbed(stand_in: QatZip, path: Path, credit: Credit, packets: int) -> int:
    """Packets whose bytes came back right, with 5 % busy, 1 % no memory and 0.1 % errors at each call."""

    def connect() -> Device:
        return open_qat_on_emulated(stand_in, path, DEVICE_MEMORY_BYTES, cost=COST, form=RAW_PAGES)

    stand_in.library.kuaka_stand_in_disturb(50_000, 10_000, 1_000, 7)
    access = DeviceAccess(connect)
    try:
        codec = DeviceQatRawCodec(access, credit)
        return sum(pages == list(map(bytes, back)) for pages, back in mixtures(codec, packets))
    finally:
        access.close()
        stand_in.library.kuaka_stand_in_disturb(0, 0, 0, 0)


def test_disturbed_pages_come_back_right(stand_in: QatZip, tmp_path: Path) -> None:
    credit = Credit()
    with served(tmp_path / "device", draw_faults=fault_drawer(1_000, 3), arithmetic=ARITHMETIC) as path:
        assert disturbed(stand_in, path, credit, 20) == 20
    assert 0 < credit.cpu_pages < credit.accelerator_pages


@pytest.mark.long
def test_hundred_thousand_disturbed_pages_come_back_right_in_memory_that_stays_flat(
    stand_in: QatZip, tmp_path: Path
) -> None:
    credit = Credit()
    with served(tmp_path / "device", draw_faults=fault_drawer(1_000, 3), arithmetic=ARITHMETIC) as path:
        assert disturbed(stand_in, path, credit, 100) == 100
        before = _resident_bytes()
        assert disturbed(stand_in, path, credit, 800) == 800
        assert _resident_bytes() < before + (16 << 20)
    assert 0 < credit.cpu_pages < credit.accelerator_pages


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE_BYTES
