"""Frame overhead: bytes that are not pages, of every frame, against the guest memory moved. Counted, not timed."""

from pathlib import Path

from benchmarks.gateways import gateway_hosts
from benchmarks.guests import guest_names, write_guest
from benchmarks.images import image_hosts
from benchmarks.pair import PairSettings, stopped_pair
from benchmarks.report import Figure, Report
from pipeline.codecs.codec import CodecId

_SIZE_BYTES = 256 << 20
_CHANNELS = 4
_BOUND_PERCENT = 0.5


def run(report: Report, folder: Path, runs: int) -> None:
    """Images and live guests; one run each, the figure is exact."""
    figures = []
    for guest in guest_names():
        image = folder / f"{guest}.ram"
        try:
            write_guest(guest, image, _SIZE_BYTES)
            with image_hosts(folder) as hosts:
                moved = hosts.run(image, folder / "target", CodecId.NONE)
                (folder / "target").unlink()
            with gateway_hosts(folder) as live, stopped_pair(folder, image, PairSettings(_CHANNELS)) as pair:
                migrated = live.run(pair, CodecId.NONE)
        finally:
            image.unlink(missing_ok=True)
        for what, run in (("image", moved), ("live", migrated)):
            assert run.overhead_bytes is not None
            percent = 100 * run.overhead_bytes / run.raw_bytes
            figures.append(Figure("overhead", f"{what}, {guest} guest", percent, " %", at_most=_BOUND_PERCENT))
    report.add("frame overhead of raw bytes", (), figures)
