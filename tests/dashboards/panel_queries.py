"""What the committed dashboards ask Prometheus: each query of each panel, and the values of their variables."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

BOARDS = sorted((Path(__file__).parents[2] / "dashboards/json").glob("*.json"))


@dataclass(frozen=True, slots=True)
class PanelQuery:
    """One query of one panel."""

    #: Board, panel, and the query's letter.
    name: str
    expr: str
    #: Whether it is asked for one moment, or for a curve.
    instant: bool
    #: The panel's, in Grafana's words; a table's columns may have others.
    unit: str


@dataclass(frozen=True, slots=True)
class ValuesQuery:
    """Where the values of a board's variable are from: a label of the series that a selector finds."""

    #: Board and variable.
    name: str
    selector: str
    label: str


def panel_queries() -> Iterator[PanelQuery]:
    """All of them."""
    for path in BOARDS:
        for panel in json.loads(path.read_text())["panels"]:
            for target in panel.get("targets", ()):
                name = f"{path.stem}: {panel['title']} {target['refId']}"
                unit = panel["fieldConfig"]["defaults"]["unit"]
                yield PanelQuery(name, target["expr"], bool(target.get("instant")), unit)


def values_queries() -> Iterator[ValuesQuery]:
    """All of them."""
    for path in BOARDS:
        for variable in json.loads(path.read_text())["templating"]["list"]:
            if variable["type"] == "query":
                found = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["query"]["query"])
                assert found is not None, variable
                yield ValuesQuery(f"{path.stem}: {variable['name']}", found[1], found[2])
