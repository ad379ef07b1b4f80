"""Panels of the dashboards, drawn by matplotlib from what a Prometheus has: for whoever has no Grafana at hand.

It asks what Grafana would ask, with all values chosen, and draws curves in their panel's unit, one SVG for all.
"""

import json
import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, FuncFormatter, PercentFormatter

from dashboards.files import JSON
from dashboards.prometheus import Prometheus
from pipeline.byte_amounts import show_bytes

#: File and title. They have data without a controller, too.
PANELS = (
    ("fleet", "Guest memory sent"),
    ("host", "Bytes on the wire, by codec"),
    ("host", "Pages by kind"),
    ("accelerators", "Slots in use"),
    ("accelerators", "Who codes the pages"),
    ("accelerators", "Busy"),
)
_ACROSS = 3
_PANEL_IN = (3.6, 2.7)
_STEP_S = 1
#: More curves than that are not told apart.
_MOST_CURVES = 8
_RUN = re.compile(r"^run-[^/]*/")
_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "kuaka",
    "text.parse_math": False,
    "font.size": 7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
}


def filled_in(expr: str, rate_interval: str, chosen: Mapping[str, str]) -> str:
    """A panel's query with what Grafana puts in; of a variable that is not in `chosen`, all values."""
    for name, value in (("$__rate_interval", rate_interval), ("$__range", "30s")):
        expr = expr.replace(name, value)
    return re.sub(r"\$(\w+)", lambda found: chosen.get(found[1], ".*"), expr)


def draw(prometheus: Prometheus, began_s: float, ended_s: float, to: Path) -> None:
    """The panels' curves between these times, seconds since 1970. Raises `KuakaError` where Prometheus refuses."""
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    down = -(-len(PANELS) // _ACROSS)
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(_PANEL_IN[0] * _ACROSS, _PANEL_IN[1] * down), layout="constrained")
        FigureCanvasSVG(figure)
        for axes, (file, title) in zip(figure.subplots(down, _ACROSS).flat, PANELS, strict=True):
            _paint(axes, _panel(file, title), prometheus, began_s, ended_s)
        figure.savefig(to, metadata={"Date": None, "Creator": None})


def _panel(file: str, title: str) -> Mapping[str, Any]:
    board = json.loads((JSON / f"kuaka-{file}.json").read_text())
    panel: Mapping[str, Any] = next(panel for panel in board["panels"] if panel["title"] == title)
    return panel


def _paint(axes: Axes, panel: Mapping[str, Any], prometheus: Prometheus, began_s: float, ended_s: float) -> None:
    axes.set_title(panel["title"], loc="left", fontweight="bold")
    curves = [curve for target in panel["targets"] for curve in _curves(target, prometheus, began_s, ended_s)]
    for name, points in curves[:_MOST_CURVES]:
        axes.plot([at_s - began_s for at_s, _ in points], [value for _, value in points], linewidth=1.2, label=name)
    axes.margins(x=0)
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_formatter(EngFormatter("s"))
    axes.yaxis.set_major_formatter(_formatter(panel["fieldConfig"]["defaults"]["unit"]))
    if curves:
        axes.legend(fontsize=6, loc="upper left", bbox_to_anchor=(0, -0.12), ncols=2)


def _curves(
    target: Mapping[str, Any], prometheus: Prometheus, began_s: float, ended_s: float
) -> list[tuple[str, Sequence[tuple[float, float]]]]:
    expr = filled_in(target["expr"], "5s", {})
    found = prometheus.ask("query_range", query=expr, start=began_s, end=ended_s, step=_STEP_S)["result"]
    return [
        (_name(target.get("legendFormat", ""), series["metric"]), [(at_s, float(value)) for at_s, value in points])
        for series in found
        if (points := series["values"])
    ]


def _name(legend: str, labels: Mapping[str, str]) -> str:
    # A pool as its fleet calls it: clients put their run before it.
    return re.sub(r"\{\{(\w+)\}\}", lambda label: _RUN.sub("", labels.get(label[1], "")), legend)


def _formatter(unit: str) -> EngFormatter | FuncFormatter | PercentFormatter:
    if unit == "percentunit":
        return PercentFormatter(1)
    if unit in ("bytes", "binBps", "Bps"):
        return FuncFormatter(lambda value, _place: show_bytes(int(value)) + ("" if unit == "bytes" else "/s"))
    return EngFormatter()
