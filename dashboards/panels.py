"""Panels: each answers one question, which is its description, in a unit, by at least one query.

Widths are columns of Grafana's grid, 24 to a line; heights are its rows of 30 pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from string import ascii_uppercase
from typing import TypeVar

from grafana_foundation_sdk.builders import bargauge, common, prometheus, stat, statetimeline, table, timeseries
from grafana_foundation_sdk.builders import dashboard as dashboards
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.cog.variants import Dataquery
from grafana_foundation_sdk.models import common as looks
from grafana_foundation_sdk.models.dashboard import (
    DashboardLinkType,
    DataSourceRef,
    DataTransformerConfig,
    DynamicConfigValue,
    FieldColorModeId,
    Threshold,
    ThresholdsMode,
    ValueMap,
    ValueMappingResult,
)
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

#: The Prometheus that the reader has chosen.
SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")

GREEN, YELLOW, ORANGE, RED, BLUE = "green", "yellow", "orange", "red", "blue"
#: (from this value on, this colour); the first has no value.
Steps = Sequence[tuple[float | None, str]]
PLAIN: Steps = ((None, BLUE),)

Panel = timeseries.Panel | stat.Panel | table.Panel | bargauge.Panel | statetimeline.Panel
AnyPanel = TypeVar("AnyPanel", timeseries.Panel, stat.Panel, table.Panel, bargauge.Panel, statetimeline.Panel)

_ROWS, _TABLE_ROWS = 8, 9


@dataclass(frozen=True, slots=True)
class Query:
    """One line of PromQL, and what its series are called: `{{label}}` is replaced by the label's value."""

    expr: str
    legend: str = ""
    #: The buckets of one histogram, by `le`: Grafana takes each from the next.
    buckets: bool = False


@dataclass(frozen=True, slots=True)
class Column:
    """A table's column: a query whose labels are the table's rows."""

    name: str
    expr: str
    unit: str
    steps: Steps = field(default=PLAIN)
    #: The value says nothing: only the labels are shown.
    hidden: bool = False


@dataclass(frozen=True, slots=True)
class Jump:
    """Where a click in a table's first column leads: a dashboard, and (variable, column) pairs that it takes along."""

    title: str
    uid: str
    variables: tuple[tuple[str, str], ...]

    @property
    def url(self) -> str:
        """A path within the same Grafana, which keeps the time and the data source."""
        chosen = "".join(f'&var-{name}=${{__data.fields["{label}"]}}' for name, label in self.variables)
        return f"/d/{self.uid}?${{__url_time_range}}&${{datasource:queryparam}}{chosen}"


def series(
    title: str,
    asks: str,
    unit: str,
    *queries: Query,
    width: int = 8,
    stacked: bool = False,
    steps: Steps = PLAIN,
    most: float | None = None,
) -> timeseries.Panel:
    """Curves over time. With more than one step, the steps are drawn as lines."""
    panel = (
        _asking(timeseries.Panel(), title, asks, unit, queries, (width, _ROWS), steps)
        .min(0)
        .fill_opacity(30 if stacked else 8)
        .show_points(looks.VisibilityMode.NEVER)
        .legend(_legend())
        .tooltip(common.VizTooltipOptions().mode(looks.TooltipDisplayMode.MULTI).sort(looks.SortOrder.DESCENDING))
        .color_scheme(dashboards.FieldColor().mode(FieldColorModeId.PALETTE_CLASSIC))
    )
    if stacked:
        panel.stacking(common.StackingConfig().mode(looks.StackingMode.NORMAL).group("A"))
    if len(steps) > 1:
        panel.thresholds_style(common.GraphThresholdsStyleConfig().mode(looks.GraphThresholdsStyleMode.DASHED))
    if most is not None:
        panel.max(most)
    return panel


def figure(
    title: str, asks: str, unit: str, *queries: Query, width: int = 4, height: int = 4, steps: Steps = PLAIN
) -> stat.Panel:
    """One number, large, as it is at the end of the time that is shown."""
    return (
        _asking(stat.Panel(), title, asks, unit, queries, (width, height), steps)
        .color_scheme(dashboards.FieldColor().mode(FieldColorModeId.THRESHOLDS))
        .color_mode(looks.BigValueColorMode.VALUE)
        .graph_mode(looks.BigValueGraphMode.AREA)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .no_value("none")
    )


def bars(
    title: str, asks: str, unit: str, *queries: Query, width: int = 8, steps: Steps = PLAIN, most: float | None = None
) -> bargauge.Panel:
    """A bar for each series, as they are now."""
    panel = (
        _asking(bargauge.Panel(), title, asks, unit, queries, (width, _ROWS), steps)
        .min(0)
        .color_scheme(dashboards.FieldColor().mode(FieldColorModeId.THRESHOLDS))
        .display_mode(looks.BarGaugeDisplayMode.GRADIENT)
        .orientation(looks.VizOrientation.HORIZONTAL)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
    )
    if most is not None:
        panel.max(most)
    return panel


def states(
    title: str, asks: str, *queries: Query, names: dict[str, tuple[str, str]], width: int = 24
) -> statetimeline.Panel:
    """Bands over time; `names` gives each value its name and colour."""
    mapping = ValueMap(
        options={
            value: ValueMappingResult(text=text, color=color, index=index)
            for index, (value, (text, color)) in enumerate(names.items())
        }
    )
    return (
        _asking(statetimeline.Panel(), title, asks, "none", queries, (width, _ROWS))
        .mappings([mapping])
        .merge_values(True)
        .show_value(looks.VisibilityMode.AUTO)
    )


def rows(
    title: str, asks: str, labels: dict[str, str], *columns: Column, jump: Jump | None = None, width: int = 24
) -> table.Panel:
    """A table: a row for each set of `labels` (label -> heading), a column for each query. All are as of now."""
    panel = _asking(table.Panel(), title, asks, "short", (), (width, _TABLE_ROWS))
    values: dict[str, str] = {}
    hidden = {"Time": True}
    for letter, column in zip(ascii_uppercase, columns, strict=False):
        query = prometheus.Dataquery().expr(column.expr).instant().format(PromQueryFormat.TABLE).ref_id(letter)
        panel.with_target(query.datasource(SOURCE))
        value = f"Value #{letter}" if len(columns) > 1 else "Value"
        if column.hidden:
            hidden[value] = True
        else:
            values[value] = column.name
            panel.override_by_name(column.name, _column_looks(column))
    panel.with_transformation(DataTransformerConfig(id_val="merge", options={}))
    order = {name: index for index, name in enumerate([*labels, *values])}
    organize = {"excludeByName": hidden, "indexByName": order, "renameByName": {**labels, **values}}
    panel.with_transformation(DataTransformerConfig(id_val="organize", options=organize))
    if jump is not None:
        link = dashboards.DashboardLink(jump.title).type(DashboardLinkType.LINK).url(jump.url).build()
        first = next(iter(labels.values()))
        panel.override_by_name(first, [DynamicConfigValue("links", [{"title": link.title, "url": link.url}])])
    return panel


def _asking(
    panel: AnyPanel,
    title: str,
    asks: str,
    unit: str,
    queries: Sequence[Query],
    size: tuple[int, int],
    steps: Steps = PLAIN,
) -> AnyPanel:
    """What every kind of panel has; `size` is its width and height."""
    width, height = size
    panel.title(title).description(asks).datasource(SOURCE).unit(unit).span(width).height(height)
    panel.thresholds(_thresholds(steps))
    if queries:
        panel.targets(_targets(queries))
    return panel


def _column_looks(column: Column) -> list[DynamicConfigValue]:
    properties = [DynamicConfigValue("unit", column.unit)]
    if len(column.steps) > 1:
        properties.append(DynamicConfigValue("thresholds", _thresholds(column.steps).build()))
        properties.append(DynamicConfigValue("custom.cellOptions", {"type": "color-text"}))
        properties.append(DynamicConfigValue("color", {"mode": "thresholds"}))
    return properties


def _targets(queries: Sequence[Query]) -> list[Builder[Dataquery]]:
    return [
        prometheus.Dataquery()
        .expr(query.expr)
        .legend_format(query.legend)
        .range()
        .format(PromQueryFormat.HEATMAP if query.buckets else PromQueryFormat.TIME_SERIES)
        .ref_id(letter)
        .datasource(SOURCE)
        for letter, query in zip(ascii_uppercase, queries, strict=False)
    ]


def _legend() -> common.VizLegendOptions:
    return (
        common.VizLegendOptions()
        .show_legend(True)
        .display_mode(looks.LegendDisplayMode.TABLE)
        .placement(looks.LegendPlacement.BOTTOM)
        .calcs(["lastNotNull", "max"])
    )


def _thresholds(steps: Steps) -> dashboards.ThresholdsConfig:
    return (
        dashboards.ThresholdsConfig()
        .mode(ThresholdsMode.ABSOLUTE)
        .steps([Threshold(value=value, color=color) for value, color in steps])
    )
