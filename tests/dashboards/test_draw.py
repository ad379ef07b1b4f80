"""Panels without Grafana: what is asked, and what is drawn of it."""

from pathlib import Path
from typing import Any, cast
from xml.etree import ElementTree as ET

from dashboards.draw import PANELS, draw, filled_in
from dashboards.prometheus import Prometheus

POOL = "run-1234-5/a/iaa/0"


class Answers:
    """A Prometheus that has one rising curve for whatever it is asked."""

    def __init__(self, *, empty: bool = False) -> None:
        self.asked: list[str] = []
        self._empty = empty

    def ask(self, path: str, **parameters: Any) -> Any:
        assert path == "query_range"
        self.asked.append(parameters["query"])
        labels = {"pool": POOL, "host": "a", "codec": "zstd", "kind": "zero", "by": "iaa"}
        values = [[1000 + second, str(second)] for second in range(10)]
        return {"result": [] if self._empty else [{"metric": labels, "values": values}]}


def words(path: Path) -> set[str]:
    return {"".join(text.itertext()).strip() for text in ET.parse(path).iter("{http://www.w3.org/2000/svg}text")}


def test_every_panel_is_drawn_with_its_title_and_its_curves(tmp_path: Path) -> None:
    answers, path = Answers(), tmp_path / "panels.svg"
    draw(cast(Prometheus, answers), 1000, 1010, path)
    assert {title for _, title in PANELS} <= words(path)
    # Without the run that its client puts before it.
    assert {"a", "zstd", "zero", "iaa", "a/iaa/0 leased", "a/iaa/0"} <= words(path)
    assert not [query for query in answers.asked if "$" in query]


def test_a_panel_without_data_has_no_curve(tmp_path: Path) -> None:
    path = tmp_path / "panels.svg"
    draw(cast(Prometheus, Answers(empty=True)), 1000, 1010, path)
    assert {title for _, title in PANELS} <= words(path)
    assert "a/iaa/0" not in words(path)


def test_a_query_is_filled_in_with_what_was_chosen_and_all_of_the_rest() -> None:
    expr = 'rate(x{vm="$vm", host=~"$host"}[$__rate_interval])'
    assert filled_in(expr, "5s", {"vm": "db-1"}) == 'rate(x{vm="db-1", host=~".*"}[5s])'
