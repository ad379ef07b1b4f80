"""The commands in README and docs/: each exists with its options, those that need nothing are run as they stand."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from pipeline.cli import app
from pipeline.errors import ExitCode
from scheduler.core.effects import Reason
from scheduler.flow_state import UNKNOWN, USED_UP
from tests.fleet.live_pair import short_directory

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "helm" / "kuaka" / "README.md"]
_BLOCK = re.compile(r"^ *```(?:console|sh)?\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"`((?:kuaka|make) [^`]+)`")
#: What begins a command: a prompt, or the indentation of a block.
_COMMAND = re.compile(r"^(?:\w*\$ | {4})(?:.* -- )?((?:kuaka|make) .+)$")
#: They need neither a cluster nor QEMU, and take seconds.
RUN_HERE = (
    "kuaka plan examples/rack-drain-fleet.yaml",
    "kuaka devices list",
    pytest.param("kuaka devices plan --devices 1 --kind dsa", marks=pytest.mark.long),
    pytest.param("kuaka devices plan --devices 1 --kind iaa", marks=pytest.mark.long),
    pytest.param("kuaka simulate hundred-vms --no-sweep", marks=pytest.mark.long),
    pytest.param("kuaka simulate busy-iaa", marks=pytest.mark.long),
    pytest.param("kuaka simulate busy-iaa --policy retry --policy kuaka -o json", marks=pytest.mark.long),
    pytest.param("kuaka simulate priorities", marks=pytest.mark.long),
    pytest.param("kuaka simulate dsa-zero --no-sweep", marks=pytest.mark.long),
    pytest.param("kuaka simulate calibration", marks=pytest.mark.long),
)


@pytest.fixture
def home() -> Iterator[Path]:
    """A directory of few letters."""
    with short_directory() as directory:
        yield directory


def commands(page: Path) -> Iterator[list[str]]:
    """The words of each, without what the shell does with it."""
    text = page.read_text()
    lines = [line for block in _BLOCK.findall(text) for line in block.replace("\\\n", " ").splitlines()]
    lines += [line for line in text.splitlines() if line.startswith("    kuaka ")]
    found = [command[1] for line in lines if (command := _COMMAND.match(line))]
    found += [re.sub(r"\s+", " ", inline) for inline in _INLINE.findall(text)]
    for command in found:
        for part in command.partition(" #")[0].split("; "):
            yield shlex.split(part.partition(">")[0])


def problem(words: list[str]) -> str | None:
    """What a command has that kuaka has not."""
    command: Any = get_command(app)
    rest = list(words[1:])
    while hasattr(command, "commands") and rest and not rest[0].startswith("-"):
        name = rest.pop(0)
        if name not in command.commands:
            return f"no command {name}"
        command = command.commands[name]
    known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    unknown = [word for word in rest if word.startswith("-") and word != "-" and word.partition("=")[0] not in known]
    return f"no option {unknown[0]}" if unknown and unknown[0] != "--help" else None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_exists_with_its_options(page: Path) -> None:
    wrong = [(shlex.join(words), said) for words in commands(page) if words[0] == "kuaka" and (said := problem(words))]
    assert wrong == []


def test_a_command_that_there_is_not_would_be_found() -> None:
    assert problem(["kuaka", "fly", "south"]) == "no command fly"
    assert problem(["kuaka", "gateway", "source", "--sockets", "x"]) == "no option --sockets"
    assert problem(["kuaka", "report", "drain", "-o", "-"]) is None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_target_of_make_exists(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    asked = {words[1] for words in commands(page) if words[0] == "make"}
    assert asked <= targets


@pytest.mark.parametrize("command", RUN_HERE)
def test_a_command_that_needs_nothing_is_run_as_it_stands(command: str) -> None:
    assert any(command == shlex.join(words) for page in PAGES for words in commands(page)), "no page has it any more"
    run = subprocess.run(
        [Path(sys.executable).with_name("kuaka"), *command.split()[1:]],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout


@pytest.mark.long
@pytest.mark.ray
@pytest.mark.timeout(200)
def test_the_first_migration_of_the_readme_arrives(home: Path) -> None:
    (block,) = [block for block in _BLOCK.findall(PAGES[0].read_text()) if "examples/image-fleet.yaml" in block]
    lines = [line.removeprefix("$ ").replace("/var/tmp", str(home)) for line in block.splitlines()]
    spec = (ROOT / "examples/image-fleet.yaml").read_text().replace("/var/tmp", str(home))
    (home / "fleet.yaml").write_text(spec)
    script = " && ".join(lines).replace("examples/image-fleet.yaml", str(home / "fleet.yaml"))
    bin_directory = Path(sys.executable).parent
    places = {"KUAKA_STATE": f"{home}/state", "KUAKA_RUNTIME": f"{home}/run"}
    run = subprocess.run(
        ["bash", "-c", script],
        cwd=ROOT,
        env={**os.environ, **places, "PATH": f"{bin_directory}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
        timeout=180,
    )
    assert run.returncode == 0, run.stderr
    assert "completed" in run.stdout
    assert list((home / "moved").iterdir())


def test_every_reason_for_a_batch_without_credit_is_explained() -> None:
    table = (ROOT / "docs/exit-codes.md").read_text().partition("## Why a batch got no credit")[2]
    explained = {
        reason for row in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE) for reason in re.findall("`(.*?)`", row)
    }
    assert explained == {*(reason.value for reason in Reason), USED_UP, UNKNOWN}


def test_every_exit_code_says_what_to_do() -> None:
    table = (ROOT / "docs/exit-codes.md").read_text().partition("## By exit code")[2].partition("## ")[0]
    assert {int(code) for code in re.findall(r"^\| (\d+) \|", table, re.MULTILINE)} == {*ExitCode} - {ExitCode.OK}
