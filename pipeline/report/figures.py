"""The five figures of a report. Each is None where its story has nothing to show in it.

Bars are few and labelled, or many and without labels: what does not fit a figure is in the page's table. All bars of a
colour are one path, so that a thousand machines cost tens of kilobytes.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Any

from matplotlib.axes import Axes
from matplotlib.patches import PathPatch
from matplotlib.path import Path
from matplotlib.ticker import MaxNLocator

from pipeline.byte_amounts import show_bytes
from pipeline.fleet.lifecycle import State
from pipeline.fleet.results import MigrationResult
from pipeline.memory.pages import PAGE_BYTES
from pipeline.report.picture import FAINT, INK, Meaning, Picture, draw
from pipeline.report.story import Machine, Story

STATE_COLOURS: Mapping[State, str] = {
    State.PENDING: "#a3a9b5",
    State.PAUSED: "#9467bd",
    State.ADMITTED: "#e7ba52",
    State.PREPARING: "#6baed6",
    State.RUNNING: "#2878b5",
    State.SWITCHOVER: "#d62728",
    State.VERIFYING: "#2ca02c",
}
_RAW, _WIRE, _DEVICE, _LIMIT = "#2878b5", "#2ca02c", "#d9822b", "#d62728"
#: Their marks in the figure and in words.
_ENDS = {
    State.FAILED: ("X", "\N{HEAVY MULTIPLICATION X}", "#d62728"),
    State.CANCELLED: ("D", "\N{BLACK DIAMOND}", "#9467bd"),
}
#: More bars than this are not labelled one by one.
_MOST_LABELS = 40
_ROW_IN, _FRAME_IN, _MOST_IN = 0.17, 0.75, 6.0
_LABEL_CHARACTERS = 20
#: No bar is narrower than this part of the axis: a switchover of milliseconds would not be seen.
_LEAST_WIDTH = 0.002
#: Limits that a figure draws; a fleet has one or two.
_MOST_LIMITS = 8
_SECOND_NS = 10**9

_Bar = tuple[float, float, float, float]


def pictures(story: Story) -> list[Picture | None]:
    """All figures, in the order of the page; None for one that would be empty."""
    return [paint(story) for paint in (timeline, codecs, downtimes, accelerators, waits)]


def timeline(story: Story) -> Picture | None:
    """A row per machine, a colour per state."""
    shown = [machine for machine in story.machines if machine.spans]
    if not shown or not story.length_ns:
        return None
    unit, unit_ns = _time_unit(story.length_ns)
    length = story.length_ns / unit_ns
    bars: dict[State, list[_Bar]] = defaultdict(list)
    for row, machine in enumerate(shown):
        for span in machine.spans:
            width = max((span.end_ns - span.begin_ns) / unit_ns, length * _LEAST_WIDTH)
            bars[span.state].append((span.begin_ns / unit_ns, row - 0.4, width, 0.8))

    def paint(axes: Axes) -> None:
        for state, colour in STATE_COLOURS.items():
            _fill(axes, bars.get(state, ()), colour)
        for state, (marker, _, colour) in _ENDS.items():
            rows = [row for row, each in enumerate(shown) if each.state is state]
            ends = [shown[row].spans[-1].end_ns / unit_ns for row in rows]
            axes.scatter(ends, rows, s=16, c=colour, marker=marker, linewidths=0, zorder=3)
        axes.set_xlim(0, length * 1.02)
        axes.set_xlabel(f"{unit} since it was submitted" if story.began_ns is not None else unit)
        _label_rows(axes, [machine.vm for machine in shown], "machines, as in the spec")

    used = [Meaning(colour, state.value) for state, colour in STATE_COLOURS.items() if state in bars]
    if story.began_ns is None:
        # The JSON of a command has no states, but says how long a guest ran and stood still.
        used = [
            Meaning(STATE_COLOURS[State.RUNNING], "on its way"),
            Meaning(STATE_COLOURS[State.SWITCHOVER], "standing still"),
        ]
    ends = [Meaning(colour, f"{state} here", sign) for state, (_, sign, colour) in _ENDS.items() if story.count[state]]
    what = (
        "when each was in which state" if story.began_ns is not None else "how long each took, from its own beginning"
    )
    return Picture(
        "timeline",
        "Time line",
        f"Time line of {len(shown)} machines over {length:.3g} {unit}: {what}",
        f"{len(shown)} machines, {what}.",
        draw("timeline", _height_in(len(shown)), paint),
        (*used, *ends),
    )


def codecs(story: Story) -> Picture | None:
    """How many bytes of guest memory went by which codec, and what that was on the wire."""
    results = _results(story)
    pages: Counter[str] = Counter()
    for result in results:
        pages.update({"zero pages": result.zero_pages, **result.codec_pages})
    sizes = {name: count * PAGE_BYTES for name, count in pages.most_common() if count}
    raw, wire = sum(each.raw_bytes for each in results), sum(each.wire_bytes for each in results)
    if not sizes and not raw:
        return None
    rows = [(name, size, _RAW) for name, size in sizes.items()] + [
        ("all memory", raw, INK),
        ("on the wire", wire, _WIRE),
    ]

    def paint(axes: Axes) -> None:
        for row, (_, size, colour) in enumerate(rows):
            _fill(axes, [(0, row - 0.35, float(size), 0.7)], colour)
            _write(axes, size, row, show_bytes(size))
        # Room for the words behind the longest bar.
        axes.set_xlim(0, max(size for _, size, _ in rows) * 1.3)
        axes.set_xticks([])
        _label_rows(axes, [name for name, _, _ in rows], "")

    ratio = f", {raw / wire:.1f} bytes of memory for each on the wire" if wire else ""
    listed = ", ".join(f"{name} {show_bytes(size)}" for name, size in sizes.items())
    return Picture(
        "codecs",
        "Bytes by codec",
        f"Bytes of guest memory by codec: {listed}; {show_bytes(raw)} in all, {show_bytes(wire)} on the wire",
        f"{show_bytes(raw)} of memory became {show_bytes(wire)} on the wire{ratio}.",
        draw("codecs", _height_in(len(rows)), paint),
        (
            Meaning(_RAW, "memory, by how it went"),
            Meaning("var(--ink)", "all memory that travelled"),
            Meaning(_WIRE, "bytes on the wire"),
        ),
    )


def downtimes(story: Story) -> Picture | None:
    """How long the guests stood still."""
    measured = [
        (each.result.downtime_ms, each.downtime_limit_ms)
        for each in story.machines
        if each.result is not None and each.result.downtime_ms is not None
    ]
    if not measured:
        return None
    times_ms = sorted(time_ms for time_ms, _ in measured)
    limits_ms = sorted({limit_ms for _, limit_ms in measured if limit_ms is not None})
    over = sum(limit_ms is not None and time_ms > limit_ms for time_ms, limit_ms in measured)
    far_ms = max(times_ms[-1], limits_ms[0] if limits_ms else 0) * 1.05 or 1.0
    buckets = min(30, max(8, len(times_ms) // 8))
    counts = Counter(min(buckets - 1, int(time_ms / far_ms * buckets)) for time_ms in times_ms)
    width = far_ms / buckets

    def paint(axes: Axes) -> None:
        _fill(axes, [(bucket * width, 0, width * 0.92, float(count)) for bucket, count in counts.items()], _RAW)
        for limit_ms in limits_ms[:_MOST_LIMITS]:
            axes.axvline(limit_ms, color=_LIMIT, linestyle="--", linewidth=1)
        axes.set_xlim(0, far_ms)
        axes.set_ylim(0, max(counts.values()) * 1.1)
        axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes.set_xlabel("downtime, ms")
        axes.set_ylabel("guests")

    said = (
        f"median {median(times_ms):.0f} ms, 99 % within {_percentile(times_ms, 99):.0f} ms, worst {times_ms[-1]:.0f} ms"
    )
    beyond = f"; {over} longer than their limit" if limits_ms else ""
    return Picture(
        "downtimes",
        "Downtime",
        f"Distribution of the downtime of {len(times_ms)} guests: {said}{beyond}",
        f"{len(times_ms)} guests: {said}{beyond}.",
        draw("downtimes", 2.4, paint),
        (Meaning(_RAW, "guests"), *((Meaning(_LIMIT, "limits of the spec"),) if limits_ms else ())),
    )


def accelerators(story: Story) -> Picture | None:
    """Each machine's part of the pages that devices coded, against its part of the weights."""
    sharing = [each for each in story.machines if each.result is not None and _shares_devices(each.result)]
    pages = sum(each.result.accelerator_pages for each in sharing if each.result is not None)
    if not pages:
        return None
    weights = sum(each.weight or 0 for each in sharing)
    rows = _shares(sharing)

    def paint(axes: Axes) -> None:
        _fill(axes, [(0, row - 0.38, 100 * part / pages, 0.38) for row, (_, part, _) in enumerate(rows)], _DEVICE)
        if weights:
            _fill(axes, [(0, row, 100 * part / weights, 0.38) for row, (_, _, part) in enumerate(rows)], INK)
        longest = max(max(100 * done / pages, 100 * weight / weights if weights else 0) for _, done, weight in rows)
        axes.set_xlim(0, longest * 1.05)
        axes.set_xlabel("% of all")
        _label_rows(axes, [name for name, _, _ in rows], "")

    against = " against weights" if weights else ""
    unknown = "" if weights else " The results do not say their weights."
    return Picture(
        "accelerators",
        f"Accelerator pages{against}",
        f"Accelerator pages{against} of {len(sharing)} machines, {pages} pages in all",
        f"{pages} pages were coded by devices. Who asks for less than its share leaves it to the others.{unknown}",
        draw("accelerators", _height_in(len(rows) * 1.5), paint),
        (Meaning(_DEVICE, "pages that devices coded"), *((Meaning("var(--ink)", "weight"),) if weights else ())),
    )


def waits(story: Story) -> Picture | None:
    """What all machines together waited for, and how long."""
    waited_ns = waited_for(story)
    if not waited_ns:
        return None
    unit, unit_ns = _time_unit(max(waited_ns.values()))

    def paint(axes: Axes) -> None:
        for row, amount_ns in enumerate(waited_ns.values()):
            _fill(axes, [(0, row - 0.35, amount_ns / unit_ns, 0.7)], STATE_COLOURS[State.ADMITTED])
            _write(axes, amount_ns / unit_ns, row, f"{amount_ns / unit_ns:.3g}")
        axes.set_xlim(0, max(waited_ns.values()) / unit_ns * 1.2)
        axes.set_xlabel(f"{unit}, all machines together")
        _label_rows(axes, list(waited_ns), "")

    listed = ", ".join(f"{name} {amount_ns / unit_ns:.3g} {unit}" for name, amount_ns in waited_ns.items())
    return Picture(
        "waits",
        "Waits",
        f"What machines waited for: {listed}",
        "Of all machines together. Accelerator credit was waited for by single pages' work, while the rest went on.",
        draw("waits", _height_in(len(waited_ns)), paint),
    )


def waited_for(story: Story) -> dict[str, int]:
    """Nanoseconds by what was waited for, the longest first."""
    total_ns: Counter[str] = Counter()
    for machine in story.machines:
        before: State | None = None
        for span in machine.spans:
            if span.state is State.PAUSED:
                total_ns["the user's pause"] += span.end_ns - span.begin_ns
            elif span.state is State.PENDING:
                why = "room under limits" if before in (None, State.PAUSED) else "another attempt"
                total_ns[why] += span.end_ns - span.begin_ns
            before = span.state
        if machine.result is not None:
            total_ns["accelerator credit"] += int(machine.result.wait_ms * 1e6)
            total_ns["a downtime ticket"] += int((machine.result.ticket_wait_ms or 0) * 1e6)
    return {why: amount_ns for why, amount_ns in total_ns.most_common() if amount_ns > 0}


def _results(story: Story) -> list[MigrationResult]:
    return [machine.result for machine in story.machines if machine.result is not None]


def _shares_devices(result: MigrationResult) -> bool:
    return bool(result.accelerator_pages) or result.service_class is not None


def _shares(machines: Sequence[Machine]) -> list[tuple[str, int, int]]:
    """Rows of name, device pages and weight; machines of one weight together where there are too many."""
    rows = [(each.vm, each.result.accelerator_pages if each.result else 0, each.weight or 0) for each in machines]
    if len(rows) <= _MOST_LABELS:
        return rows
    alike: dict[int, list[int]] = defaultdict(list)
    for _, pages, weight in rows:
        alike[weight].append(pages)
    return [
        (f"{len(pages)} of weight {weight or '?'}", sum(pages), weight * len(pages))
        for weight, pages in sorted(alike.items())
    ]


def _percentile(ordered: Sequence[float], percent: int) -> float:
    return ordered[max(0, -(-len(ordered) * percent // 100) - 1)]


def _time_unit(length_ns: int) -> tuple[str, int]:
    if length_ns < _SECOND_NS:
        return "ms", 10**6
    if length_ns < 300 * _SECOND_NS:
        return "seconds", _SECOND_NS
    return ("minutes", 60 * _SECOND_NS) if length_ns < 4 * 3600 * _SECOND_NS else ("hours", 3600 * _SECOND_NS)


def _height_in(rows: float) -> float:
    return min(_MOST_IN, _FRAME_IN + _ROW_IN * max(2, rows))


def _label_rows(axes: Axes, names: Sequence[str], many: str) -> None:
    """The first row on top; names where they can be read."""
    axes.set_ylim(len(names) - 0.4, -0.6)
    if len(names) <= _MOST_LABELS:
        axes.set_yticks(range(len(names)), [_short(name) for name in names])
        axes.tick_params(axis="y", length=0)
    else:
        axes.set_ylabel(many)
        axes.yaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.grid(visible=True, axis="x", color=FAINT, linewidth=0.4, alpha=0.5)
    axes.set_axisbelow(True)


def _short(name: str) -> str:
    return name if len(name) <= _LABEL_CHARACTERS else f"{name[: _LABEL_CHARACTERS - 1]}\N{HORIZONTAL ELLIPSIS}"


def _write(axes: Axes, right: float, row: int, text: str) -> None:
    """A bar's amount behind its end."""
    axes.annotate(text, (right, row), xytext=(3, 0), textcoords="offset points", va="center")


def _fill(axes: Axes, bars: Iterable[_Bar], colour: str) -> None:
    """All bars (left, bottom, width, height) as one path."""
    corners: list[tuple[float, float]] = []
    codes: list[Any] = []
    for left, bottom, width, height in bars:
        right, top = left + width, bottom + height
        corners += [(left, bottom), (right, bottom), (right, top), (left, top), (left, bottom)]
        codes += [Path.MOVETO, Path.LINETO, Path.LINETO, Path.LINETO, Path.CLOSEPOLY]
    if corners:
        axes.add_patch(PathPatch(Path(corners, codes), facecolor=colour, linewidth=0))
