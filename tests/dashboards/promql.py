"""What a query names, as far as a lint needs it: metrics, and the labels that it asks of them."""

import re
from collections.abc import Iterator

_STRING = re.compile(r'"[^"]*"')
_GROUPING = re.compile(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)")
_MATCHERS = re.compile(r"([A-Za-z_:][\w:]*)\s*\{([^}]*)\}")
_WORD = re.compile(r"(?<![\w$.])([A-Za-z_:][\w:]*)(?!\w)(?!\s*\()")
_KEYWORDS = {"and", "or", "unless", "bool", "offset"}


def metrics(expr: str) -> set[str]:
    """The names of all series that are selected."""
    bare = re.sub(r"\{[^}]*\}|\[[^\]]*\]|offset \w+", " ", _GROUPING.sub(" ", _STRING.sub("", expr)))
    return {word for word in _WORD.findall(bare) if word not in _KEYWORDS}


def matched_labels(expr: str) -> Iterator[tuple[str, set[str]]]:
    """Each selected metric with the labels in its braces."""
    for name, matchers in _MATCHERS.findall(_STRING.sub('""', expr)):
        yield name, set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", matchers))


def grouped_labels(expr: str) -> set[str]:
    """The labels that the result is grouped or joined by."""
    return {label.strip() for labels in _GROUPING.findall(_STRING.sub("", expr)) for label in labels.split(",")} - {""}
