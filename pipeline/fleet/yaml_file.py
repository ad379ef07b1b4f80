"""A YAML file as plain data: bounded in size, in depth and in what its aliases expand to; a mistake is one line.

The rule: nothing is built before it is known to be small. Aliases are allowed (a fleet repeats itself), but they
multiply: the document's size with every alias written out is what counts. Depth is looked at first of all, on the
event stream, because libyaml's composer recurses in C and a deep document would end the process. A key given twice is
a mistake here, not a choice.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from pipeline.errors import SpecError

MAX_FILE_BYTES = 8 << 20
MAX_DEPTH = 32
#: With every alias written out; the largest fleet there can be has a quarter of them.
MAX_NODES = 1_000_000
_MAX_MESSAGE_CHARACTERS = 300
_MERGE_TAG = "tag:yaml.org,2002:merge"


def read_yaml(path: Path) -> Any:
    """The one document in the file, as YAML 1.1's plain types; raises `SpecError` in one line."""
    text = _read(path)
    try:
        _check_depth(text)
        loader = yaml.CSafeLoader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                raise SpecError(f"{path}: is empty: write a spec into it")
            _Survey().visit(node)
            return loader.construct_document(node)
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise SpecError(f"{path}: line {mark.line + 1 if mark else 1}: {_one_line(error.problem or error)}") from None
    except (yaml.YAMLError, ValueError) as error:
        # Constructors of scalars raise ValueError: 2026-02-30 is no date.
        raise SpecError(f"{path}: is not YAML: {_one_line(error)}") from None


def _read(path: Path) -> str:
    try:
        if not path.is_file():
            # A pipe would be waited for.
            path.stat()
            raise SpecError(f"{path}: is not a file: name a spec file")
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise SpecError(f"{path}: cannot be read: {error.strerror}: check the path and its mode") from None
    if len(data) > MAX_FILE_BYTES:
        raise SpecError(f"{path}: is larger than {MAX_FILE_BYTES >> 20} MiB: split the fleet")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise SpecError(f"{path}: line {line}: is not UTF-8 text: save the file as UTF-8") from None


def _check_depth(text: str) -> None:
    depth = 0
    for event in yaml.parse(text, Loader=yaml.CSafeLoader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                raise _mistake(f"is nested more than {MAX_DEPTH} deep", event.start_mark)
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


class _Survey:
    """Measures a document with its aliases written out, each node looked at once."""

    def __init__(self) -> None:
        #: Nodes and depth below each node that is finished; None while it is being visited.
        self._measured: dict[int, tuple[int, int] | None] = {}

    def visit(self, node: yaml.Node) -> tuple[int, int]:
        """Nodes in and under `node`, and their depth. Bounded recursion: aliases refer to what was visited before."""
        known = self._measured.get(id(node), (0, 0))
        if known is None:
            raise _mistake("an alias contains itself", node.start_mark)
        if known[0]:
            return known
        self._measured[id(node)] = None
        nodes, depth = 1, 0
        for child in _children(node):
            more, deeper = self.visit(child)
            nodes, depth = nodes + more, max(depth, deeper)
            if nodes > MAX_NODES:
                raise _mistake(f"has more than {MAX_NODES} values with its aliases written out", node.start_mark)
        if depth >= MAX_DEPTH:
            raise _mistake(f"is nested more than {MAX_DEPTH} deep with its aliases written out", node.start_mark)
        self._measured[id(node)] = nodes, depth + 1
        return nodes, depth + 1


def _children(node: yaml.Node) -> Iterator[yaml.Node]:
    if isinstance(node, yaml.SequenceNode):
        yield from node.value
    elif isinstance(node, yaml.MappingNode):
        keys: set[str] = set()
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != _MERGE_TAG:
                if key.value in keys:
                    raise _mistake(f"{key.value[:80]!r} is given twice: keep one of them", key.start_mark)
                keys.add(key.value)
            yield key
            yield value


def _mistake(text: str, mark: Any) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=text, problem_mark=mark)


def _one_line(text: object) -> str:
    return " ".join(str(text).split())[:_MAX_MESSAGE_CHARACTERS]
