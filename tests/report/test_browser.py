"""A real browser opens the page: every figure is there, drawn, and nothing is wider than a phone."""

import json
import re
import subprocess
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from pipeline.report.page import page
from pipeline.report.story import story_of_fleet
from tests.needs import need
from tests.report.stories import HOSTILE, fleet_story

pytestmark = [pytest.mark.long, pytest.mark.timeout(240)]

FIGURES = ["timeline", "codecs", "downtimes", "accelerators", "waits"]
#: The smallest window of a browser with a head is wider than a phone: the page is put into a frame of its width.
FRAME = """<!doctype html><meta charset="utf-8"><style>body { margin: 0; } iframe { border: 0; }</style>
<iframe src="page.html" width="WIDTH" height="800"></iframe><pre id="seen"></pre>
<script>
onload = () => {
  const inside = document.querySelector("iframe").contentDocument;
  const figures = [...inside.querySelectorAll("figure")].map(figure => {
    const svg = figure.querySelector("svg"), box = svg.getBoundingClientRect();
    const image = figure.querySelector("[role=img]");
    const shapes = [...svg.querySelectorAll("path")].map(path => path.getBoundingClientRect());
    const text = svg.querySelector("text");
    return {
      id: figure.id, label: image.getAttribute("aria-label"), title: figure.querySelector("h2").textContent,
      left: box.left, right: box.right, height: box.height,
      shapes: shapes.filter(shape => shape.width > 0 && shape.height > 0).length,
      ink: inside.defaultView.getComputedStyle(text).fill, letters: text.getBoundingClientRect().height,
    };
  });
  const page = inside.documentElement;
  const seen = {figures, wide: page.scrollWidth, scripts: inside.scripts.length, asked: inside.defaultView.performance
    .getEntriesByType("resource").length, paper: inside.defaultView.getComputedStyle(inside.body).backgroundColor};
  document.querySelector("#seen").textContent = JSON.stringify(seen);
};
</script>"""


def opened(folder: Path, text: str, width: int, *more: str) -> dict[str, Any]:
    """What Chromium makes of the page in a frame of that width."""
    (folder / "page.html").write_text(text)
    frame = folder / "frame.html"
    frame.write_text(FRAME.replace("WIDTH", str(width)))
    command = [
        str(need("chromium")),
        *("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"),
        *("--allow-file-access-from-files", f"--user-data-dir={folder / 'chromium'}", "--window-size=1400,1000"),
        *("--virtual-time-budget=10000", "--dump-dom", *more, frame.as_uri()),
    ]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=100, check=True).stdout
    found = re.search(r'<pre id="seen">(.*?)</pre>', dom, re.DOTALL)
    assert found is not None, dom[-2000:]
    seen: dict[str, Any] = json.loads(unescape(found[1]))
    return seen


@pytest.fixture(scope="module")
def text() -> str:
    vms = [f"{HOSTILE}{number}" for number in range(4)] + [f"db-{number}" for number in range(26)]
    return page(story_of_fleet(*fleet_story(vms, error="a very/long/path" * 40)))


@pytest.mark.parametrize("width", [360, 1280], ids=["phone", "desk"])
def test_every_figure_is_drawn_and_fits(text: str, width: int, tmp_path: Path) -> None:
    seen = opened(tmp_path, text, width)
    assert [figure["id"] for figure in seen["figures"]] == FIGURES
    assert seen["wide"] <= width
    assert seen["scripts"] == 0
    assert seen["asked"] == 0
    for figure in seen["figures"]:
        assert figure["title"]
        assert len(figure["label"]) > len(figure["title"])
        assert figure["left"] >= 0
        assert figure["right"] <= width
        assert figure["height"] >= 80
        # Bars, beside the axes' lines.
        assert figure["shapes"] >= 2, figure["id"]
        assert figure["letters"] >= 8, "too small to be read"


def test_a_page_is_dark_at_night(text: str, tmp_path: Path) -> None:
    day = opened(tmp_path, text, 800, "--blink-settings=preferredColorScheme=1")
    night = opened(tmp_path, text, 800, "--blink-settings=preferredColorScheme=0")
    assert (day["paper"], night["paper"]) == ("rgb(255, 255, 255)", "rgb(20, 24, 29)")
    assert (day["figures"][0]["ink"], night["figures"][0]["ink"]) == ("rgb(28, 36, 48)", "rgb(228, 232, 238)")
