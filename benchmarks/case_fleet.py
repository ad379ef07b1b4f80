"""Whole fleets through the controller: what their parts cost beside the data path, and whether the plan's time holds.

200 images of 16 MiB on three hosts under limits, against one image of all their bytes. Both go through the same
controller and are timed by its event log, agents and workers there already.
"""

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.controllers import BenchmarkController, FinishedFleet, controller, fleet
from benchmarks.guests import guest_names, write_guest
from benchmarks.report import Figure, Report
from pipeline.api import Fleet
from pipeline.fleet.command import DEFAULT_WORKERS

_MIB = 1 << 20
_IMAGES, _IMAGE_BYTES = 200, 16 * _MIB
_SAMPLE_BYTES = 512 * _MIB
#: Between two images of a sample, in bytes: whole pages, and no two images are alike.
_STRIDE_BYTES = 37 * 4096
_CODEC = {"codec": "zstd", "level": 1}
_LIMITS = {
    "parallelMigrationsPerCluster": 10,
    "parallelOutboundMigrationsPerNode": 4,
    "parallelInboundMigrationsPerNode": 3,
}
_WALL_BOUND = 1.5
_ESTIMATE_BOUND_PERCENT = 25.0


def run(report: Report, folder: Path, runs: int) -> None:
    """Images of a real guest's memory where there is a sample of it, else of the demo guest's."""
    guest = "redis" if "redis" in guest_names() else "demo"
    with controller(folder, DEFAULT_WORKERS) as running:
        images = _images(guest, folder)
        whole = folder / "whole.ram"
        with whole.open("wb") as file:
            for image in images:
                file.write(image.read_bytes())
        one = fleet("one", _machines([whole]), "ab", **_CODEC)
        many = fleet("many", _machines(images), "abc", **_CODEC, **_LIMITS)
        planned, alone, together = [], [], []
        for _ in range(runs):
            # Each time: a controller that has nothing to do for a while ends its agents.
            warm(running, folder)
            alone.append(_run_fleet(running, one, folder))
            planned.append(Fleet(many).plan().whole_s)
            together.append(_run_fleet(running, many, folder))
    _report(report, guest, planned, alone, together)


def warm(running: BenchmarkController, folder: Path) -> None:
    """Have agents and workers of three hosts started, which a plan takes for granted."""
    images = _write(folder / "warm", b"\1" * 4096, 3, 4096)
    _run_fleet(running, fleet("warm", _machines(images), "abc"), folder)
    for image in images:
        image.unlink()


def _report(
    report: Report,
    guest: str,
    planned: Sequence[float],
    alone: Sequence[FinishedFleet],
    together: Sequence[FinishedFleet],
) -> None:
    case = f"fleet of {_IMAGES} images, {guest} guest"
    one_s = statistics.median(finished.results[0].total_ms / 1e3 for finished in alone)
    wall_s = statistics.median(finished.wall_s for finished in together)
    figures = [
        Figure(case, "one image of all bytes", one_s, " s"),
        Figure(case, "the fleet, submission to end", wall_s, " s"),
        Figure(case, "the fleet against the one image", wall_s / one_s, "x", at_most=_WALL_BOUND),
        *estimate_figures(case, planned, [finished.wall_s for finished in together]),
        *limit_figures(case, together, _LIMITS),
    ]
    report.add(case, [], figures)


def estimate_figures(case: str, planned: Sequence[float], walls: Sequence[float]) -> list[Figure]:
    """The plan's time against what happened; the bound is for the median of the runs."""
    off = [abs(plan_s / wall_s - 1) * 100 for plan_s, wall_s in zip(planned, walls, strict=True)]
    return [
        Figure(case, "the plan's time", statistics.median(planned), " s"),
        Figure(case, "off from what happened", statistics.median(off), " %", at_most=_ESTIMATE_BOUND_PERCENT),
    ]


def limit_figures(case: str, finished: Sequence[FinishedFleet], limits: dict[str, int]) -> list[Figure]:
    """The most that the event log has at the same time, in any run."""
    return [
        Figure(case, what, max(getattr(each, field) for each in finished), "", at_most=limits[limit])
        for what, field, limit in (
            ("most in the cluster", "cluster", "parallelMigrationsPerCluster"),
            ("most leaving one host", "outbound", "parallelOutboundMigrationsPerNode"),
            ("most arriving at one host", "inbound", "parallelInboundMigrationsPerNode"),
        )
    ]


def _run_fleet(running: BenchmarkController, spec: Any, folder: Path) -> FinishedFleet:
    """Run it; all that arrived is verified, and removed."""
    finished = running.run(spec)
    if not all(result.verified for result in finished.results):
        raise RuntimeError("an image was not verified")
    for path in folder.glob("*.new"):
        path.unlink()
    return finished


def _images(guest: str, folder: Path) -> list[Path]:
    sample = folder / "sample.ram"
    write_guest(guest, sample, _SAMPLE_BYTES)
    data = sample.read_bytes()
    sample.unlink()
    return _write(folder / guest, data, _IMAGES, _IMAGE_BYTES)


def _write(stem: Path, data: bytes, count: int, size_bytes: int) -> list[Path]:
    paths = []
    for number in range(count):
        paths.append(stem.with_name(f"{stem.name}-{number}.ram"))
        at = number * (size_bytes + _STRIDE_BYTES) % max(1, len(data) - size_bytes + 1)
        paths[-1].write_bytes(data[at - at % 4096 :][:size_bytes])
    return paths


def _machines(images: Sequence[Path]) -> list[dict[str, Any]]:
    """From each host to the next."""
    return [
        {
            "name": image.stem,
            "kind": "image",
            "memory": image.stat().st_size,
            "source": {"host": "abc"[number % 3], "path": str(image)},
            "destination": {"host": "abc"[(number + 1) % 3], "path": str(image.with_suffix(".new"))},
        }
        for number, image in enumerate(images)
    ]
