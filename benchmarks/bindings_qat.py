"""The QAT binding and the codec over it, beside igzip for the same packet.

The library is the stand-in with its calls taken over: the first one for a packet is done by the CPU, and later ones are
told its length, the bytes lying where it put them. So what is measured is ours: the copy into the device's memory, the
job's way to the session's thread and back, the stream. The thread's CPU is its user's too, hence the whole process is
measured. The library's own part, a request and a look per member of 64 KiB, is not in it.
"""

import ctypes
import time
from collections.abc import Mapping
from pathlib import Path

from benchmarks.batch_cpu import batch_cpu_us
from benchmarks.bindings_batch import PAGES, EndlessCredit, packet
from benchmarks.report import Figure, Report
from pipeline.codecs.device_access import DeviceAccess
from pipeline.codecs.device_qat import DEVICE_MEMORY_BYTES, DeviceQatCodec
from pipeline.codecs.qat import QatCodec
from scheduler.devices.qat.device import open_qat
from scheduler.devices.qat.libqatzip import QatZip, Session
from scheduler.devices.stand_ins.build import StandInError, build


class _InstantQatZip(QatZip):
    """Does each job once, by the CPU, and then only says what had come of it."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self._cpu = QatCodec()
        self._written: dict[tuple[bool, int], int] = {}

    def init(self, session: Session) -> int:
        return 0

    def setup(self, session: Session) -> int:
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
        written = self._written.get((compress, source_bytes))
        if written is None:
            data = memoryview(ctypes.string_at(source, source_bytes))
            result = self._cpu.encode(data)[0] if compress else self._cpu.decode(data, room_bytes)
            if result is None:
                raise AssertionError("the packet does not shrink")
            written = memoryview(result).nbytes
            ctypes.memmove(to, bytes(result), written)
            self._written[compress, source_bytes] = written
        return 0, source_bytes, written, False


def run(report: Report, folder: Path, runs: int) -> None:
    """Medians; the stand-in is compiled into `folder`."""
    try:
        library = _InstantQatZip(str(build("libqatzip", folder)))
    except StandInError as error:
        report.skip("QAT by QATzip", str(error))
        return
    raw, cpu = packet(), QatCodec()
    (made,) = cpu.encode(raw)
    if made is None:
        raise AssertionError("the packet does not shrink")
    stream = memoryview(made)
    encoder, decoder = (open_qat(DEVICE_MEMORY_BYTES, library=library) for _ in range(2))
    encode = DeviceQatCodec(DeviceAccess(lambda: encoder), EndlessCredit())
    decode = DeviceQatCodec(DeviceAccess(lambda: decoder), EndlessCredit())
    try:
        for _ in range(2):
            (again,) = encode.encode(raw)
            if again is None or bytes(again) != bytes(stream) or bytes(decode.decode(stream, len(raw))) != bytes(raw):
                raise AssertionError("what the instant device tells is not what it has done")
        cpu_us = batch_cpu_us(
            {
                "encode": lambda: encode.encode(raw),
                "decode": lambda: decode.decode(stream, len(raw)),
                "igzip encode": lambda: cpu.encode(raw),
                "igzip decode": lambda: cpu.decode(stream, len(raw)),
            },
            runs,
            clock=time.process_time_ns,
        )
    finally:
        encoder.close()
        decoder.close()
    report.add(f"QAT by QATzip, CPU of the process per packet of {PAGES} pages", (), _figures(cpu_us))


def _figures(cpu_us: Mapping[str, float]) -> list[Figure]:
    return [
        Figure("qat", "encode, codec and binding", cpu_us["encode"], " us"),
        Figure("qat", "decode, codec and binding", cpu_us["decode"], " us"),
        Figure("qat", "igzip level 1, 32 KiB window, the packet", cpu_us["igzip encode"], " us"),
        Figure("qat", "igzip decode, the packet", cpu_us["igzip decode"], " us"),
        Figure("qat", "encode against igzip", cpu_us["encode"] / cpu_us["igzip encode"], "x"),
        Figure("qat", "decode against igzip", cpu_us["decode"] / cpu_us["igzip decode"], "x"),
    ]
