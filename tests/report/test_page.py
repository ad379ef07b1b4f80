"""The page: every figure is there and says what it shows, no text of a spec leaves its place, and it stays small."""

import html
import re
from dataclasses import replace
from html.parser import HTMLParser
from xml.etree import ElementTree as ET

import pytest

from pipeline.fleet.lifecycle import State
from pipeline.fleet.results import MigrationResult, Status
from pipeline.report.figures import timeline, waited_for
from pipeline.report.page import page
from pipeline.report.story import Machine, Story, story_of_fleet, story_of_results
from tests.report.stories import HOSTILE, fleet_story

FIGURES = ("timeline", "codecs", "downtimes", "accelerators", "waits")
#: Elements that have no end.
VOID = {"meta", "br"}


class Reader(HTMLParser):
    """A page's elements, each of which must end where it should."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.ids: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        self.ids += [value for name, value in attrs if name == "id" and value]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        self.ids += [value for name, value in attrs if name == "id" and value]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def drawn(text: str) -> dict[str, str]:
    """The label of each figure that is drawn."""
    found = re.finditer(
        r'<figure id="(\w+)"><figcaption>.*?</figcaption><div role="img" aria-label="([^"]*)"><svg', text
    )
    return {each[1]: html.unescape(each[2]) for each in found}


@pytest.fixture(scope="module")
def small() -> str:
    return page(story_of_fleet(*fleet_story([f"db-{number}" for number in range(12)])))


def test_each_figure_is_drawn_and_says_what_it_shows(small: str) -> None:
    labels = drawn(small)
    assert tuple(labels) == FIGURES
    assert labels["timeline"].startswith("Time line of 12 machines")
    assert "deflate" in labels["codecs"]
    assert "10 guests" in labels["downtimes"]
    assert "against weights of 10 machines" in labels["accelerators"]
    assert "the user's pause 3 seconds" in labels["waits"]


def test_a_page_loads_nothing_runs_nothing_and_is_well_formed(small: str) -> None:
    reader = Reader(small)
    assert len(reader.ids) == len(set(reader.ids))
    assert not {"script", "link", "img", "iframe", "object"} & {tag for tag, _ in reader.seen}
    assert "default-src 'none'" in small
    assert "http:" not in small
    assert "https:" not in small
    links = [value for _, attributes in reader.seen for name, value in attributes.items() if name.endswith("href")]
    assert links
    assert all(link is not None and link[0] == "#" and link[1:] in reader.ids for link in links)


def test_a_phone_and_the_night_are_provided_for(small: str) -> None:
    assert 'content="width=device-width, initial-scale=1"' in small
    assert "prefers-color-scheme: dark" in small
    for figure in re.findall(r"<svg.*?</svg>", small, re.DOTALL):
        root = ET.fromstring(figure)
        assert "viewBox" in root.attrib
        assert not {"width", "height"} & set(root.attrib)
        assert "var(--ink)" in figure


def test_results_and_failures_are_listed(small: str) -> None:
    for vm in range(12):
        assert f"<td>db-{vm}</td>" in small
    failures = small[small.index('id="failures"') :]
    assert "<strong>db-8</strong> Failed</dt>" in failures
    assert "disk full" in failures


def test_texts_of_specs_and_errors_cannot_leave_their_place() -> None:
    record, events = fleet_story([f"{HOSTILE}{number}" for number in range(10)], error=f"cannot open {HOSTILE}")
    text = page(story_of_fleet(replace(record, id=HOSTILE), events))
    assert "<script" not in text
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f\u202a-\u202e]", text)
    assert html.escape("<script>alert('&\"1')</script>$x_1$[/red]") in text
    assert len(drawn(text)) == len(FIGURES)
    Reader(text)


def test_a_name_in_a_label_is_no_formula() -> None:
    result = MigrationResult("$\\frac{1}$", "image", Status.COMPLETED, total_ms=5, raw_bytes=1, codec_pages={"$x": 1})
    text = page(story_of_results("$r$", [result], 1.0))
    assert "$\\frac{1}$" in text[text.index('id="timeline"') : text.index('id="codecs"')]


def test_an_empty_fleet_has_a_page_without_figures() -> None:
    record, events = fleet_story([])
    text = page(story_of_fleet(record, events))
    assert drawn(text) == {}
    assert [f'id="{name}"' in text for name in FIGURES] == [True, True, True, False, True]
    Reader(text)


def test_a_thousand_machines_stay_small() -> None:
    story = story_of_fleet(*fleet_story([f"machine-{number:04}" for number in range(1000)]))
    text = page(story)
    assert tuple(drawn(text)) == FIGURES
    assert len(text.encode()) < 3_000_000
    assert text.count("<tr>") == 1001


def test_the_same_story_has_the_same_picture() -> None:
    story = story_of_fleet(*fleet_story(["a", "b"]))
    assert timeline(story) == timeline(story)


def test_what_waits_is_counted_by_its_reason() -> None:
    record, events = fleet_story(["a", "b"])
    waiting = replace(
        record,
        finished=False,
        migrations=tuple(replace(each, state=State.PENDING, reason="2/2 out <of> a") for each in record.migrations),
    )
    text = page(story_of_fleet(waiting, events[:1], now_ns=record.submitted_ns + 10**9))
    assert "<li>2: 2/2 out &lt;of&gt; a</li>" in text
    assert "not finished" in text


def test_waits_are_told_apart_by_what_came_before() -> None:
    story = story_of_fleet(*fleet_story([f"db-{number}" for number in range(12)]))
    waited_ns = waited_for(story)
    assert waited_ns["the user's pause"] == 3 * 10**9
    assert waited_ns["another attempt"] == 5 * 10**9
    assert list(waited_ns.values()) == sorted(waited_ns.values(), reverse=True)
    assert waited_for(Story("f", "", 0, 0, (Machine("a", story.machines[0].state, ""),))) == {}
