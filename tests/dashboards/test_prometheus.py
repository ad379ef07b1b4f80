"""A real Prometheus scrapes a process that has every metric: every panel shows something, every rule is taken."""

import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import start_http_server

from dashboards.draw import filled_in
from scheduler.readings import Exposition
from tests.dashboards.declared import METRICS, SERIES
from tests.dashboards.panel_queries import PanelQuery, panel_queries, values_queries
from tests.dashboards.plausible import LABELS, EveryMetric
from tests.dashboards.prometheus_process import LoggedPrometheus, scraping

ROOT = Path(__file__).parent.parent.parent
RULES = sorted((ROOT / "dashboards/rules").glob("*.yaml"))
#: Scrapes are a second apart.
_RATE_INTERVAL = "8s"
_CHOSEN = {"vm": LABELS["vm"][0]}
_SCRAPES = 10


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoggedPrometheus]:
    """One that has seen some scrapes."""
    exposition = Exposition("controller", "head", [EveryMetric()])
    server, thread = start_http_server(0, "127.0.0.1", exposition.registry)
    directory = tmp_path_factory.mktemp("prometheus")
    try:
        targets = [f"127.0.0.1:{server.server_address[1]}"]
        with LoggedPrometheus(directory, scraping(targets, RULES)) as running:
            running.wait_until(lambda: _scrapes(running) >= _SCRAPES, "enough scrapes")
            yield running
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _scrapes(prometheus: LoggedPrometheus) -> float:
    found = prometheus.ask("query", query="sum(count_over_time(kuaka_scheduler_epoch[5m]))")["result"]
    return float(found[0]["value"][1]) if found else 0


def _filled_in(expr: str) -> str:
    return filled_in(expr, _RATE_INTERVAL, _CHOSEN)


def _numbers(prometheus: LoggedPrometheus, query: PanelQuery) -> list[float]:
    """What a query gives the way its panel asks: now, or as a curve."""
    expr = _filled_in(query.expr)
    if query.instant:
        return [float(series["value"][1]) for series in prometheus.ask("query", query=expr)["result"]]
    now = time.time()
    curve = prometheus.ask("query_range", query=expr, start=now - 5, end=now, step=1)["result"]
    return [float(value) for series in curve for _, value in series["values"]]


@pytest.mark.long
@pytest.mark.parametrize("query", list(panel_queries()), ids=lambda query: query.name)
def test_a_panels_query_returns_numbers(prometheus: LoggedPrometheus, query: PanelQuery) -> None:
    numbers = _numbers(prometheus, query)
    assert any(math.isfinite(number) for number in numbers), f"{_filled_in(query.expr)}: {numbers}"


@pytest.mark.long
def test_every_declared_metric_arrives_with_its_kind_and_its_words(prometheus: LoggedPrometheus) -> None:
    assert SERIES.keys() <= set(prometheus.ask("label/__name__/values"))
    told = prometheus.ask("metadata")
    for metric in METRICS:
        # In the format that both agree on, a counter's family is called without its ending.
        (found,) = told[metric.name.removesuffix("_total")]
        assert (found["type"], found["help"]) == (metric.kind.value, metric.help)


@pytest.mark.long
def test_every_rule_is_loaded_and_can_be_evaluated(prometheus: LoggedPrometheus) -> None:
    def rules() -> list[dict[str, Any]]:
        return [rule for group in prometheus.ask("rules")["groups"] for rule in group["rules"]]

    assert rules()
    for group in prometheus.ask("rules")["groups"]:
        for rule in group["rules"]:
            prometheus.ask("query", query=rule["query"])
    prometheus.wait_until(lambda: all(rule["health"] == "ok" for rule in rules()), "every rule is healthy")


@pytest.mark.long
def test_variables_find_their_values(prometheus: LoggedPrometheus) -> None:
    for query in values_queries():
        found = prometheus.ask(f"label/{query.label}/values", **{"match[]": _filled_in(query.selector)})
        assert set(found) & set(LABELS[query.label]), query.name
