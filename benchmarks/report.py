"""What a benchmark says: a table of contenders, a line per bound with its verdict, and the same as JSON."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from benchmarks.measure import Summary


@dataclass(frozen=True, slots=True)
class Figure:
    """One number that is reported; with a bound it passes or fails."""

    case: str
    what: str
    value: float
    unit: str = ""
    at_most: float | None = None
    at_least: float | None = None

    @property
    def passed(self) -> bool | None:
        """None where there is no bound."""
        if self.at_most is not None:
            return self.value <= self.at_most
        if self.at_least is not None:
            return self.value >= self.at_least
        return None

    def line(self) -> str:
        """The figure as text."""
        bound = ""
        if self.at_most is not None:
            bound = f" <= {self.at_most:g}"
        elif self.at_least is not None:
            bound = f" >= {self.at_least:g}"
        verdict = {None: "", True: "  pass", False: "  FAIL"}[self.passed]
        return f"  {self.what}: {self.value:.3g}{self.unit}{bound}{self.unit if bound else ''}{verdict}"


@dataclass(slots=True)
class Report:
    """Everything measured so far; `quiet` prints nothing."""

    quiet: bool = False
    figures: list[Figure] = field(default_factory=list)
    contenders: dict[str, list[Summary]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)

    def skip(self, case: str, reason: str) -> None:
        """A case that cannot run here."""
        self.skipped[case] = reason
        self._print(f"{case}: skipped: {reason}")

    def add(self, case: str, summaries: Iterable[Summary], figures: Iterable[Figure]) -> None:
        """A case that has run."""
        self.contenders[case] = list(summaries)
        figures = list(figures)
        self.figures += figures
        self._print(f"\n{case}")
        if self.contenders[case]:
            self._print(
                f"  {'median of':<34}{'wall s':>8}{'MB wire':>9}{'CPU s/GiB: source':>19}{'destination':>12}"
                f"{'downtime':>10}"
            )
        for summary in self.contenders[case]:
            downtime = f"{summary.downtime_ms:.0f} ms" if summary.downtime_ms is not None else ""
            self._print(
                f"  {f'{summary.name} ({summary.runs})':<34}{summary.wall_s:>8.3f}{summary.wire_bytes / 1e6:>9.1f}"
                f"{summary.source_cpu_s_per_gib:>19.2f}{summary.destination_cpu_s_per_gib:>12.2f}{downtime:>10}"
            )
        for figure in figures:
            self._print(figure.line())

    @property
    def failed(self) -> list[Figure]:
        """Figures that miss their bound."""
        return [figure for figure in self.figures if figure.passed is False]

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "figures": [{**asdict(figure), "passed": figure.passed} for figure in self.figures],
            "contenders": {
                case: [summary.to_json() for summary in summaries] for case, summaries in self.contenders.items()
            },
            "skipped": self.skipped,
        }

    def _print(self, text: str) -> None:
        if not self.quiet:
            print(text, flush=True)
