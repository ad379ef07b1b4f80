"""The report: one HTML page that needs nothing but itself, on a phone and on a desk, by day and by night.

A page runs no script and loads nothing, and says so to the browser (Content-Security-Policy). Every text that is not
ours goes through `html.escape`.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from html import escape

from pipeline import __version__
from pipeline.byte_amounts import show_bytes
from pipeline.fleet.lifecycle import FINAL, UNDER_WAY, State
from pipeline.fleet.results import MigrationResult, Status
from pipeline.report.figures import pictures
from pipeline.report.picture import Picture
from pipeline.report.story import Machine, Story

_STYLE = """
:root { color-scheme: light dark; --ink: #1c2430; --faint: #8a93a0; --paper: #fff; --card: #f4f6f8; --bad: #b3261e; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e8ee; --faint: #7d8794; --paper: #14181d; --card: #1e242b; --bad: #ff8a80; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 80rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.45 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.4rem; margin: 0 0 .25rem; } h2 { font-size: 1.1rem; margin: 0 0 .5rem; }
.faint { color: var(--faint); } .bad { color: var(--bad); }
dl.sums { display: grid; grid-template-columns: repeat(auto-fit, minmax(7.5rem, 1fr)); gap: .5rem; margin: 1rem 0; }
dl.sums > div { background: var(--card); border-radius: .5rem; padding: .5rem .75rem; }
dt { font-size: .85rem; } dl.sums dd { margin: 0; font-size: 1.2rem; font-weight: 600; }
main { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 28rem), 1fr)); gap: 1rem; }
figure, section { margin: 0; padding: .75rem; background: var(--card); border-radius: .5rem; min-width: 0; }
section { grid-column: 1 / -1; }
svg { display: block; width: 100%; max-width: 46rem; height: auto; margin: 0 auto; }
svg text { font-family: system-ui, sans-serif !important; }
figure p { margin: .5rem 0 0; font-size: .9rem; }
.legend span { display: inline-block; margin-right: .9rem; }
.legend i { font-style: normal; }
.scroll { overflow-x: auto; max-height: 40rem; overflow-y: auto; }
table { border-collapse: separate; border-spacing: 0; overflow-wrap: break-word; font-size: .85rem;
  font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .6rem; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--paper); }
th { position: sticky; top: 0; background: var(--card); }
.l { text-align: left; }
th:first-child, td:first-child { position: sticky; left: 0; background: var(--card); text-align: left;
  min-width: 5rem; max-width: 11rem; white-space: normal; }
th:first-child { z-index: 1; }
td:last-child { text-align: left; white-space: normal; min-width: 14rem; }
"""
_HEAD = (
    '<meta charset="utf-8">'
    '<meta name="viewport" content="width=device-width, initial-scale=1">'
    '<meta name="color-scheme" content="light dark">'
    "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
)
_NOTHING = {
    "timeline": ("Time line", "Nothing has begun yet, or no time was measured."),
    "codecs": ("Bytes by codec", "No memory was counted: results come when a migration ends."),
    "downtimes": ("Downtime", "No guest's downtime was measured. Images have none."),
    "waits": ("Waits", "Nothing was waited for, or it was not measured."),
}


def page(story: Story) -> str:
    """The whole page."""
    name = escape(story.title)
    return (
        f'<!doctype html>\n<html lang="en">\n<head>{_HEAD}<title>{name}: kuaka report</title>'
        f"<style>{_STYLE}</style></head>\n<body>\n<header><h1>{name}</h1>"
        f'<p class="faint">{escape(_when(story))}</p></header>\n{_sums(story)}\n<main>\n'
        + "\n".join((*_figures(story), *_sections(story)))
        + f'\n</main>\n<footer><p class="faint">kuaka {escape(__version__)}</p></footer>\n</body>\n</html>\n'
    )


def _when(story: Story) -> str:
    if story.began_ns is None:
        return f"The results of a command that took {story.state}."
    began = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(story.began_ns // 10**9))
    return f"Fleet, {story.state}. Submitted {began}; what is told here took {story.length_ns / 1e9:.1f} s."


def _sums(story: Story) -> str:
    count = story.count
    results = [machine.result for machine in story.machines if machine.result is not None]
    wrong = sum(result.verified is False for result in results)
    raw, wire = sum(result.raw_bytes for result in results), sum(result.wire_bytes for result in results)
    worst_ms = max((result.downtime_ms for result in results if result.downtime_ms is not None), default=None)
    sums = (
        ("machines", str(len(story.machines)), False),
        ("succeeded", str(count.get(State.SUCCEEDED, 0)), False),
        ("failed", str(count.get(State.FAILED, 0)), True),
        ("cancelled", str(count.get(State.CANCELLED, 0)), True),
        ("under way", str(sum(count.get(state, 0) for state in UNDER_WAY)), False),
        ("waiting", str(count.get(State.PENDING, 0) + count.get(State.PAUSED, 0)), False),
        ("wrong memory", str(wrong), True),
        ("memory moved", show_bytes(raw), False),
        ("on the wire", show_bytes(wire), False),
        ("worst downtime", _milliseconds(worst_ms), False),
    )
    shown = (
        f"<div><dt>{name}</dt><dd{_class('bad' if bad and value != '0' else '')}>{value}</dd></div>"
        for name, value, bad in sums
        if name in _ALWAYS or value != "0"
    )
    return f'<dl class="sums">{"".join(shown)}</dl>'


_ALWAYS = frozenset(("machines", "succeeded", "failed"))


def _figures(story: Story) -> Iterator[str]:
    drawn = {picture.name: picture for picture in pictures(story) if picture is not None}
    for name in ("timeline", "codecs", "downtimes", "accelerators", "waits"):
        if name in drawn:
            yield _figure(drawn[name])
        elif name in _NOTHING:
            title, why = _NOTHING[name]
            yield f'<figure id="{name}"><figcaption><h2>{title}</h2></figcaption><p class="faint">{why}</p></figure>'


def _figure(picture: Picture) -> str:
    legend = "".join(
        f'<span><i style="color:{escape(each.colour)}">{each.sign}</i> {escape(each.words)}</span>'
        for each in picture.legend
    )
    return (
        f'<figure id="{picture.name}"><figcaption><h2>{escape(picture.title)}</h2></figcaption>'
        f'<div role="img" aria-label="{escape(picture.label)}">{picture.svg}</div>'
        f'<p class="legend">{legend}</p><p>{escape(picture.note)}</p></figure>'
    )


def _sections(story: Story) -> Iterator[str]:
    failed = [machine for machine in story.machines if _problem(machine)]
    if failed:
        rows = "".join(
            f'<dt><strong>{escape(each.vm)}</strong> {each.state}</dt><dd class="bad">{escape(_problem(each))}</dd>'
            for each in failed
        )
        yield f'<section id="failures"><h2>Failures</h2><div class="scroll"><dl>{rows}</dl></div></section>'
    waiting = Counter(each.reason for each in story.machines if each.state in (State.PENDING, State.PAUSED))
    if waiting:
        rows = "".join(f"<li>{count}: {escape(reason)}</li>" for reason, count in waiting.most_common())
        yield f'<section id="waiting"><h2>Waiting now</h2><ul>{rows}</ul></section>'
    if story.machines:
        yield f'<section id="results"><h2>Results</h2><div class="scroll">{_table(story.machines)}</div></section>'


def _problem(machine: Machine) -> str:
    result = machine.result
    if result is not None and result.verified is False:
        return result.error or f"{result.wrong_pages} pages are wrong"
    if result is not None and result.status is not Status.COMPLETED:
        return result.error or machine.reason or str(result.status)
    return machine.reason if machine.state is State.FAILED else ""


@dataclass(frozen=True, slots=True)
class _Column:
    heading: str
    cell: Callable[[Machine], str]
    left: bool = False


def _table(machines: Sequence[Machine]) -> str:
    columns = [column for column in _COLUMNS if any(column.cell(machine) not in ("", "-") for machine in machines)]
    heading = "".join(f'<th scope="col"{_class("l" if each.left else "")}>{each.heading}</th>' for each in columns)
    rows = "".join(f"<tr>{''.join(_cells(columns, machine))}</tr>" for machine in machines)
    return f"<table><thead><tr>{heading}</tr></thead><tbody>{rows}</tbody></table>"


def _cells(columns: Iterable[_Column], machine: Machine) -> Iterator[str]:
    for column in columns:
        yield f"<td{_class('l' if column.left else '')}>{escape(column.cell(machine))}</td>"


def _class(name: str) -> str:
    return f' class="{name}"' if name else ""


def _of(cell: Callable[[MigrationResult], str]) -> Callable[[Machine], str]:
    return lambda machine: "-" if machine.result is None else cell(machine.result)


def _milliseconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f} ms"


def _verified(result: MigrationResult) -> str:
    if result.verified is None:
        return "-"
    return "identical" if result.verified else f"{result.wrong_pages} WRONG PAGES"


def _codecs(result: MigrationResult) -> str:
    return " ".join(f"{name} {pages}" for name, pages in sorted(result.codec_pages.items())) or "-"


def _number(value: float | None) -> str:
    return "-" if not value else f"{value:g}"


_COLUMNS = (
    _Column("VM", lambda machine: machine.vm),
    _Column("state", lambda machine: machine.state, left=True),
    _Column("attempt", lambda machine: _number(machine.attempt)),
    _Column("RAM", _of(_verified), left=True),
    _Column("total", _of(lambda result: _milliseconds(result.total_ms))),
    _Column("downtime", _of(lambda result: _milliseconds(result.downtime_ms))),
    _Column("limit", lambda machine: _milliseconds(machine.downtime_limit_ms)),
    _Column("rounds", _of(lambda result: _number(result.rounds))),
    _Column("memory", _of(lambda result: show_bytes(result.raw_bytes))),
    _Column("wire", _of(lambda result: show_bytes(result.wire_bytes))),
    _Column("pages by codec", _of(_codecs), left=True),
    _Column("weight", lambda machine: _number(machine.weight)),
    _Column("device pages", _of(lambda result: _number(result.accelerator_pages))),
    _Column("CPU pages", _of(lambda result: _number(result.cpu_pages))),
    _Column("credit wait", _of(lambda result: _milliseconds(result.wait_ms or None))),
    _Column("ticket wait", _of(lambda result: _milliseconds(result.ticket_wait_ms))),
    _Column("", lambda machine: machine.reason if machine.state not in FINAL else _problem(machine)),
)
