"""The published measurements the simulator is held against, and which of them its parameters were fitted to.

Rows of published-results sections 2 (QATzip in QEMU multifd, v2), 3 (DSA zero pages, v5) and 4 (multifd-qpl as merged).
`FITTED` rows gave the parameters (`scheduler.simulate.fit`); `PREDICTED` rows must come out of them within 15 %;
`REPORTED` rows are shown and promised nothing (both are slower with 16 threads than with 8, which the model has no
mechanism for).
"""

from dataclasses import dataclass
from enum import Enum


class Use(Enum):
    """What a row is for."""

    FITTED = "fitted"
    PREDICTED = "predicted"
    REPORTED = "reported"


@dataclass(frozen=True, slots=True)
class Row:
    """One measured migration; times in ms, rates in Mbit/s; `send_cpu_ms` is all CPU time at the source."""

    section: int
    name: str
    channels: int
    use: Use
    total_ms: float
    mbit_s: float
    send_cpu_ms: float | None = None
    receive_cpu_ms: float | None = None

    @property
    def wire_bytes(self) -> float:
        """Bytes on the wire: QEMU's rate is wire bytes by total time."""
        return self.mbit_s * self.total_ms * 125


def _qatzip(name: str, threads: int, use: Use, seconds: float, mbit_s: float, send: float, receive: float) -> Row:
    total_ms = seconds * 1000
    return Row(2, name, threads, use, total_ms, mbit_s, send / 100 * total_ms, receive / 100 * total_ms)


ROWS = (
    _qatzip("qatzip", 4, Use.FITTED, 23.13, 8749.94, 117.50, 186.49),
    _qatzip("zlib", 4, Use.FITTED, 254.35, 771.87, 388.20, 144.40),
    _qatzip("zstd", 4, Use.FITTED, 54.52, 3442.59, 414.59, 149.77),
    _qatzip("none", 4, Use.FITTED, 12.45, 43739.60, 159.71, 204.96),
    _qatzip("qatzip", 8, Use.PREDICTED, 16.91, 12306.52, 186.37, 391.84),
    _qatzip("zlib", 8, Use.PREDICTED, 130.11, 1508.89, 753.86, 289.35),
    _qatzip("zstd", 8, Use.PREDICTED, 27.57, 6823.23, 786.83, 303.80),
    _qatzip("none", 8, Use.PREDICTED, 11.82, 46072.63, 163.74, 238.56),
    _qatzip("qatzip", 16, Use.REPORTED, 18.64, 11044.52, 573.61, 437.65),
    _qatzip("zlib", 16, Use.PREDICTED, 66.43, 2955.79, 1469.68, 567.47),
    _qatzip("zstd", 16, Use.PREDICTED, 14.17, 13290.66, 1504.08, 615.33),
    _qatzip("none", 16, Use.REPORTED, 16.82, 32363.26, 180.74, 217.17),
    Row(3, "half-normal cpu", 8, Use.FITTED, 10343, 41007, 41922),
    Row(3, "half-normal dsa", 8, Use.PREDICTED, 9535, 46554, 32568),
    Row(3, "all-zero cpu", 8, Use.FITTED, 4867, 1.51, 11154),
    Row(3, "all-zero dsa", 8, Use.PREDICTED, 3888, 1.89, 8700),
    Row(4, "qpl always-wait", 4, Use.FITTED, 18381, 13699),
    Row(4, "qpl retry-fallback", 4, Use.PREDICTED, 14649, 17666),
)


def row(name: str, channels: int) -> Row:
    """The row of that name and number of channels. Raises KeyError."""
    for candidate in ROWS:
        if (candidate.name, candidate.channels) == (name, channels):
            return candidate
    raise KeyError((name, channels))
