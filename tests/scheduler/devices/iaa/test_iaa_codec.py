"""Deflate by libqpl's jobs, as the pipeline has it: the bytes are right whatever the queue and the device do.

The stand-in asks a device that computes as the product's emulated one does.
"""

import gc
import threading
import zlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import pytest
from isal import igzip_lib
from typing_extensions import Buffer

from pipeline.codecs.codec import DecodeError
from pipeline.codecs.deflate import DeflateCodec
from pipeline.codecs.device_access import DeviceAccess
from pipeline.codecs.device_arithmetic import DeflateArithmetic
from pipeline.codecs.device_deflate import DEVICE_MEMORY_BYTES, DeviceDeflateCodec
from pipeline.memory.pages import PAGE_BYTES
from scheduler.devices.device import DESCRIPTOR, Operation, Status
from scheduler.devices.emulated.client import DeviceObserver
from scheduler.devices.iaa.emulated import open_iaa_on_emulated
from scheduler.devices.iaa.jobs import abandoned
from scheduler.devices.iaa.libqpl import Library
from tests.codecs.given_credit import Credit
from tests.codecs.page_bytes import TEXTURES, textured
from tests.scheduler.devices.iaa.conftest import disturb
from tests.scheduler.devices.iaa.raw_job import SOFTWARE, RawJob
from tests.scheduler.devices.served_device import LONG_NS, await_true, occupancy, served

PAGES = 40


def codec_on(library: Library, path: Path, credit: Credit) -> DeviceDeflateCodec:
    return DeviceDeflateCodec(DeviceAccess(partial(open_iaa_on_emulated, library, path, DEVICE_MEMORY_BYTES)), credit)


def mixed(pages: int, seed: int = 1) -> bytes:
    """Pages of all textures in turn."""
    return b"".join(textured(TEXTURES[(index + seed) % len(TEXTURES)], 1, seed + index) for index in range(pages))


def split(raw: bytes) -> list[bytes]:
    return [raw[place : place + PAGE_BYTES] for place in range(0, len(raw), PAGE_BYTES)]


def streams_of(streams: Sequence[Buffer | None], raw: bytes) -> list[tuple[bytes, bytes]]:
    """The streams that are not None, each with its page."""
    pages = split(raw)
    assert len(streams) == len(pages)
    return [(bytes(stream), page) for stream, page in zip(streams, pages, strict=True) if stream is not None]


@pytest.fixture
def encoded(stand_in_alone: Library, tmp_path: Path) -> list[tuple[bytes, bytes]]:
    """Streams of the device, with their pages."""
    raw, credit = mixed(PAGES), Credit()
    with served(tmp_path / "device", arithmetic=DeflateArithmetic()) as path:
        streams = codec_on(stand_in_alone, path, credit).encode(memoryview(raw))
        found = streams_of(streams, raw)
    assert (credit.accelerator_pages, credit.cpu_pages, len(found)) == (PAGES, 0, 32)
    return found


def test_streams_of_the_device_are_read_by_zlib(encoded: list[tuple[bytes, bytes]]) -> None:
    for stream, page in encoded:
        assert zlib.decompress(stream, -15) == page


def test_streams_of_the_device_are_read_by_igzip(encoded: list[tuple[bytes, bytes]]) -> None:
    for stream, page in encoded:
        assert bytes(DeflateCodec().decode(memoryview(stream), PAGE_BYTES)) == page


def test_streams_of_the_device_are_read_by_the_librarys_own_decoder(
    encoded: list[tuple[bytes, bytes]], library: Library
) -> None:
    job = RawJob(library, SOFTWARE)
    for stream, page in encoded:
        assert job.decompress(stream, PAGE_BYTES) == 0
        assert job.written == page


def test_streams_of_the_librarys_own_encoder_are_read_by_all(library: Library) -> None:
    job = RawJob(library, SOFTWARE)
    for page in split(mixed(PAGES)):
        assert job.compress(page, 4136) == 0
        assert zlib.decompress(job.written, -15) == page
        assert bytes(DeflateCodec().decode(memoryview(job.written), PAGE_BYTES)) == page
        again = RawJob(library, SOFTWARE)
        assert again.decompress(job.written, PAGE_BYTES) == 0
        assert again.written == page


@pytest.mark.parametrize("level", [0, 1, 3])
def test_igzip_with_a_4_kib_window_is_read_wherever_iaa_decodes(
    stand_in_alone: Library, library: Library, tmp_path: Path, level: int
) -> None:
    raw, credit, job = mixed(128), Credit(), RawJob(library, SOFTWARE)
    streams = [igzip_lib.compress(page, level, igzip_lib.COMP_DEFLATE, 0, 12) for page in split(raw)]
    for stream, page in zip(streams, split(raw), strict=True):
        assert job.decompress(stream, PAGE_BYTES) == 0
        assert job.written == page
    (whole,) = DeflateCodec(level).encode(memoryview(raw))
    assert whole is not None
    with served(tmp_path / "device", arithmetic=DeflateArithmetic()) as path:
        codec = codec_on(stand_in_alone, path, credit)
        assert b"".join(codec.decode_streams([memoryview(stream) for stream in streams], PAGE_BYTES)) == raw
        # One stream for all of it is one job.
        assert bytes(codec.decode(memoryview(whole), len(raw))) == raw
    assert (credit.accelerator_pages, credit.cpu_pages) == (2 * 128, 0)


def test_stream_with_a_32_kib_window_fails_on_the_device_and_is_refused_by_the_cpu_too(
    stand_in_alone: Library, tmp_path: Path
) -> None:
    random = np.random.default_rng(1).bytes(20_000)
    raw = (random + random + random)[: 14 * PAGE_BYTES]
    deflate = zlib.compressobj(6, zlib.DEFLATED, -15)
    stream = deflate.compress(raw) + deflate.flush()
    with served(tmp_path / "device", arithmetic=DeflateArithmetic()) as path:
        device = open_iaa_on_emulated(stand_in_alone, path, DEVICE_MEMORY_BYTES)
        device.memory[: len(stream)] = np.frombuffer(stream, dtype=np.uint8)
        descriptors = np.array([(0, len(stream), 1 << 20, len(raw))], dtype=DESCRIPTOR)
        assert device.submit(Operation.DECOMPRESS, descriptors) == 1
        assert device.wait(LONG_NS)
        assert device.status[0] == Status.FAILED
        device.close()
        credit = Credit()
        with pytest.raises(DecodeError):
            codec_on(stand_in_alone, path, credit).decode(memoryview(stream * 2), 16 * PAGE_BYTES)
    assert credit.accelerator_pages == 0


def round_trips(library: Library, path: Path, pages: int, credit: Credit) -> None:
    """Batches of random mixtures there and back, each page compared."""
    codec, rng = codec_on(library, path, credit), np.random.default_rng(7)
    stock = np.frombuffer(mixed(200) + bytes(56 * PAGE_BYTES), dtype=np.uint8).reshape(256, PAGE_BYTES)
    while pages > 0:
        count = int(rng.integers(16, 129))
        pages -= count
        raw = stock[rng.integers(0, len(stock), count)].tobytes()
        found = codec.encode(memoryview(raw))
        if len(found) == 1:
            # Nothing of it went to the device.
            (whole,) = found
            assert whole is None or bytes(DeflateCodec().decode(memoryview(whole), len(raw))) == raw
            continue
        streams = streams_of(found, raw)
        for stream, page in streams:
            assert zlib.decompress(stream, -15) == page
        decoded = codec.decode_streams([memoryview(stream) for stream, _page in streams], PAGE_BYTES)
        assert [bytes(page) for page in decoded] == [page for _stream, page in streams]


@pytest.mark.parametrize("pages", [3_000, pytest.param(100_000, marks=[pytest.mark.long, pytest.mark.timeout(600)])])
def test_mixed_pages_are_right_with_busy_answers_faults_and_errors_and_memory_stays_flat(
    stand_in_alone: Library, tmp_path: Path, pages: int
) -> None:
    credit = Credit()
    with served(tmp_path / "device", arithmetic=DeflateArithmetic()) as path:
        disturb(stand_in_alone, busy=50_000, fault=10_000, error=1_000, seed=11)
        round_trips(stand_in_alone, path, 1_000, Credit())
        gc.collect()
        process = psutil.Process()
        before_bytes, descriptors = process.memory_info().rss, process.num_fds()
        round_trips(stand_in_alone, path, pages, credit)
        gc.collect()
        assert process.memory_info().rss - before_bytes < 8 << 20
        # The first codec's connection ended when the second one's began.
        assert process.num_fds() <= descriptors
        await_true(lambda: occupancy(DeviceObserver(path)) == 0)
    # With a busy answer for one page in twenty, two of them end a batch's way to the device after some forty pages.
    assert credit.accelerator_pages > pages // 2
    assert min(credit.cpu_pages, credit.busy_retries) > pages // 100
    assert (credit.held, abandoned()) == (0, 0)


def test_threads_have_connections_of_their_own(stand_in_alone: Library, tmp_path: Path) -> None:
    failures: list[BaseException] = []

    def run(path: Path, credit: Credit) -> None:
        try:
            round_trips(stand_in_alone, path, 600, credit)
            stand_in_alone.handle.kuaka_stand_in_connect(None)
        except BaseException as failure:
            failures.append(failure)

    each_credit = [Credit(32), Credit(32)]
    with served(tmp_path / "device", arithmetic=DeflateArithmetic()) as path:
        threads = [threading.Thread(target=run, args=(path, credit)) for credit in each_credit]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive()
    assert failures == []
    assert all(credit.accelerator_pages > 300 for credit in each_credit)


def test_device_that_is_stalled_disabled_and_enabled_loses_no_byte(stand_in_alone: Library, tmp_path: Path) -> None:
    raw, credit, now_ns = textured("text", PAGES), Credit(), 0
    with served(tmp_path / "device", arithmetic=DeflateArithmetic()) as path:
        observer = DeviceObserver(path)
        open_device = partial(open_iaa_on_emulated, stand_in_alone, path, DEVICE_MEMORY_BYTES)
        access = DeviceAccess(open_device, wait_ns=20_000_000, clock=lambda: now_ns)
        codec = DeviceDeflateCodec(access, credit)

        def encode() -> int:
            found = codec.encode(memoryview(raw))
            if len(found) > 1:
                assert all(zlib.decompress(stream, -15) == page for stream, page in streams_of(found, raw))
            return len(found)

        assert encode() == PAGES
        observer.stall(20_000_000_000)
        # It took the pages and does not do them: the CPU does, page by page.
        assert encode() == PAGES
        assert (credit.accelerator_pages, credit.cpu_pages) == (PAGES, PAGES)
        assert encode() == 1
        observer.disable()
        now_ns += 10**10
        assert encode() == 1
        observer.enable()
        assert credit.accelerator_pages == PAGES
    with served(tmp_path / "device2", arithmetic=DeflateArithmetic()) as path:
        assert codec_on(stand_in_alone, path, credit).encode(memoryview(raw))[0] is not None
    assert (credit.accelerator_pages, credit.held, abandoned()) == (2 * PAGES, 0, 0)
