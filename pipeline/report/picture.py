"""One figure of a page: drawn by matplotlib, turned into an SVG element that goes into HTML as it is.

matplotlib is imported here and nowhere else, because it takes half a second: import this module where it is needed.
Ink and lines get colours that stand for CSS variables, so that a page is dark or light without being drawn twice;
text stays text. An SVG names nothing outside itself, and its ids begin with the picture's name.
"""

import io
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree as ET

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

#: Wide enough for a phone held upright; more height costs nothing there.
WIDTH_IN = 4.6
#: Stand for the page's own colours; see `_INKS`.
INK, FAINT = "#010203", "#010204"
_INKS = {INK: "var(--ink)", FAINT: "var(--faint)"}
_FONT_PT = 8
_STYLE: Any = {
    "svg.fonttype": "none",
    # The same picture has the same text every time.
    "svg.hashsalt": "kuaka",
    "text.parse_math": False,
    "font.family": "sans-serif",
    "font.size": _FONT_PT,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.unicode_minus": False,
    "text.color": INK,
    "xtick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.color": FAINT,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
}
_NO_METADATA: dict[str, str | None] = {"Creator": None, "Date": None, "Format": None, "Type": None}


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a colour of a picture means; `sign` where it is no filled bar."""

    #: As CSS has it.
    colour: str
    words: str
    sign: str = "\N{BLACK SQUARE}"


@dataclass(frozen=True, slots=True)
class Picture:
    """A figure and its words."""

    #: The figure's id in the page, and what its SVG's ids begin with.
    name: str
    title: str
    #: What a reader who cannot see it is told, and a line beneath it for everybody.
    label: str
    note: str
    svg: str
    legend: tuple[Meaning, ...] = ()


def draw(name: str, height_in: float, paint: Callable[[Axes], None]) -> str:
    """The `<svg>` element of what `paint` puts on a pair of axes."""
    with _style():
        figure = Figure(figsize=(WIDTH_IN, height_in), layout="constrained")
        FigureCanvasSVG(figure)
        paint(figure.add_subplot())
        text = io.BytesIO()
        figure.savefig(text, format="svg", transparent=True, metadata=_NO_METADATA)
    root = ET.fromstring(text.getvalue())
    _make_inline(root, name)
    return ET.tostring(root, encoding="unicode")


@contextmanager
def _style() -> Iterator[None]:
    with mpl.rc_context(_STYLE), warnings.catch_warnings():
        # Names may be in scripts that the font used for measuring lacks; the reader's has them.
        warnings.filterwarnings("ignore", message="Glyph")
        yield


def _make_inline(root: ET.Element, name: str) -> None:
    for parent in list(root.iter()):
        for child in [child for child in parent if child.tag.endswith("}metadata")]:
            parent.remove(child)
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        for key, value in list(element.attrib.items()):
            del element.attrib[key]
            element.set(key.rpartition("}")[2], _own(key, value, name))
    for key in ("width", "height", "version"):
        root.attrib.pop(key, None)
    # The page's figure says what it shows.
    root.set("aria-hidden", "true")


def _own(key: str, value: str, name: str) -> str:
    """An attribute's value with the page's colours, and with ids that no other picture has."""
    if key == "id":
        return f"{name}-{value}"
    if key.endswith("href") and value.startswith("#"):
        return f"#{name}-{value[1:]}"
    value = value.replace("url(#", f"url(#{name}-")
    for ink, variable in _INKS.items():
        value = value.replace(ink, variable)
    return value
