"""Images: a file to a file, against QEMU moving the same memory between two processes over loopback.

The destination file is preallocated and touched (the spec's `reuse`), as QEMU's RAM is; the figure for a fresh file
stands beside it without a bound.
"""

import shutil
from collections.abc import Callable
from pathlib import Path

from benchmarks.guests import guest_names, write_guest
from benchmarks.images import ImageHosts, image_hosts
from benchmarks.measure import GIB, Contender, Run, best, interleaved
from benchmarks.pair import PairSettings, direct, stopped_pair
from benchmarks.report import Figure, Report
from pipeline.codecs.codec import CodecId

#: kuaka's contenders: codec and level. Level 1 is what both sides' zstd is set to.
_CODECS = {"zstd": (CodecId.ZSTD, 1), "lz4": (CodecId.LZ4, None), "none": (CodecId.NONE, None)}
_PEER_PORT = 7777
_PEER_CHANNELS = (2, 4)


def run(report: Report, folder: Path, runs: int, size_bytes: int = GIB) -> None:
    """Measure every guest there is."""
    for guest in guest_names():
        image, spare = folder / f"{guest}.ram", folder / "spare"
        try:
            write_guest(guest, image, size_bytes)
            shutil.copyfile(image, spare)
            with image_hosts(folder) as hosts:
                contenders = _ours(hosts, image, spare) | peers(folder, image)
                summaries = interleaved(contenders, runs)
            _report(report, guest, summaries)
        finally:
            for path in (image, spare, folder / "target"):
                path.unlink(missing_ok=True)


def peers(folder: Path, image: Path) -> dict[str, Contender]:
    """QEMU's own multifd, by method and channel count."""
    contenders: dict[str, Contender] = {}
    for method in ("zstd", "none"):
        for channels in _PEER_CHANNELS:
            settings = PairSettings(channels, method)
            contenders[f"QEMU {method} x{channels}"] = _peer(folder, image, settings)
    return contenders


def _peer(folder: Path, image: Path, settings: PairSettings) -> Contender:
    def contender() -> Run:
        with stopped_pair(folder, image, settings) as pair:
            return direct(settings, _PEER_PORT)(pair)

    return contender


def _ours(hosts: ImageHosts, image: Path, spare: Path) -> dict[str, Contender]:
    target = spare.with_name("target")

    def warm(codec: CodecId, level: int | None) -> Run:
        result = hosts.run(image, target, codec, level, reuse=spare)
        target.rename(spare)
        return result

    def cold(codec: CodecId, level: int | None) -> Run:
        result = hosts.run(image, target, codec, level)
        target.unlink()
        return result

    contenders: dict[str, Contender] = {}
    for name, (codec, level) in _CODECS.items():
        contenders[f"kuaka {name}"] = _bind(warm, codec, level)
        contenders[f"kuaka {name}, fresh file"] = _bind(cold, codec, level)
    return contenders


def _bind(function: Callable[[CodecId, int | None], Run], codec: CodecId, level: int | None) -> Contender:
    return lambda: function(codec, level)


def _report(report: Report, guest: str, summaries: dict) -> None:
    case = f"image, {guest} guest"
    zstd = best(summaries, *(f"QEMU zstd x{channels}" for channels in _PEER_CHANNELS))
    none = best(summaries, *(f"QEMU none x{channels}" for channels in _PEER_CHANNELS))

    def wall(ours: str, peer_s: float) -> float:
        return summaries[f"kuaka {ours}"].wall_s / peer_s

    wire = summaries["kuaka zstd"].wire_bytes / zstd.wire_bytes
    lz4_bound = 0.7 if guest == "redis" else None
    figures = [
        Figure(case, "zstd level 1, wall against QEMU zstd", wall("zstd", zstd.wall_s), "x", at_most=1.0),
        Figure(case, "zstd level 1, wire bytes against QEMU zstd", wire, "x", at_most=1.0),
        Figure(case, "lz4, wall against QEMU zstd", wall("lz4", zstd.wall_s), "x", at_most=lz4_bound),
        Figure(case, "none, wall against QEMU none", wall("none", none.wall_s), "x", at_most=1.3),
        Figure(case, "zstd into a fresh file, wall against QEMU zstd", wall("zstd, fresh file", zstd.wall_s), "x"),
        Figure(case, "none into a fresh file, wall against QEMU none", wall("none, fresh file", none.wall_s), "x"),
    ]
    report.add(case, summaries.values(), figures)
