"""A dashboard: variables, rows of panels, and links to its sisters."""

from collections.abc import Sequence

from grafana_foundation_sdk.builders.dashboard import Dashboard, DashboardLink, Row
from grafana_foundation_sdk.models.dashboard import DashboardCursorSync, DashboardLinkType

from dashboards.panels import Panel
from dashboards.variables import Variable, datasource

#: What links the dashboards: each lists all that have it.
TAG = "kuaka"
Section = tuple[str, Sequence[Panel]]


def board(uid: str, title: str, asks: str, variables: Sequence[Variable], sections: Sequence[Section]) -> Dashboard:
    """Put it together. Panels are numbered as they come."""
    made = (
        Dashboard(title)
        .uid(uid)
        .description(asks)
        .tags([TAG])
        .readonly()
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .refresh("10s")
        .time("now-30m", "now")
        .timezone("browser")
        .variables([datasource(), *variables])
        .link(_sisters())
    )
    number = 0
    for heading, panels in sections:
        number += 1
        made.with_row(Row(heading).id(number))
        for panel in panels:
            number += 1
            made.with_panel(panel.id(number))
    return made


def _sisters() -> DashboardLink:
    return (
        DashboardLink("kuaka")
        .type(DashboardLinkType.DASHBOARDS)
        .tags([TAG])
        .as_dropdown(False)
        .include_vars(True)
        .keep_time(True)
    )
