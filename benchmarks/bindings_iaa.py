"""The IAA binding and the codec over it, beside igzip at level 0 for the same pages, one by one.

The device is the libqpl stand-in in its instant mode: a job ends with its submission, with the length that an earlier
job for the same place had; its bytes lie there already, as the device would have written them. So all that is measured
is the caller's own: the copy into the device's memory, fields, one submission and one look per page through ctypes, the
streams. The library's own work per job is not in it: libqpl fills a descriptor and does one ENQCMD, which nothing here
can measure. It is added as a range, by published rates, not as a figure that was seen.
"""

import ctypes
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from benchmarks.batch_cpu import batch_cpu_us
from benchmarks.bindings_batch import PAGES, EndlessCredit, packet
from benchmarks.report import Figure, Report
from pipeline.codecs.deflate import DeflateCodec
from pipeline.codecs.device_access import DeviceAccess
from pipeline.codecs.device_arithmetic import compress_page
from pipeline.codecs.device_deflate import DEVICE_MEMORY_BYTES, DeviceDeflateCodec
from pipeline.memory.pages import PAGE_BYTES
from scheduler.devices.device import DESCRIPTOR, DeviceUnavailable, Operation
from scheduler.devices.iaa.device import IaaDevice, open_iaa
from scheduler.devices.iaa.emulated import load_stand_in
from scheduler.devices.iaa.libqpl import Library

_BOUND = 0.5
#: Per page: one ENQCMD at the highest rate that a core was seen to have (7.3 million a second); all of submission and
#: look where a thread of QEMU does 4.2 GB/s by libqpl.
_LIBRARY_US = (0.14, 1.0)
_LEARN, _REPLAY = 1, 2


def run(report: Report, folder: Path, runs: int) -> None:
    """Medians; the stand-in is compiled into `folder`."""
    try:
        library = Library(load_stand_in(folder).name, ctypes.PyDLL)
    except DeviceUnavailable as error:
        report.skip("IAA by libqpl", str(error))
        return
    raw = packet()
    pages = [raw[place : place + PAGE_BYTES] for place in range(0, len(raw), PAGE_BYTES)]
    streams = [memoryview(compress_page(page)) for page in pages]
    cpu = DeflateCodec()
    library.handle.kuaka_stand_in_instant(_LEARN)
    encoder, decoder, device = (_open(library) for _ in range(3))
    encode = DeviceDeflateCodec(DeviceAccess(lambda: encoder), EndlessCredit())
    decode = DeviceDeflateCodec(DeviceAccess(lambda: decoder), EndlessCredit())
    jobs = _jobs()
    device.memory[: len(raw)] = np.frombuffer(raw, dtype=np.uint8)
    _once(device, jobs)
    encode.encode(raw)
    decode.decode_streams(streams, PAGE_BYTES)
    library.handle.kuaka_stand_in_instant(_REPLAY)
    try:
        _check(encode.encode(raw), decode.decode_streams(streams, PAGE_BYTES), raw)
        cpu_us = batch_cpu_us(
            {
                "device": lambda: _once(device, jobs),
                "encode": lambda: encode.encode(raw),
                "decode": lambda: decode.decode_streams(streams, PAGE_BYTES),
                "igzip encode": lambda: [compress_page(page) for page in pages],
                "igzip decode": lambda: [cpu.decode(stream, PAGE_BYTES) for stream in streams],
            },
            runs,
        )
    finally:
        library.handle.kuaka_stand_in_instant(0)
        for each in (encoder, decoder, device):
            each.close()
    report.add(f"IAA by libqpl, CPU of the caller per batch of {PAGES} pages", (), _figures(cpu_us))


def _open(library: Library) -> IaaDevice:
    return open_iaa(DEVICE_MEMORY_BYTES, library=library)


def _once(device: IaaDevice, jobs: "np.ndarray[tuple[int], np.dtype[np.void]]") -> bool:
    return device.submit(Operation.COMPRESS, jobs) == PAGES and device.wait(0)


def _jobs() -> "np.ndarray[tuple[int], np.dtype[np.void]]":
    jobs = np.zeros(PAGES, dtype=DESCRIPTOR)
    jobs["source"] = np.arange(PAGES) * PAGE_BYTES
    jobs["source_bytes"] = PAGE_BYTES
    jobs["destination"] = DEVICE_MEMORY_BYTES // 2 + jobs["source"]
    jobs["capacity_bytes"] = PAGE_BYTES - 1
    return jobs


def _check(streams: Sequence[object], decoded: Sequence[object], raw: memoryview) -> None:
    """What the instant device tells is what it would have done."""
    cpu = DeflateCodec()
    for index, stream in enumerate(streams):
        page = raw[index * PAGE_BYTES : (index + 1) * PAGE_BYTES]
        if stream is not None and bytes(cpu.decode(memoryview(stream), PAGE_BYTES)) != bytes(page):  # type: ignore[arg-type]
            raise AssertionError(f"page {index} is not what was compressed")
    if b"".join(map(bytes, decoded)) != bytes(raw):  # type: ignore[arg-type]
        raise AssertionError("what was decoded is not what was encoded")


def _figures(cpu_us: Mapping[str, float]) -> list[Figure]:
    least_us, most_us = (PAGES * each for each in _LIBRARY_US)
    return [
        *(Figure("iaa", what, cpu_us[name], " us") for name, what in _NAMES.items()),
        _against(
            "encode, codec and binding, against igzip page by page", cpu_us["encode"], cpu_us["igzip encode"], _BOUND
        ),
        _against("decode, the same", cpu_us["decode"], cpu_us["igzip decode"], _BOUND),
        _against("encode with libqpl's part, at least (inferred)", cpu_us["encode"] + least_us, cpu_us["igzip encode"]),
        _against("encode with libqpl's part, at most (inferred)", cpu_us["encode"] + most_us, cpu_us["igzip encode"]),
    ]


_NAMES = {
    "device": "submit and wait, all of the binding",
    "encode": "encode, codec and binding",
    "decode": "decode, codec and binding",
    "igzip encode": "igzip level 0, page by page",
    "igzip decode": "igzip decode, page by page",
}


def _against(what: str, ours_us: float, igzip_us: float, at_most: float | None = None) -> Figure:
    return Figure("iaa", what, ours_us / igzip_us, "x", at_most)
