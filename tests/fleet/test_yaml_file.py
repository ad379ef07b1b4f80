"""Hostile and mistaken YAML: one line, quickly, in little memory."""

import os
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import SpecError
from pipeline.fleet.yaml_file import MAX_DEPTH, MAX_FILE_BYTES, read_yaml


def read(tmp_path: Path, text: str | bytes) -> Any:
    path = tmp_path / "spec.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_yaml(path)


def refusal(tmp_path: Path, text: str | bytes) -> str:
    with pytest.raises(SpecError) as caught:
        read(tmp_path, text)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 600
    assert message.startswith(f"{tmp_path}/spec.yaml: ")
    return message.removeprefix(f"{tmp_path}/spec.yaml: ")


def test_plain_data_comes_out(tmp_path: Path) -> None:
    text = "# a comment\na: [1, 2.5, true, null, text]\nb: {c: none, d: '7'}\n"
    assert read(tmp_path, text) == {"a": [1, 2.5, True, None, "text"], "b": {"c": "none", "d": "7"}}


def test_a_byte_order_mark_is_no_part_of_the_document(tmp_path: Path) -> None:
    assert read(tmp_path, "a: 1".encode("utf-8-sig")) == {"a": 1}


def test_aliases_and_merges_save_repetition(tmp_path: Path) -> None:
    text = "base: &base {host: a, cleanup: [x]}\none: {<<: *base, host: b}\ntwo: *base\n"
    assert read(tmp_path, text)["one"] == {"host": "b", "cleanup": ["x"]}
    assert read(tmp_path, text)["two"] == {"host": "a", "cleanup": ["x"]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: [1, 2\nc: 3\n", "line 3: did not find expected ',' or ']'"),
        ("a: 1\n\tb: 2\n", "line 2: found a tab character that violates indentation"),
        ("a: *missing", "line 1: found undefined alias"),
        ("a: 1\n---\nb: 2\n", "line 2: but found another document"),
        ("a: 1\nb: 2\na: 3\n", "line 3: 'a' is given twice: keep one of them"),
        ("a:\n  - {x: 1, x: 2}\n", "line 2: 'x' is given twice"),
        (f"a: !{'x' * 100_000} 1", "line 1: could not determine a constructor"),
        ("a: !!python/object/apply:os.getpid []", "line 1: could not determine a constructor"),
        ("? [a]\n: 1\n", "line 1: found unhashable key"),
        ("a: &a [1, *a]\n", "line 1: an alias contains itself"),
        ("a: &a {<<: *a}\n", "line 1: an alias contains itself"),
        ("a: 2026-02-30\n", "is not YAML: day is out of range for month"),
        ("a: " + "9" * 5000, "is not YAML: Exceeds the limit"),
        ("", "is empty: write a spec into it"),
        ("# nothing\n", "is empty"),
        (b"a: 1\nb: \xff\n", "line 2: is not UTF-8 text"),
        ("a: \x00\n", "control characters are not allowed"),
    ],
)
def test_a_mistake_is_one_line_that_says_where(tmp_path: Path, text: str | bytes, message: str) -> None:
    assert message in refusal(tmp_path, text)


@pytest.mark.parametrize("brackets", [MAX_DEPTH + 1, 100_000])
@pytest.mark.parametrize("opening", ["[", "{a: ", "- "])
def test_depth_ends_the_reading_and_not_the_process(tmp_path: Path, opening: str, brackets: int) -> None:
    assert f"nested more than {MAX_DEPTH} deep" in refusal(tmp_path, opening * brackets)


def test_depth_made_of_aliases_counts_too(tmp_path: Path) -> None:
    lines = ["a0: &a0 [1]"] + [f"a{n}: &a{n} [*a{n - 1}]" for n in range(1, 2000)]
    assert "deep with its aliases written out" in refusal(tmp_path, "\n".join(lines))


@pytest.mark.parametrize(
    "line", ["a{0}: &a{0} [{1}]", "a{0}: &a{0} {{<<: [{1}]}}"], ids=["ten times each", "merged ten times each"]
)
def test_an_alias_bomb_is_counted_and_not_exploded(tmp_path: Path, line: str) -> None:
    bomb = ["a0: &a0 {x: 1}"] + [line.format(n, ", ".join([f"*a{n - 1}"] * 10)) for n in range(1, 12)]
    before = time.process_time()
    assert "values with its aliases written out" in refusal(tmp_path, "\n".join(bomb))
    assert time.process_time() - before < 2


def test_a_large_file_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "spec.yaml"
    with path.open("wb") as file:
        file.truncate(MAX_FILE_BYTES * 1000)
    with pytest.raises(SpecError, match="is larger than 8 MiB"):
        read_yaml(path)


def test_what_is_no_file_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, message in (
        (tmp_path / "missing", "cannot be read: No such file or directory"),
        (tmp_path, "is not a file"),
        (tmp_path / "pipe", "is not a file"),
    ):
        with pytest.raises(SpecError, match=message):
            read_yaml(path)


@settings(deadline=None)
@given(st.binary(max_size=200) | st.text(alphabet="ab&*<{}[]:,-? \n!|>'\"#%@", max_size=80).map(str.encode))
def test_any_bytes_are_data_or_one_line(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzzed.yaml"
    path.write_bytes(data)
    try:
        read_yaml(path)
    except SpecError as error:
        lines = str(error).splitlines()
    else:
        lines = []
    assert len(lines) <= 1
