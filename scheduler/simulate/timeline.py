"""The time line of a run as an SVG file: a panel per policy, a bar per migration, one axis of time for all.

Grey: submitted, not sending yet. Blue, darker by round: pre-copy. Amber: ready to stop, not allowed yet. Red: the guest
stands still. A cross marks a migration that failed.
"""

from collections.abc import Iterator, Sequence
from html import escape

from scheduler.simulate.results import RunResult, VmResult

_WIDTH = 1000
_MARGIN_LEFT, _MARGIN_RIGHT = 90, 20
_HEADER, _GAP, _AXIS = 24, 18, 34
#: Height of all bars of a panel together, at least and at most, and of one bar.
_PANEL_LEAST, _PANEL_MOST, _BAR_MOST = 24, 320, 16
_ROUNDS = ("#9ecae1", "#6baed6", "#4292c6", "#2171b5", "#08519c")
_WAIT, _DOWNTIME, _SETUP = "#fdae6b", "#cb181d", "#d9d9d9"
_TICKS = 8


def render(title: str, results: Sequence[RunResult]) -> str:
    """The SVG text. One result at least."""
    end_ns = max(vm.submitted_ns + vm.time_ns for result in results for vm in result.vms)
    parts: list[str] = []
    top = 40
    for result in results:
        height = _panel_height(len(result.vms))
        parts += _panel(result, top, height, end_ns)
        top += _HEADER + height + _GAP
    parts += _axis(top, end_ns)
    parts += _legend(top + _AXIS)
    total = top + _AXIS + 28
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{total}" viewBox="0 0 {_WIDTH} {total}" '
        'font-family="sans-serif" font-size="12">'
    )
    body = "\n".join(parts)
    return f'{head}\n<rect width="100%" height="100%" fill="white"/>\n{_text(10, 22, title, size=15)}\n{body}\n</svg>\n'


def _panel_height(bars: int) -> int:
    return max(_PANEL_LEAST, min(_PANEL_MOST, bars * _BAR_MOST))


def _panel(result: RunResult, top: int, height: int, end_ns: int) -> Iterator[str]:
    utilisation = max(result.device_utilisation.values(), default=0.0)
    summary = (
        f"{result.policy}: worst {result.worst_ns / 1e9:.2f} s, mean {result.mean_ns / 1e9:.2f} s, "
        f"CPU {result.cpu_ns / 1e9:.0f} s, busiest device {utilisation:.0%}, failed {result.failed}"
    )
    yield _text(10, top + 14, summary)
    bar = height / len(result.vms)
    for index, vm in enumerate(result.vms):
        yield from _bars(vm, top + _HEADER + index * bar, bar, end_ns)
    bottom = top + _HEADER + height
    yield f'<line x1="{_MARGIN_LEFT}" y1="{bottom}" x2="{_WIDTH - _MARGIN_RIGHT}" y2="{bottom}" stroke="#bbb"/>'


def _bars(vm: VmResult, top: float, height: float, end_ns: int) -> Iterator[str]:
    # A hair of white between bars, where there is room for one.
    drawn = height * 0.9 if height > 2 else height
    if height >= 10:
        yield _text(_MARGIN_LEFT - 4, top + height * 0.75, vm.name[-14:], anchor="end", size=10)
    yield _bar(vm.submitted_ns, vm.submitted_ns + vm.time_ns, top, drawn, _SETUP, end_ns, vm.name)
    for span in vm.spans:
        label = f"{vm.name}: {span.what}, {(span.end_ns - span.start_ns) / 1e6:.1f} ms"
        yield _bar(span.start_ns, span.end_ns, top, drawn, _colour(span.what), end_ns, label)
    if vm.failed:
        yield _text(_x(vm.submitted_ns + vm.time_ns, end_ns), top + height * 0.8, "x", size=12)


def _colour(what: str) -> str:
    if what.startswith("round "):
        return _ROUNDS[min(int(what.removeprefix("round ")), len(_ROUNDS)) - 1]
    return _WAIT if what == "wait" else _DOWNTIME


def _bar(start_ns: int, end_ns: int, top: float, height: float, colour: str, last_ns: int, label: str) -> str:
    left, right = _x(start_ns, last_ns), _x(end_ns, last_ns)
    return (
        f'<rect x="{left:.2f}" y="{top:.2f}" width="{max(right - left, 0.5):.2f}" height="{height:.2f}" '
        f'fill="{colour}"><title>{escape(label)}</title></rect>'
    )


def _axis(top: int, end_ns: int) -> Iterator[str]:
    for tick in range(_TICKS + 1):
        at_ns = end_ns * tick // _TICKS
        x = _x(at_ns, end_ns)
        yield f'<line x1="{x:.1f}" y1="40" x2="{x:.1f}" y2="{top}" stroke="#ddd" stroke-dasharray="2 4"/>'
        yield _text(x, top + 14, f"{at_ns / 1e9:.3g} s", anchor="middle")


def _legend(top: int) -> Iterator[str]:
    entries = ((_SETUP, "set up"), (_ROUNDS[0], "round 1"), (_ROUNDS[2], "later rounds"), (_WAIT, "waits to stop"))
    for index, (colour, what) in enumerate((*entries, (_DOWNTIME, "downtime"))):
        x = _MARGIN_LEFT + index * 130
        yield f'<rect x="{x}" y="{top}" width="12" height="12" fill="{colour}"/>'
        yield _text(x + 18, top + 10, what)


def _x(at_ns: int, end_ns: int) -> float:
    return _MARGIN_LEFT + (_WIDTH - _MARGIN_LEFT - _MARGIN_RIGHT) * at_ns / max(1, end_ns)


def _text(x: float, y: float, what: str, *, anchor: str = "start", size: int = 12) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}">{escape(what)}</text>'
