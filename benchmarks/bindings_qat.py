"""The QAT binding and the codecs over it, gzip-extended and raw by the page, beside igzip for the same packet.

The library is the stand-in with its calls taken over: the first one for a packet is done by the CPU, and later ones are
told its length, the bytes lying where it put them. So what is measured is ours: the copy into the device's memory, the
job's way to the session's thread and back, the stream. The thread's CPU is its user's too, hence the whole process is
measured. The library's own part, a request and a look per member (64 KiB, or a page), is not in it.
"""

import ctypes
import struct
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from benchmarks.batch_cpu import batch_cpu_us
from benchmarks.bindings_batch import PAGES, EndlessCredit, packet
from benchmarks.report import Figure, Report
from pipeline.codecs.device_access import DeviceAccess
from pipeline.codecs.device_qat import DEVICE_MEMORY_BYTES, DeviceQatCodec
from pipeline.codecs.device_qat_raw import DEVICE_MEMORY_BYTES as RAW_MEMORY_BYTES
from pipeline.codecs.device_qat_raw import DeviceQatRawCodec
from pipeline.codecs.qat import QatCodec
from pipeline.codecs.qat_raw import QatRawCodec
from pipeline.memory.pages import PAGE_BYTES
from scheduler.devices.qat.device import open_qat
from scheduler.devices.qat.libqatzip import GZIP_EXTENDED, RAW_PAGES, Form, QatZip, Session
from scheduler.devices.stand_ins.build import StandInError, build


class _InstantQatZip(QatZip):
    """Does each job once, by the CPU, and then only says what had come of it."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self._written: dict[tuple[bool, int, int], int] = {}
        self._raw = False

    def init(self, session: Session) -> int:
        return 0

    def setup(self, session: Session, form: Form = GZIP_EXTENDED) -> int:
        self._raw = form is RAW_PAGES
        return 0

    def compress(
        self, session: Session, source: int, source_bytes: int, to: int, room_bytes: int
    ) -> tuple[int, int, int, bool]:
        return self._once(True, source, source_bytes, to, room_bytes)

    def decompress(
        self, session: Session, source: int, source_bytes: int, to: int, room_bytes: int
    ) -> tuple[int, int, int, bool]:
        return self._once(False, source, source_bytes, to, room_bytes)

    def _once(
        self, compress: bool, source: int, source_bytes: int, to: int, room_bytes: int
    ) -> tuple[int, int, int, bool]:
        written = self._written.get((compress, source, source_bytes))
        if written is None:
            data = memoryview(ctypes.string_at(source, source_bytes))
            done = (_raw_encoded if compress else _raw_decoded) if self._raw else (_encoded if compress else _decoded)
            result = done(data, room_bytes)
            written = len(result)
            ctypes.memmove(to, result, written)
            self._written[compress, source, source_bytes] = written
        return 0, source_bytes, written, False


def _encoded(data: memoryview, _room_bytes: int) -> bytes:
    (stream,) = QatCodec().encode(data)
    if stream is None:
        raise AssertionError("the packet does not shrink")
    return bytes(stream)


def _decoded(data: memoryview, room_bytes: int) -> bytes:
    return bytes(QatCodec().decode(data, room_bytes))


def _raw_encoded(data: memoryview, _room_bytes: int) -> bytes:
    streams = QatRawCodec().encode(data)
    pages = (data[place : place + PAGE_BYTES] for place in range(0, len(data), PAGE_BYTES))
    # What does not shrink is one stored block.
    stored = b"\1" + struct.pack("<HH", PAGE_BYTES, PAGE_BYTES ^ 0xFFFF)
    made = (
        stored + bytes(page) if stream is None else bytes(stream) for page, stream in zip(pages, streams, strict=True)
    )
    return b"".join(struct.pack("<I", len(stream)) + stream for stream in made)


def _raw_decoded(data: memoryview, _room_bytes: int) -> bytes:
    pages, place, cpu = [], 0, QatRawCodec()
    while place < len(data):
        stop = place + 4 + struct.unpack_from("<I", data, place)[0]
        pages.append(bytes(cpu.decode(data[place + 4 : stop], PAGE_BYTES)))
        place = stop
    return b"".join(pages)


def run(report: Report, folder: Path, runs: int) -> None:
    """Medians; the stand-in is compiled into `folder`."""
    try:
        path = str(build("libqatzip", folder))
    except StandInError as error:
        report.skip("QAT by QATzip", str(error))
        return
    title = f"CPU of the process per packet of {PAGES} pages"
    report.add(f"QAT by QATzip, {title}", (), _figures("qat", "the packet", _gzip(_InstantQatZip(path), runs)))
    report.add(
        f"QAT by QATzip, raw, {title}", (), _figures("qat-raw", "page by page", _raw(_InstantQatZip(path), runs))
    )


def _gzip(library: QatZip, runs: int) -> Mapping[str, float]:
    raw, cpu = packet(), QatCodec()
    stream = memoryview(_encoded(raw, 0))
    encoder, decoder = (open_qat(DEVICE_MEMORY_BYTES, library=library) for _ in range(2))
    encode = DeviceQatCodec(DeviceAccess(lambda: encoder), EndlessCredit())
    decode = DeviceQatCodec(DeviceAccess(lambda: decoder), EndlessCredit())
    try:
        for _ in range(2):
            (again,) = encode.encode(raw)
            if again is None or bytes(again) != bytes(stream) or bytes(decode.decode(stream, len(raw))) != bytes(raw):
                raise AssertionError("what the instant device tells is not what it has done")
        return _cpu_us(
            {
                "encode": lambda: encode.encode(raw),
                "decode": lambda: decode.decode(stream, len(raw)),
                "igzip encode": lambda: cpu.encode(raw),
                "igzip decode": lambda: cpu.decode(stream, len(raw)),
            },
            runs,
        )
    finally:
        encoder.close()
        decoder.close()


def _raw(library: QatZip, runs: int) -> Mapping[str, float]:
    raw, cpu = packet(), QatRawCodec()
    made = cpu.encode(raw)
    streams = [memoryview(stream) for stream in made if stream is not None]
    encoder, decoder = (open_qat(RAW_MEMORY_BYTES, library=library, form=RAW_PAGES) for _ in range(2))
    encode = DeviceQatRawCodec(DeviceAccess(lambda: encoder), EndlessCredit())
    decode = DeviceQatRawCodec(DeviceAccess(lambda: decoder), EndlessCredit())
    try:
        for _ in range(2):
            again = [None if stream is None else bytes(stream) for stream in encode.encode(raw)]
            pages = list(map(bytes, decode.decode_streams(streams, PAGE_BYTES)))
            if again != list(made) or pages != list(map(bytes, cpu.decode_streams(streams, PAGE_BYTES))):
                raise AssertionError("what the instant device tells is not what it has done")
        return _cpu_us(
            {
                "encode": lambda: encode.encode(raw),
                "decode": lambda: decode.decode_streams(streams, PAGE_BYTES),
                "igzip encode": lambda: cpu.encode(raw),
                "igzip decode": lambda: cpu.decode_streams(streams, PAGE_BYTES),
            },
            runs,
        )
    finally:
        encoder.close()
        decoder.close()


def _cpu_us(contenders: Mapping[str, Callable[[], object]], runs: int) -> Mapping[str, float]:
    return batch_cpu_us(contenders, runs, clock=time.process_time_ns)


def _figures(name: str, unit: str, cpu_us: Mapping[str, float]) -> list[Figure]:
    return [
        Figure(name, "encode, codec and binding", cpu_us["encode"], " us"),
        Figure(name, "decode, codec and binding", cpu_us["decode"], " us"),
        Figure(name, f"igzip encode, {unit}", cpu_us["igzip encode"], " us"),
        Figure(name, f"igzip decode, {unit}", cpu_us["igzip decode"], " us"),
        Figure(name, "encode against igzip", cpu_us["encode"] / cpu_us["igzip encode"], "x"),
        Figure(name, "decode against igzip", cpu_us["decode"] / cpu_us["igzip decode"], "x"),
    ]
