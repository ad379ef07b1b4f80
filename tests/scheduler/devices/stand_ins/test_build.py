"""Stand-ins are built once, anew when their sources change, and say in a line why they cannot be."""

import ctypes
import shutil
from pathlib import Path

import pytest

from scheduler.devices.stand_ins import build as build_module
from scheduler.devices.stand_ins.build import SOURCES, StandInError, build
from tests.needs import need


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A place with the client's sources and a library's to play with."""
    need("cc")
    place = tmp_path / "sources"
    place.mkdir()
    for each in SOURCES.glob("emulated_client.*"):
        shutil.copy(each, place)
    (place / "toy.c").write_text("int toy(void);\nint toy(void) { return 7; }\n")
    monkeypatch.setattr(build_module, "SOURCES", place)
    return place


@pytest.mark.parametrize("name", sorted(each.stem for each in SOURCES.glob("lib*.c")))
def test_every_stand_in_compiles_and_can_be_connected_to_a_device(name: str, tmp_path: Path) -> None:
    need("cc")
    library = ctypes.CDLL(str(build(name, tmp_path / "cache")))
    assert library.kuaka_stand_in_connect(str(tmp_path / "none").encode()) != 0


def test_second_build_is_the_first_one_s_file(sources: Path, tmp_path: Path) -> None:
    first = build("toy", tmp_path / "cache")
    written_ns = first.stat().st_mtime_ns
    assert build("toy", tmp_path / "cache") == first
    assert first.stat().st_mtime_ns == written_ns
    assert list((tmp_path / "cache").iterdir()) == [first]


@pytest.mark.parametrize("changed", ["toy.c", "emulated_client.h"])
def test_changed_source_is_another_library(sources: Path, tmp_path: Path, changed: str) -> None:
    first = build("toy", tmp_path / "cache")
    with (sources / changed).open("a") as file:
        file.write("/* more */\n")
    assert build("toy", tmp_path / "cache") != first


def test_source_with_a_warning_is_refused_in_one_line(sources: Path, tmp_path: Path) -> None:
    (sources / "toy.c").write_text("static int unused;\n")
    with pytest.raises(StandInError, match=r"toy does not compile: .*unused") as refused:
        build("toy", tmp_path / "cache")
    assert "\n" not in str(refused.value)
    assert list((tmp_path / "cache").iterdir()) == []


def test_no_compiler_is_said_with_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(StandInError, match="needs a C compiler: install gcc"):
        build("emulated_client", tmp_path / "cache")


def test_unknown_stand_in_and_a_directory_that_is_none_are_refused(sources: Path, tmp_path: Path) -> None:
    with pytest.raises(StandInError, match=r"nothing\.c"):
        build("nothing", tmp_path / "cache")
    (tmp_path / "file").write_text("")
    with pytest.raises(StandInError, match="cannot be built in"):
        build("toy", tmp_path / "file")
