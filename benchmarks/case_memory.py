"""A worker's private memory: how far it rises above an idle worker's, whatever the guest's size and channel count.

Large images are sparse with data in them throughout: what counts is that every extent comes by.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.gateways import gateway_hosts
from benchmarks.guests import write_guest
from benchmarks.images import image_hosts
from benchmarks.pair import PairSettings, stopped_pair
from benchmarks.processes import rss_anon_bytes, watched_rss
from benchmarks.report import Figure, Report
from pipeline.codecs.codec import CodecId

MIB = 1 << 20
_BOUND_MIB = 96
_CHANNELS = (4, 16)
_IMAGE_BYTES = (256 * MIB, 1024 * MIB, 8192 * MIB)
_GUEST_BYTES = (256 * MIB, 2048 * MIB)
#: Files up to this size hold nothing but data.
_WHOLE_BYTES = 2048 * MIB
#: Of every so many bytes of a large image, this many are data.
_STRIDE_BYTES, _DATA_BYTES = 32 * MIB, 4 * MIB


def run(report: Report, folder: Path, runs: int) -> None:
    """Images and live guests; a peak is a peak, so `runs` does not matter here."""
    with image_hosts(folder) as hosts:
        pids = (*hosts.source_workers.pids, *hosts.destination_workers.pids)
        idle = {pid: rss_anon_bytes(pid) for pid in pids}
        figures = []
        for size in _IMAGE_BYTES:
            with _image(folder, size) as image:
                for channels in _CHANNELS:
                    for codec in (CodecId.NONE, CodecId.ZSTD):
                        with watched_rss(pids) as peaks:
                            hosts.run(image, folder / "target", codec, channels=channels)
                        (folder / "target").unlink()
                        name = f"image of {size >> 20} MiB, {codec.label}, {channels} channels"
                        figures.append(_figure(name, idle, peaks.peak_bytes))
    report.add("memory of an image worker above an idle one's", (), figures)
    figures = []
    with gateway_hosts(folder) as live:
        pids = (*live.source.pids, *live.destination.pids)
        idle = {pid: rss_anon_bytes(pid) for pid in pids}
        for size in _GUEST_BYTES:
            with _image(folder, size) as image:
                for channels in _CHANNELS:
                    settings = PairSettings(channels)
                    for codec in (CodecId.NONE, CodecId.ZSTD):
                        with stopped_pair(folder, image, settings) as pair, watched_rss(pids) as peaks:
                            live.run(pair, codec)
                        name = f"guest of {size >> 20} MiB, {codec.label}, {channels} channels"
                        figures.append(_figure(name, idle, peaks.peak_bytes))
    report.add("memory of a live guest's worker above an idle one's", (), figures)


@contextmanager
def _image(folder: Path, size_bytes: int) -> Iterator[Path]:
    """A file of that size with the demo guest's pages in it."""
    sample, image = folder / "sample.ram", folder / "image.ram"
    try:
        write_guest("demo", sample, 256 * MIB)
        _fill(image, size_bytes, sample.read_bytes())
        sample.unlink()
        yield image
    finally:
        sample.unlink(missing_ok=True)
        image.unlink(missing_ok=True)


def _fill(image: Path, size_bytes: int, data: bytes) -> None:
    with image.open("xb") as file:
        if size_bytes <= _WHOLE_BYTES:
            for _ in range(size_bytes // len(data)):
                file.write(data)
            return
        for offset in range(0, size_bytes, _STRIDE_BYTES):
            file.seek(offset)
            at = offset % len(data)
            file.write(data[at : at + _DATA_BYTES])
        file.truncate(size_bytes)


def _figure(name: str, idle: dict[int, int], peaks: dict[int, int]) -> Figure:
    rise = max(peaks[pid] - idle[pid] for pid in idle) / MIB
    return Figure("memory", name, rise, " MiB", at_most=_BOUND_MIB)
