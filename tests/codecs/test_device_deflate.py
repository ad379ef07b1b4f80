"""Deflate through a device, and whatever the device does not do by the CPU: the bytes are right in every mixture.

The device here computes with zlib where a test does not say otherwise: an independent peer of the codec's igzip.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typing_extensions import Buffer

from pipeline.codecs.codec import DecodeError
from pipeline.codecs.credit import CREDIT_WAIT_NS
from pipeline.codecs.deflate import DeflateCodec
from pipeline.codecs.device_access import DeviceAccess
from pipeline.codecs.device_arithmetic import DeflateArithmetic, compress_page
from pipeline.codecs.device_deflate import DEVICE_MEMORY_BYTES, MIN_DEVICE_PAGES, DeviceDeflateCodec
from pipeline.memory.pages import PAGE_BYTES, PageBatch
from pipeline.wire.frames import HEAD_BYTES, decode_pages, encode_pages, parse_head
from scheduler.devices.cost import CostModel, OperationCost
from scheduler.devices.device import DeviceDown, Operation
from scheduler.devices.emulated.client import DeviceObserver, EmulatedDevice
from scheduler.devices.emulated.schedule import fault_drawer
from tests.codecs.given_credit import Credit
from tests.codecs.page_bytes import TEXTURES, textured
from tests.scheduler.devices.served_device import DATA_BYTES, FAST, await_true, jobs, occupancy, served
from tests.scheduler.devices.served_device import settings as queue_settings

PAGES = 40


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A device that does everything, all tests' together."""
    with served(tmp_path_factory.mktemp("device") / "device") as path:
        yield path


def access_to(path: Path, **settings: int) -> DeviceAccess:
    return DeviceAccess(lambda: EmulatedDevice.open(path, DEVICE_MEMORY_BYTES), **settings)


def codec_on(path: Path, credit: Credit, **settings: int) -> DeviceDeflateCodec:
    return DeviceDeflateCodec(access_to(path, **settings), credit)


def mixed(pages: int, seed: int = 1) -> bytes:
    """Pages of all textures in turn."""
    each = [textured(TEXTURES[(index + seed) % len(TEXTURES)], 1, seed + index) for index in range(pages)]
    return b"".join(each)


def decoded_by_cpu(streams: Sequence[Buffer | None], raw: bytes) -> bytes:
    step = len(raw) // len(streams)
    cpu = DeflateCodec()
    return b"".join(
        raw[place : place + step] if stream is None else bytes(cpu.decode(memoryview(stream), step))
        for place, stream in zip(range(0, len(raw), step), streams, strict=True)
    )


def round_trip(codec: DeviceDeflateCodec, raw: bytes) -> list[Buffer | None]:
    """The streams, once they were found to be right; their bytes are copied."""
    streams = [None if stream is None else bytes(stream) for stream in codec.encode(memoryview(raw))]
    assert decoded_by_cpu(streams, raw) == raw
    assert all(stream is None or len(stream) < len(raw) // len(streams) for stream in streams)
    return list(streams)


@pytest.mark.parametrize("pages", [MIN_DEVICE_PAGES, 128, 512])
def test_batch_is_one_stream_per_page_when_the_device_has_done_it(device: Path, pages: int) -> None:
    credit = Credit()
    assert len(round_trip(codec_on(device, credit), mixed(pages))) == pages
    assert (credit.accelerator_pages, credit.cpu_pages, credit.held) == (pages, 0, 0)
    assert credit.used_ns >= pages * FAST.cost_ns(Operation.COMPRESS, PAGE_BYTES)


@settings(max_examples=25)
@given(st.integers(MIN_DEVICE_PAGES, 64), st.integers(0, 2**32 - 1), st.integers(1, 4096))
def test_any_pages_by_the_device_decode_on_the_cpu(device: Path, pages: int, seed: int, period: int) -> None:
    rng = np.random.default_rng(seed)
    raw = np.resize(rng.integers(0, 1 + seed % 255, period, dtype=np.uint8), pages * PAGE_BYTES).tobytes()
    round_trip(codec_on(device, Credit()), raw)


@settings(max_examples=25)
@given(st.integers(MIN_DEVICE_PAGES, 64), st.integers(0, 2**32 - 1), st.integers(1, 4096))
def test_any_pages_by_the_cpu_decode_on_the_device(device: Path, pages: int, seed: int, period: int) -> None:
    rng = np.random.default_rng(seed)
    raw = np.resize(rng.integers(0, 1 + seed % 255, period, dtype=np.uint8), pages * PAGE_BYTES).tobytes()
    streams = [compress_page(memoryview(raw)[place : place + PAGE_BYTES]) for place in range(0, len(raw), PAGE_BYTES)]
    credit = Credit()
    decoded = codec_on(device, credit).decode_streams([memoryview(stream) for stream in streams], PAGE_BYTES)
    assert b"".join(decoded) == raw
    assert (credit.accelerator_pages, credit.cpu_pages) == (pages, 0)


def test_one_stream_of_a_batch_decodes_on_the_device_as_one_job(device: Path) -> None:
    raw, credit = textured("text", 128), Credit()
    (stream,) = DeflateCodec().encode(memoryview(raw))
    assert stream is not None
    assert bytes(codec_on(device, credit).decode(memoryview(stream), len(raw))) == raw
    assert credit.accelerator_pages == 128


def test_frames_of_the_device_are_read_by_any_deflate_peer(device: Path) -> None:
    raw = mixed(PAGES)
    numbers, kinds = np.arange(PAGES, dtype=np.uint32), np.zeros(PAGES, dtype=np.uint8)
    batch = PageBatch(b"ram", numbers, kinds, np.empty(0, dtype=np.uint64), raw)
    frame = b"".join(encode_pages(batch, codec_on(device, Credit()), 0, 0).parts)
    head = parse_head(frame[:HEAD_BYTES], 0)
    assert head.stream_count == PAGES
    body = memoryview(frame)[HEAD_BYTES:]
    for peer in (DeflateCodec(), codec_on(device, Credit())):
        decoded = decode_pages(head, body[: head.table_bytes], body[head.table_bytes :], peer)
        assert bytes(decoded.normal) == raw


@pytest.mark.parametrize("credit", [Credit(0), Credit(7), Credit(current=False)], ids=["none", "too little", "run out"])
def test_without_credit_nothing_is_submitted_and_the_cpu_makes_one_stream(tmp_path: Path, credit: Credit) -> None:
    with served(tmp_path / "device") as path:
        assert len(round_trip(codec_on(path, credit), textured("text", PAGES))) == 1
        assert DeviceObserver(path).sample("p").completed == 0
    assert (credit.accelerator_pages, credit.cpu_pages, credit.held, credit.used_ns) == (0, PAGES, 0, 0)


def test_split_that_says_cpu_asks_for_nothing_and_says_how_much_it_would_have_been(device: Path) -> None:
    credit = Credit(device=False)
    assert len(round_trip(codec_on(device, credit), textured("text", PAGES))) == 1
    assert credit.timeouts_ns == []
    assert credit.asked_ns == PAGES * FAST.cost_ns(Operation.COMPRESS, PAGE_BYTES)


def test_batch_too_small_to_pay_is_the_cpus_without_asking(device: Path) -> None:
    credit = Credit()
    assert len(round_trip(codec_on(device, credit), textured("text", MIN_DEVICE_PAGES - 1))) == 1
    assert (credit.timeouts_ns, credit.cpu_pages) == ([], MIN_DEVICE_PAGES - 1)


def test_window_smaller_than_the_batch_takes_it_piece_by_piece(device: Path) -> None:
    credit = Credit(8)
    assert len(round_trip(codec_on(device, credit), mixed(PAGES))) == PAGES
    assert (credit.accelerator_pages, len(credit.timeouts_ns)) == (PAGES, PAGES // 8)


def test_wait_for_credit_of_all_pieces_together_has_the_bound_of_one(device: Path) -> None:
    now_ns = 0

    def clock() -> int:
        nonlocal now_ns
        now_ns += CREDIT_WAIT_NS // 4
        return now_ns

    credit = Credit(8)
    codec = DeviceDeflateCodec(access_to(device), credit, clock=clock)
    round_trip(codec, mixed(PAGES))
    assert credit.timeouts_ns == [CREDIT_WAIT_NS * left // 4 for left in (3, 2, 1, 0, 0)]


#: A decompression keeps one of the two engines busy for longer than any test.
ENDLESS = CostModel({**FAST.operations, Operation.DECOMPRESS: OperationCost(4 * 10**9, 1)})


def occupy(path: Path, entries: int) -> EmulatedDevice:
    """Another client, with entries in the queue that stay."""
    other = EmulatedDevice.open(path, DATA_BYTES)
    assert other.submit(Operation.DECOMPRESS, jobs(entries)) == entries
    return other


def test_pages_that_a_full_queue_refuses_are_compressed_by_the_cpu_one_by_one(tmp_path: Path) -> None:
    with served(tmp_path / "device", queue_settings(slots=8, cost=ENDLESS)) as path, closing(occupy(path, 1)):
        credit = Credit()
        assert len(round_trip(codec_on(path, credit), mixed(PAGES))) == PAGES
    assert (credit.accelerator_pages, credit.cpu_pages, credit.held) == (2 * 7, PAGES - 2 * 7, 0)
    assert credit.busy_retries == 2


def test_results_of_the_batch_before_are_never_taken_for_those_of_this_one(device: Path) -> None:
    credit = Credit()
    codec = codec_on(device, credit)
    round_trip(codec, mixed(PAGES, 1))
    # Credit for one piece, and then none: the records of the rest are those of the batch before.
    credit.window, credit.pieces = 8, 1
    round_trip(codec, mixed(PAGES, 2))
    assert (credit.accelerator_pages, credit.cpu_pages) == (PAGES + 8, PAGES - 8)


def test_queue_that_is_full_of_others_costs_two_tries_and_then_the_cpu_makes_one_stream(tmp_path: Path) -> None:
    with served(tmp_path / "device", queue_settings(slots=8, cost=ENDLESS)) as path, closing(occupy(path, 8)):
        credit = Credit()
        assert len(round_trip(codec_on(path, credit), textured("text", PAGES))) == 1
    assert (credit.accelerator_pages, credit.busy_retries, credit.held) == (0, 2 * 8, 0)


def test_pages_that_fault_are_compressed_by_the_cpu(tmp_path: Path) -> None:
    faulted = sum(fault_drawer(300_000, 3)(PAGES))
    with served(tmp_path / "device", draw_faults=fault_drawer(300_000, 3)) as path:
        credit = Credit()
        streams = round_trip(codec_on(path, credit), textured("text", PAGES))
    assert None not in streams
    assert (credit.cpu_pages, credit.accelerator_pages) == (faulted, PAGES - faulted)


def test_streams_that_fault_are_decoded_by_the_cpu(tmp_path: Path) -> None:
    raw = textured("text", PAGES)
    streams = [compress_page(memoryview(raw)[place : place + PAGE_BYTES]) for place in range(0, len(raw), PAGE_BYTES)]
    with served(tmp_path / "device", draw_faults=fault_drawer(300_000, 3)) as path:
        credit = Credit()
        decoded = codec_on(path, credit).decode_streams([memoryview(stream) for stream in streams], PAGE_BYTES)
        assert b"".join(decoded) == raw
    assert credit.cpu_pages == sum(fault_drawer(300_000, 3)(PAGES))


def test_pages_that_do_not_compress_are_raw_and_cost_the_cpu_nothing(device: Path) -> None:
    credit = Credit()
    assert round_trip(codec_on(device, credit), textured("random", PAGES)) == [None] * PAGES
    assert credit.cpu_pages == 0


def test_stalled_device_is_given_up_after_its_bound_and_opened_again_later(tmp_path: Path) -> None:
    now_ns = 0
    with served(tmp_path / "device") as path:
        observer, credit, opened = DeviceObserver(path), Credit(), []

        def open_device() -> EmulatedDevice:
            opened.append(now_ns)
            return EmulatedDevice.open(path, DEVICE_MEMORY_BYTES)

        access = DeviceAccess(open_device, wait_ns=20_000_000, clock=lambda: now_ns)
        codec = DeviceDeflateCodec(access, credit)
        observer.stall(20_000_000_000)
        round_trip(codec, mixed(PAGES))
        assert (credit.cpu_pages, credit.accelerator_pages, credit.held) == (PAGES, 0, 0)
        await_true(lambda: occupancy(observer) == 0)
        round_trip(codec, mixed(PAGES))
        assert opened == [0]
        now_ns = 50_000_000
        round_trip(codec, mixed(PAGES))
        now_ns = 149_999_999
        round_trip(codec, mixed(PAGES))
        now_ns = 150_000_000
        round_trip(codec, mixed(PAGES))
        assert opened == [0, 50_000_000, 150_000_000]


def test_device_that_is_disabled_and_comes_back_loses_no_byte(tmp_path: Path) -> None:
    with served(tmp_path / "device") as path:
        observer, credit = DeviceObserver(path), Credit()
        now_ns = 0
        access = DeviceAccess(lambda: EmulatedDevice.open(path, DEVICE_MEMORY_BYTES), clock=lambda: now_ns)
        codec = DeviceDeflateCodec(access, credit)
        round_trip(codec, mixed(PAGES))
        observer.disable()
        for _ in range(3):
            now_ns += 10**9
            round_trip(codec, mixed(PAGES))
        assert (credit.accelerator_pages, credit.cpu_pages, credit.held) == (PAGES, 3 * PAGES, 0)
        observer.enable()
        now_ns += 10**9
        round_trip(codec, mixed(PAGES))
        assert credit.accelerator_pages == 2 * PAGES


def test_device_that_is_not_there_is_tried_ever_more_rarely_up_to_once_a_second() -> None:
    now_ns, tries = 0, []

    def open_device() -> EmulatedDevice:
        tries.append(now_ns)
        raise DeviceDown("not there")

    access = DeviceAccess(open_device, clock=lambda: now_ns)
    codec = DeviceDeflateCodec(access, Credit())
    while now_ns < 5_000_000_000:
        assert len(codec.encode(memoryview(textured("text", 16)))) == 1
        now_ns += 25_000_000
    gaps = [(later - earlier) // 1_000_000 for earlier, later in pairwise(tries)]
    assert gaps[:7] == [50, 100, 200, 400, 800, 1000, 1000]


def corrupted(streams: list[bytes], index: int, change: Callable[[bytes], bytes]) -> list[memoryview]:
    return [memoryview(change(stream) if each == index else stream) for each, stream in enumerate(streams)]


@pytest.mark.parametrize(
    "change",
    [
        lambda stream: stream[:-1],
        lambda stream: stream + b"\0",
        lambda stream: b"\xff" * len(stream),
        lambda _: b"\3\0",
    ],
    ids=["short", "long", "wrong", "nothing"],
)
def test_corrupted_stream_is_refused_as_the_cpu_refuses_it(device: Path, change: Callable[[bytes], bytes]) -> None:
    raw = textured("text", 20)
    streams = [compress_page(memoryview(raw)[place : place + PAGE_BYTES]) for place in range(0, len(raw), PAGE_BYTES)]
    codec = codec_on(device, Credit())
    with pytest.raises(DecodeError):
        codec.decode_streams(corrupted(streams, 7, change), PAGE_BYTES)
    decoded = codec.decode_streams([memoryview(stream) for stream in streams], PAGE_BYTES)
    assert b"".join(decoded) == raw


def test_single_pages_are_decoded_by_the_cpu_without_asking(device: Path) -> None:
    raw, credit = textured("text", 1), Credit()
    decoded = codec_on(device, credit).decode(memoryview(compress_page(memoryview(raw))), PAGE_BYTES)
    assert bytes(decoded) == raw
    assert (credit.timeouts_ns, credit.cpu_pages) == ([], 1)


@given(st.binary(max_size=200), st.integers(1, 8192))
def test_arithmetic_decompresses_what_fits_and_raises_for_nothing(stream: bytes, capacity_bytes: int) -> None:
    data = DeflateArithmetic().decompress(memoryview(stream), capacity_bytes)
    assert data is None or len(data) <= capacity_bytes


@given(st.integers(1, 70_000), st.integers(1, 300))
def test_arithmetic_compresses_what_it_decompresses_and_stops_at_the_capacity(size: int, period: int) -> None:
    arithmetic, data = DeflateArithmetic(), bytes(index % period % 256 for index in range(size))
    stream = memoryview(arithmetic.compress(memoryview(data)))
    assert arithmetic.decompress(stream, size) == data
    assert arithmetic.decompress(stream, size - 1) is None
    assert arithmetic.decompress(memoryview(bytes(stream) + b"\0"), size) is None


@pytest.mark.parametrize("size", [1, PAGE_BYTES, 65_536, 65_537, 200_000])
def test_arithmetic_finds_the_one_byte_that_is_not_zero(size: int) -> None:
    data = bytearray(size)
    assert DeflateArithmetic().is_zero(memoryview(data))
    for place in {0, size // 2, size - 1}:
        data[place] = 1
        assert not DeflateArithmetic().is_zero(memoryview(data))
        data[place] = 0


def test_devices_own_arithmetic_and_the_cpus_read_each_other(tmp_path: Path) -> None:
    with served(tmp_path / "device", arithmetic=DeflateArithmetic()) as path, closing(DeviceObserver(path)):
        assert len(round_trip(codec_on(path, Credit()), mixed(PAGES))) == PAGES
