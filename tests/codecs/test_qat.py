"""Gzip-extended deflate, by QAT and by the CPU: one format however a packet was made, and nothing else is decoded.

QAT here is the stand-in library over an emulated device: real members at a modelled speed.
"""

import gzip
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from isal import igzip
from typing_extensions import Buffer

from pipeline.codecs.codec import CodecId, DecodeError
from pipeline.codecs.deflate import DeflateCodec
from pipeline.codecs.device_access import DeviceAccess
from pipeline.codecs.device_arithmetic import DeflateArithmetic
from pipeline.codecs.device_qat import DEVICE_MEMORY_BYTES, MIN_DEVICE_PAGES, DeviceQatCodec
from pipeline.codecs.gzip_extended import HISTORY_BITS, MEMBER_BYTES, parse_members
from pipeline.codecs.qat import QatCodec
from pipeline.memory.pages import MAX_BATCH_PAGES, PAGE_BYTES
from scheduler.devices.cost import CostModel, OperationCost
from scheduler.devices.device import Device, DeviceDown, Operation
from scheduler.devices.emulated.client import DeviceObserver
from scheduler.devices.emulated.schedule import fault_drawer
from scheduler.devices.qat.device import open_qat_on_emulated
from scheduler.devices.qat.libqatzip import QatZip
from scheduler.devices.stand_ins.build import build
from tests.codecs.given_credit import Credit
from tests.codecs.page_bytes import TEXTURES, textured
from tests.needs import need
from tests.scheduler.devices.served_device import await_true, served
from tests.scheduler.devices.served_device import settings as queue_settings

ARITHMETIC = DeflateArithmetic(HISTORY_BITS)
COST = CostModel({operation: OperationCost(1000, 1) for operation in (Operation.COMPRESS, Operation.DECOMPRESS)})
PAGES = 128
Open = Callable[[Path], DeviceQatCodec]


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
def codec_on(stand_in: QatZip) -> Iterator[Callable[..., DeviceQatCodec]]:
    opened: list[DeviceAccess] = []

    def make(path: Path, credit: Credit, **settings: int) -> DeviceQatCodec:
        def connect() -> Device:
            return open_qat_on_emulated(stand_in, path, DEVICE_MEMORY_BYTES, cost=COST)

        opened.append(DeviceAccess(connect, **settings))
        return DeviceQatCodec(opened[-1], credit)

    yield make
    for access in opened:
        access.close()


@pytest.fixture(scope="module")
def shared_codec(stand_in: QatZip, device: Path) -> Iterator[tuple[DeviceQatCodec, Credit]]:
    """One for the tests that run many examples."""
    credit = Credit()
    access = DeviceAccess(lambda: open_qat_on_emulated(stand_in, device, DEVICE_MEMORY_BYTES, cost=COST))
    yield DeviceQatCodec(access, credit), credit
    access.close()


def mixed(pages: int, seed: int = 1) -> bytes:
    """Pages of all textures in turn."""
    return b"".join(textured(TEXTURES[(index + seed) % len(TEXTURES)], 1, seed + index) for index in range(pages))


def far_apart(pages: int) -> bytes:
    """Random pages that come again after 16 KiB: only a window of more than that can tell."""
    return textured("random", 4) * (pages // 4)


def encoded(codec: QatCodec | DeviceQatCodec, raw: bytes) -> bytes:
    """The packet's one stream, once every reader of gzip was found to read it."""
    (stream,) = codec.encode(memoryview(raw))
    assert stream is not None
    stream = bytes(stream)
    assert len(stream) < len(raw)
    assert gzip.decompress(stream) == raw
    assert igzip.decompress(stream) == raw
    assert bytes(QatCodec().decode(memoryview(stream), len(raw))) == raw
    return stream


# The format.


@pytest.mark.parametrize("pages", [1, 15, 16, 17, PAGES, MAX_BATCH_PAGES])
def test_members_hold_a_hardware_buffer_each_and_the_last_one_the_rest(pages: int) -> None:
    raw = textured("text", pages)
    members = parse_members(memoryview(encoded(QatCodec(), raw)), len(raw))
    assert [member.size_bytes for member in members[:-1]] == [MEMBER_BYTES] * (len(members) - 1)
    assert sum(member.size_bytes for member in members) == len(raw)


def test_window_is_32_kib_and_an_iaa_can_not_decode_it() -> None:
    raw = far_apart(16)
    stream = encoded(QatCodec(), raw)
    assert len(stream) < len(raw)
    body = memoryview(stream)[24:-8]
    assert DeflateArithmetic().decompress(body, len(raw)) is None
    assert ARITHMETIC.decompress(body, len(raw)) == raw
    # A page alone has no distance that an IAA could not follow.
    page = textured("text", 1)
    assert DeflateArithmetic().decompress(memoryview(encoded(QatCodec(), page))[24:-8], len(page)) == page
    assert (QatCodec.window_bytes, DeviceQatCodec.window_bytes, DeflateCodec.window_bytes) == (32768, 32768, 4096)


def test_link_of_an_iaa_never_takes_a_stream_of_qat_for_one_of_its_own() -> None:
    assert CodecId.QAT is not CodecId.DEFLATE
    raw = far_apart(16)
    with pytest.raises(DecodeError):
        DeflateCodec().decode(memoryview(encoded(QatCodec(), raw)), len(raw))


def damaged(stream: bytes, at: int, value: bytes) -> memoryview:
    return memoryview(stream[:at] + value + stream[at + len(value) :])


@pytest.mark.parametrize(
    ("at", "value", "why"),
    [
        (0, b"\x1e", "no member's header at byte 0"),
        (3, b"\x00", "no member's header"),
        (8, b"\x01", "no member's header"),
        (9, b"\x03", "no member's header"),
        (10, b"\x0b", "no member's header"),
        (12, b"ZQ", "no member's header"),
        (14, b"\x09", "no member's header"),
        (16, b"\xff\xff\xff\xff", "holds 4294967295 bytes, not 65536"),
        (16, b"\0\0\0\0", "holds 0 bytes"),
        (16, b"\xff\xff\0\0", "holds 65535 bytes"),
        (20, b"\xff\xff\xff\xff", "4294967295 bytes"),
        (20, b"\0\0\0\0", "its stream has 0 bytes"),
        (20, b"\x00\x30\x01\x00", "its stream has 77824 bytes"),
        (-8, b"\xaa\xbb\xcc\xdd", "footer"),
        (-4, b"\xaa\xbb\xcc\xdd", "footer"),
    ],
)
def test_header_or_footer_that_lies_is_refused(at: int, value: bytes, why: str) -> None:
    stream = encoded(QatCodec(), textured("text", 20))
    with pytest.raises(DecodeError, match=why):
        QatCodec().decode(damaged(stream, at % len(stream), value), 20 * PAGE_BYTES)


def test_stream_of_other_length_than_its_members_is_refused() -> None:
    raw = textured("text", 40)
    stream = encoded(QatCodec(), raw)
    for wrong in (b"", stream[:-1], stream[:20], stream + b"\0", stream + stream):
        with pytest.raises(DecodeError):
            QatCodec().decode(memoryview(wrong), len(raw))
    for pages in (1, 16, 39, 41, MAX_BATCH_PAGES):
        with pytest.raises(DecodeError):
            QatCodec().decode(memoryview(stream), pages * PAGE_BYTES)


def test_member_that_unpacks_to_more_than_it_says_is_not_unpacked_beyond_that() -> None:
    bomb = zlib.compressobj(9, zlib.DEFLATED, -15)
    body = bomb.compress(bytes(64 << 20)) + bomb.flush()
    sizes = np.array([PAGE_BYTES, len(body)], dtype="<u4").tobytes()
    footer = np.array([zlib.crc32(bytes(PAGE_BYTES)), PAGE_BYTES], dtype="<u4").tobytes()
    member = b"\x1f\x8b\x08\x04\0\0\0\0\0\xff\x0c\0QZ\x08\0" + sizes + body + footer
    with pytest.raises(DecodeError, match=r"holds more than the 4096|has \d+ bytes"):
        QatCodec().decode(memoryview(member), PAGE_BYTES)


@given(st.binary(max_size=300), st.integers(1, 40))
def test_random_bytes_raise_nothing_but_decode_errors(stream: bytes, pages: int) -> None:
    with pytest.raises(DecodeError):
        QatCodec().decode(memoryview(stream), pages * PAGE_BYTES)


STREAM = encoded(QatCodec(), mixed(20))


@settings(max_examples=200)
@given(st.lists(st.tuples(st.integers(0, len(STREAM) - 1), st.integers(0, 255)), min_size=1, max_size=4))
def test_damaged_stream_is_refused_or_decodes_to_what_it_was(damage: list[tuple[int, int]]) -> None:
    stream = bytearray(STREAM)
    for place, value in damage:
        stream[place] = value
    try:
        decoded = QatCodec().decode(memoryview(stream), 20 * PAGE_BYTES)
    except DecodeError:
        return
    assert bytes(decoded) == mixed(20)


# The device.


@pytest.mark.parametrize("pages", [MIN_DEVICE_PAGES, 17, PAGES, MAX_BATCH_PAGES])
def test_packet_is_one_stream_of_the_device_s(
    codec_on: Callable[..., DeviceQatCodec], device: Path, pages: int
) -> None:
    credit, raw = Credit(), textured("text", pages)
    codec = codec_on(device, credit)
    stream = encoded(codec, raw)
    assert (credit.accelerator_pages, credit.cpu_pages, credit.held) == (pages, 0, 0)
    assert bytes(codec.decode(memoryview(stream), len(raw))) == raw
    assert (credit.accelerator_pages, credit.cpu_pages, credit.held) == (2 * pages, 0, 0)
    whole, rest = divmod(len(raw), MEMBER_BYTES)
    sizes = [MEMBER_BYTES] * whole + [rest] * (rest > 0)
    assert credit.used_ns == 2 * sum(COST.cost_ns(Operation.COMPRESS, size) for size in sizes)


@settings(max_examples=15)
@given(st.integers(MIN_DEVICE_PAGES, 64), st.integers(0, 2**32 - 1), st.integers(1, 40000))
def test_any_pages_by_the_device_decode_on_the_cpu_and_back(
    shared_codec: tuple[DeviceQatCodec, Credit], pages: int, seed: int, period: int
) -> None:
    codec, _credit = shared_codec
    rng = np.random.default_rng(seed)
    raw = np.resize(rng.integers(0, 1 + seed % 255, period, dtype=np.uint8), pages * PAGE_BYTES).tobytes()
    for maker, reader in ((codec, QatCodec()), (QatCodec(), codec), (codec, codec)):
        (stream,) = maker.encode(memoryview(raw))
        if stream is not None:
            assert bytes(reader.decode(memoryview(bytes(stream)), len(raw))) == raw


def test_device_decodes_what_the_cpu_made_with_its_larger_window(
    codec_on: Callable[..., DeviceQatCodec], device: Path
) -> None:
    raw, credit = far_apart(PAGES), Credit()
    assert bytes(codec_on(device, credit).decode(memoryview(encoded(QatCodec(), raw)), len(raw))) == raw
    assert (credit.accelerator_pages, credit.cpu_pages) == (PAGES, 0)


def test_packet_that_does_not_shrink_is_raw_by_the_device_s_word(
    codec_on: Callable[..., DeviceQatCodec], device: Path
) -> None:
    credit = Credit()
    assert list(codec_on(device, credit).encode(memoryview(textured("random", PAGES)))) == [None]
    assert (credit.accelerator_pages, credit.cpu_pages) == (PAGES, 0)


def test_packet_that_shrinks_only_in_part_is_one_stream_all_the_same(
    codec_on: Callable[..., DeviceQatCodec], device: Path
) -> None:
    raw, credit = textured("random", 64) + textured("text", 64), Credit()
    codec = codec_on(device, credit)
    assert bytes(codec.decode(memoryview(encoded(codec, raw)), len(raw))) == raw
    assert (credit.accelerator_pages, credit.cpu_pages) == (2 * PAGES, 0)


def test_window_smaller_than_the_packet_takes_it_piece_by_piece(
    codec_on: Callable[..., DeviceQatCodec], device: Path
) -> None:
    credit, raw = Credit(3), mixed(PAGES)
    codec = codec_on(device, credit)
    stream = encoded(codec, raw)
    assert (credit.accelerator_pages, len(credit.timeouts_ns)) == (PAGES, 3)
    assert bytes(codec.decode(memoryview(stream), len(raw))) == raw
    assert (credit.accelerator_pages, len(credit.timeouts_ns)) == (2 * PAGES, 6)


def test_packet_that_runs_out_of_credit_is_finished_by_the_cpu_in_the_same_stream(
    codec_on: Callable[..., DeviceQatCodec], device: Path
) -> None:
    credit, raw = Credit(2), mixed(PAGES)
    credit.pieces = 2
    codec = codec_on(device, credit)
    stream = encoded(codec, raw)
    assert (credit.accelerator_pages, credit.cpu_pages) == (64, 64)
    credit.pieces = 1
    assert bytes(codec.decode(memoryview(stream), len(raw))) == raw
    assert (credit.accelerator_pages, credit.cpu_pages) == (96, 160)


@pytest.mark.parametrize("credit", [Credit(0), Credit(current=False)], ids=["none", "run out"])
def test_without_credit_nothing_is_submitted(
    codec_on: Callable[..., DeviceQatCodec], tmp_path: Path, credit: Credit
) -> None:
    with served(tmp_path / "device", arithmetic=ARITHMETIC) as path:
        stream = encoded(codec_on(path, credit), mixed(PAGES))
        assert bytes(codec_on(path, credit).decode(memoryview(stream), PAGES * PAGE_BYTES)) == mixed(PAGES)
        assert DeviceObserver(path).sample("p").completed == 0
    assert (credit.accelerator_pages, credit.cpu_pages, credit.held, credit.used_ns) == (0, 2 * PAGES, 0, 0)


def test_split_that_says_cpu_asks_for_nothing_and_says_how_much_it_would_have_been(
    codec_on: Callable[..., DeviceQatCodec], device: Path
) -> None:
    credit = Credit(device=False)
    encoded(codec_on(device, credit), textured("text", 17))
    sizes = (MEMBER_BYTES, PAGE_BYTES)
    assert credit.asked_ns == sum(COST.cost_ns(Operation.COMPRESS, size) for size in sizes)
    assert (credit.timeouts_ns, credit.cpu_pages) == ([], 17)


def test_packet_too_small_to_pay_is_the_cpus_without_asking(
    codec_on: Callable[..., DeviceQatCodec], device: Path
) -> None:
    credit = Credit()
    encoded(codec_on(device, credit), textured("text", MIN_DEVICE_PAGES - 1))
    assert (credit.timeouts_ns, credit.cpu_pages) == ([], MIN_DEVICE_PAGES - 1)


def test_no_device_is_the_cpus_work(codec_on: Callable[..., DeviceQatCodec], tmp_path: Path) -> None:
    credit = Credit()
    encoded(codec_on(tmp_path / "none", credit), mixed(PAGES))
    assert (credit.accelerator_pages, credit.cpu_pages) == (0, PAGES)


def test_stalled_device_costs_one_bounded_wait_and_no_page(
    codec_on: Callable[..., DeviceQatCodec], tmp_path: Path
) -> None:
    with served(tmp_path / "device", arithmetic=ARITHMETIC) as path:
        credit, raw = Credit(), mixed(PAGES)
        codec = codec_on(path, credit, wait_ns=20_000_000)
        stream = encoded(codec, raw)
        DeviceObserver(path).stall(60_000_000_000)
        encoded(codec, raw)
        assert bytes(codec.decode(memoryview(stream), len(raw))) == raw
        assert (credit.accelerator_pages, credit.cpu_pages, credit.held) == (PAGES, 2 * PAGES, 0)


def test_disabled_device_is_given_up_and_found_again(codec_on: Callable[..., DeviceQatCodec], tmp_path: Path) -> None:
    with served(tmp_path / "device", arithmetic=ARITHMETIC) as path:
        credit, observer = Credit(), DeviceObserver(path)
        codec = codec_on(path, credit)
        encoded(codec, mixed(PAGES))
        observer.disable()
        for _ in range(6):
            encoded(codec, mixed(PAGES))
        assert (credit.accelerator_pages, credit.cpu_pages) == (PAGES, 6 * PAGES)
        observer.enable()

        def used_again() -> bool:
            encoded(codec, mixed(PAGES))
            return credit.accelerator_pages > PAGES

        await_true(used_again)


@pytest.mark.parametrize("damage", ["body", "crc", "header"])
def test_damaged_stream_is_refused_though_the_device_is_asked_first(
    codec_on: Callable[..., DeviceQatCodec], device: Path, damage: str
) -> None:
    raw = mixed(PAGES)
    stream = bytearray(encoded(QatCodec(), raw))
    start = {"body": 40, "crc": len(stream) - 8, "header": 0}[damage]
    stream[start : start + 4] = bytes(255 - byte for byte in stream[start : start + 4])
    with pytest.raises(DecodeError):
        codec_on(device, Credit()).decode(memoryview(stream), len(raw))


def mixtures(codec: DeviceQatCodec, packets: int) -> Iterator[tuple[bytes, Buffer]]:
    """Packets that went through the codec both ways, as they were and as they came back."""
    for number in range(packets):
        raw = mixed(PAGES, number)
        (stream,) = codec.encode(memoryview(raw))
        if stream is not None:
            yield raw, bytes(codec.decode(memoryview(bytes(stream)), len(raw)))


def disturbed(stand_in: QatZip, path: Path, credit: Credit, packets: int) -> int:
    """Packets whose bytes came back right, with 5 % busy, 1 % no memory and 0.1 % errors at each call."""

    def connect() -> Device:
        return open_qat_on_emulated(stand_in, path, DEVICE_MEMORY_BYTES, cost=COST)

    stand_in.library.kuaka_stand_in_disturb(50_000, 10_000, 1_000, 7)
    access = DeviceAccess(connect)
    try:
        return sum(raw == back for raw, back in mixtures(DeviceQatCodec(access, credit), packets))
    finally:
        access.close()
        stand_in.library.kuaka_stand_in_disturb(0, 0, 0, 0)


def test_disturbed_packets_come_back_right(stand_in: QatZip, tmp_path: Path) -> None:
    credit = Credit()
    faults = fault_drawer(10_000, 3)
    with served(tmp_path / "device", draw_faults=faults, arithmetic=ARITHMETIC) as path:
        assert disturbed(stand_in, path, credit, 60) == 60
    assert credit.accelerator_pages + credit.cpu_pages == 2 * 60 * PAGES
    assert 0 < credit.cpu_pages < credit.accelerator_pages


@pytest.mark.long
def test_hundred_thousand_disturbed_pages_come_back_right_in_memory_that_stays_flat(
    stand_in: QatZip, tmp_path: Path
) -> None:
    credit = Credit()
    faults = fault_drawer(10_000, 3)
    with served(tmp_path / "device", queue_settings(slots=24), faults, arithmetic=ARITHMETIC) as path:
        assert disturbed(stand_in, path, credit, 100) == 100
        before = _resident_bytes()
        assert disturbed(stand_in, path, credit, 800) == 800
        assert _resident_bytes() < before + (16 << 20)
    assert credit.cpu_pages < credit.accelerator_pages


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE_BYTES


def test_device_that_is_not_of_qatzip_is_down(stand_in: QatZip, tmp_path: Path) -> None:
    with pytest.raises(DeviceDown, match="does not answer"):
        open_qat_on_emulated(stand_in, tmp_path / "none", DEVICE_MEMORY_BYTES)
