"""Dashboards as Grafana will read them: what every panel must have, and that every name in a query exists."""

import json
import re
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from tests.dashboards.declared import SERIES
from tests.dashboards.promql import grouped_labels, matched_labels, metrics

ROOT = Path(__file__).parent.parent.parent
FILES = sorted((ROOT / "dashboards/json").glob("*.json"))
BOARDS: dict[str, dict[str, Any]] = {path.stem: json.loads(path.read_text()) for path in FILES}
ASKED = {"type": "prometheus", "uid": "${datasource}"}
Panel = dict[str, Any]

each_board = pytest.mark.parametrize("board", BOARDS.values(), ids=list(BOARDS))


def _panels(board: dict[str, Any]) -> Iterator[Panel]:
    """All but the rows."""
    return (panel for panel in board["panels"] if panel["type"] != "row")


def _expressions(board: dict[str, Any]) -> Iterator[str]:
    return (target["expr"] for panel in _panels(board) for target in panel["targets"])


def _variables(board: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {variable["name"]: variable for variable in board["templating"]["list"]}


def _links(value: Any) -> Iterator[str]:
    """All addresses in a dashboard, however deep."""
    if isinstance(value, dict):
        if isinstance(value.get("url"), str):
            yield value["url"]
        for inner in value.values():
            yield from _links(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _links(inner)


def test_there_are_four_and_no_two_share_a_uid_or_a_title() -> None:
    assert {board["uid"] for board in BOARDS.values()} == {
        "kuaka-fleet", "kuaka-migration", "kuaka-accelerators", "kuaka-host",
    }  # fmt: skip
    assert len({board["title"] for board in BOARDS.values()}) == len(BOARDS)


@each_board
def test_the_reader_chooses_the_data_source_and_nothing_goes_to_another(board: dict[str, Any]) -> None:
    (source,) = [variable for variable in board["templating"]["list"] if variable["type"] == "datasource"]
    assert (source["name"], source["query"]) == ("datasource", "prometheus")
    queries = [variable for variable in board["templating"]["list"] if variable["type"] == "query"]
    targets = [target for panel in _panels(board) for target in panel["targets"]]
    assert [
        found["datasource"] for found in (*queries, *_panels(board), *targets) if found["datasource"] != ASKED
    ] == []


@each_board
def test_every_panel_has_a_title_a_description_a_unit_and_a_query(board: dict[str, Any]) -> None:
    bare = [
        panel.get("title")
        for panel in _panels(board)
        if not (panel.get("title") and panel.get("description", "").endswith("."))
        or not panel["fieldConfig"]["defaults"].get("unit")
        or not panel["targets"]
    ]
    assert bare == []


@each_board
def test_every_panel_has_thresholds_that_begin_with_a_base_and_rise(board: dict[str, Any]) -> None:
    for panel in _panels(board):
        first, *others = [step["value"] for step in panel["fieldConfig"]["defaults"]["thresholds"]["steps"]]
        assert first is None, panel["title"]
        assert others == sorted(others), panel["title"]


@each_board
def test_panels_have_numbers_and_query_letters_of_their_own(board: dict[str, Any]) -> None:
    numbers = [panel["id"] for panel in board["panels"]]
    assert len(numbers) == len(set(numbers))
    for panel in _panels(board):
        letters = [target["refId"] for target in panel["targets"]]
        assert len(letters) == len(set(letters)), panel["title"]


@each_board
def test_panels_lie_on_the_grid_and_none_over_another(board: dict[str, Any]) -> None:
    places = [panel["gridPos"] for panel in board["panels"]]
    assert all(place["x"] + place["w"] <= 24 for place in places)
    for one, other in combinations(places, 2):
        apart = (
            one["x"] + one["w"] <= other["x"]
            or other["x"] + other["w"] <= one["x"]
            or one["y"] + one["h"] <= other["y"]
            or other["y"] + other["h"] <= one["y"]
        )
        assert apart, (one, other)


@each_board
def test_no_line_of_panels_leaves_a_gap(board: dict[str, Any]) -> None:
    lines: dict[int, int] = {}
    for panel in board["panels"]:
        lines[panel["gridPos"]["y"]] = lines.get(panel["gridPos"]["y"], 0) + panel["gridPos"]["w"]
    assert set(lines.values()) == {24}


@each_board
def test_rates_are_over_the_rate_interval_and_increases_over_what_is_shown(board: dict[str, Any]) -> None:
    ranges = [
        (function, over)
        for expr in _expressions(board)
        for function, over in re.findall(r"\b(i?rate|i?delta|deriv|increase|\w+_over_time)\([^\[\]]*\[([^\]]+)\]", expr)
    ]
    assert {over for function, over in ranges if function != "increase"} <= {"$__rate_interval"}
    assert {over for function, over in ranges if function == "increase"} <= {"$__range"}
    assert sum(expr.count("[") for expr in _expressions(board)) == len(ranges)


@each_board
def test_a_counter_is_shown_as_a_rate_where_it_is_a_curve(board: dict[str, Any]) -> None:
    curves = [panel for panel in _panels(board) if panel["type"] == "timeseries"]
    bare = [
        (panel["title"], name)
        for panel in curves
        for target in panel["targets"]
        for name in metrics(target["expr"])
        if name.endswith("_total") and "[" not in target["expr"]
    ]
    # Not a count of what happened but the size of one guest, a counter only because KubeVirt has it so.
    assert {name for _, name in bare} <= {"kuaka_vmi_migration_data_bytes_total"}


@each_board
def test_every_metric_in_a_query_is_declared_and_has_the_labels_that_are_asked_of_it(board: dict[str, Any]) -> None:
    variables = [variable["query"]["query"] for variable in board["templating"]["list"] if variable["type"] == "query"]
    for expr in (*_expressions(board), *(re.sub(r"label_values\((.*), \w+\)", r"\1", query) for query in variables)):
        names = metrics(expr)
        assert names, expr
        assert names <= SERIES.keys(), expr
        assert all(asked <= SERIES[name] for name, asked in matched_labels(expr)), expr
        assert grouped_labels(expr) <= set().union(*(SERIES[name] for name in names)), expr


@each_board
def test_variables_take_their_values_from_a_label_that_the_metric_has(board: dict[str, Any]) -> None:
    for variable in board["templating"]["list"]:
        if variable["type"] == "query":
            metric, label = re.fullmatch(
                r"label_values\((\w+)(?:\{.*\})?, (\w+)\)", variable["query"]["query"]
            ).groups()
            assert label in SERIES[metric]


@each_board
def test_legends_name_labels_that_the_query_leaves(board: dict[str, Any]) -> None:
    for panel in _panels(board):
        for target in panel["targets"]:
            named = set(re.findall(r"\{\{(\w+)\}\}", target.get("legendFormat", "")))
            assert named <= grouped_labels(target["expr"]), target


@each_board
def test_queries_use_the_variables_that_there_are_and_each_is_used(board: dict[str, Any]) -> None:
    text = " ".join([*_expressions(board), *(str(variable.get("query")) for variable in board["templating"]["list"])])
    used = {name for name in re.findall(r"\$(\w+)", text) if not name.startswith("__")}
    assert used | {"datasource"} == set(_variables(board))


@each_board
def test_nothing_is_asked_of_job_or_instance(board: dict[str, Any]) -> None:
    asked = {label for expr in _expressions(board) for _, labels in matched_labels(expr) for label in labels}
    grouped = {label for expr in _expressions(board) for label in grouped_labels(expr)}
    assert not (asked | grouped) & {"job", "instance"}


@each_board
def test_tables_rename_the_labels_and_values_that_their_queries_give(board: dict[str, Any]) -> None:
    for panel in _panels(board):
        if panel["type"] == "table":
            organize = panel["transformations"][-1]["options"]
            several = len(panel["targets"]) > 1
            values = {f"Value #{target['refId']}" if several else "Value" for target in panel["targets"]}
            labels = [grouped_labels(target["expr"]) for target in panel["targets"]]
            shown = set(organize["renameByName"]) | set(organize["excludeByName"]) - {"Time"}
            assert shown == values | labels[0], panel["title"]
            overridden = {override["matcher"]["options"] for override in panel["fieldConfig"]["overrides"]}
            assert overridden <= set(organize["renameByName"].values()), panel["title"]


@each_board
def test_links_lead_to_dashboards_of_ours_and_set_variables_that_these_have(board: dict[str, Any]) -> None:
    by_uid = {other["uid"]: other for other in BOARDS.values()}
    (sisters,) = board["links"]
    assert (sisters["type"], sisters["tags"], sisters["includeVars"], sisters["keepTime"]) == (
        "dashboards", ["kuaka"], True, True,
    )  # fmt: skip
    assert "kuaka" in board["tags"]
    for url in filter(None, _links(board["panels"])):
        uid = re.match(r"/d/([\w-]+)\?", url).group(1)
        assert set(re.findall(r"var-(\w+)=", url)) <= set(_variables(by_uid[uid])), url


def test_every_dashboard_is_reached_by_a_click_on_a_row() -> None:
    reached = {
        re.match(r"/d/([\w-]+)\?", url).group(1)
        for board in BOARDS.values()
        for url in filter(None, _links(board["panels"]))
    }
    assert reached == {board["uid"] for board in BOARDS.values()}
