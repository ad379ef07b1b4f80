"""A file that a user asked for is replaced as a whole or not at all."""

import os
from pathlib import Path

import pytest

from pipeline.errors import KuakaError
from pipeline.whole_file import write_whole


def test_a_file_replaces_the_old_one_as_a_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page, link = tmp_path / "page.html", tmp_path / "link.html"
    link.symlink_to(page)
    write_whole(link, "first", "--output")
    assert link.is_symlink()
    write_whole(page, "second", "--output")
    assert page.read_text() == "second"

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(KuakaError, match=r"^--output .*page.html: No space left on device: give a file that can be"):
        write_whole(page, "third", "--output")
    assert page.read_text() == "second"
    assert sorted(tmp_path.iterdir()) == [link, page]


def test_a_device_is_written_to_and_not_replaced() -> None:
    write_whole(Path("/dev/null"), "gone", "--output")
    assert Path("/dev/null").is_char_device()
