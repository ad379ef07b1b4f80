"""Real guests that share an emulated accelerator: by weight, and with or without device and scheduler."""

import re
import time
from collections.abc import Collection, Iterator
from pathlib import Path

import psutil
import pytest

from tests.demo.running_guest import wait_until
from tests.fleet.kuaka_command import KuakaCommand, nothing_survives, processes, wait_nothing_runs
from tests.needs import need

pytestmark = [pytest.mark.qemu, pytest.mark.ray, pytest.mark.timeout(240)]

DEVICES = Path(__file__).parents[2] / "examples" / "devices"
LIMIT_S = 200.0


@pytest.fixture(autouse=True)
def _tidy(home: Path) -> Iterator[None]:
    need("qemu-system-x86_64")
    with nothing_survives(home):
        yield


def demo(home: Path, *options: str) -> KuakaCommand:
    devices = str(DEVICES / "iaa-small.yaml")
    return KuakaCommand(home, "demo", "--devices", devices, "--dirty-rate", "2MiB", "-o", "json", *options)


def the_one(home: Path, words: str) -> psutil.Process:
    """A process of the demo, once it is there and the first pages have moved."""
    wait_until(lambda: bool(processes(home, words)), f"{words} runs", LIMIT_S)
    return processes(home, words)[0]


def check(command: KuakaCommand, formats: Collection[str] = ("deflate", "none")) -> None:
    assert command.end(LIMIT_S) == 0, command.stderr
    for migration in command.migrations:
        assert (migration["status"], migration["verified"], migration["wrong_pages"]) == ("completed", True, 0)
        assert migration["codec_pages"].keys() <= set(formats)


def test_guests_share_a_device_and_arrive_whole(home: Path) -> None:
    command = demo(home, "--vms", "2", "--memory", "128MiB", "--weights", "1,3")
    check(command)
    for migration in command.migrations:
        assert migration["accelerator_pages"] > 0
        assert migration["class"] == "bulk"
        assert migration["busy_retries"] == 0
        assert migration["accelerator_pages"] + migration["cpu_pages"] == sum(migration["codec_pages"].values())
    wait_nothing_runs(home)


@pytest.mark.long
@pytest.mark.parametrize(
    ("file", "options", "kinds"),
    [
        ("qat.yaml", ("--codec", "qat"), {"qat"}),
        ("qat.yaml", ("--codec", "qat-raw"), {"qat"}),
        ("iaa-and-qat.yaml", (), {"iaa"}),
        ("dsa.yaml", ("--codec", "deflate"), set()),
    ],
)
def test_guests_arrive_whole_by_every_binding(home: Path, file: str, options: tuple[str, ...], kinds: set[str]) -> None:
    words = ("--devices", str(DEVICES / file), "--dirty-rate", "2MiB", "--memory", "128MiB", "-o", "json")
    command = KuakaCommand(home, "demo", *words, *options)
    check(command, formats={"deflate", "qat", "qat-raw", "none"})
    for migration in command.migrations:
        assert set(migration["accelerators"]) >= kinds
        assert sum(migration["accelerators"].values()) == migration["accelerator_pages"]
    wait_nothing_runs(home)


@pytest.mark.parametrize("victim", ["emulated_device", "ray::SchedulerShell"])
def test_run_completes_when_a_device_or_the_scheduler_is_killed_in_the_middle(home: Path, victim: str) -> None:
    command = demo(home, "--vms", "2", "--memory", "128MiB", "--link-rate", "20MB")
    wait_until(lambda: bool(processes(home, "-incoming defer")), "the migrations begin", LIMIT_S)
    time.sleep(1.0)
    the_one(home, victim).kill()
    check(command)
    wait_nothing_runs(home)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (("--weights", "1,2,3"), "--weights: 3 weights for 2 guests"),
        (("--weights", "0,1"), "each is a whole number from 1"),
        (("--weights", "a,b"), "give whole numbers with commas"),
        (("--codec", "zstd"), "no accelerator makes it: use --codec deflate"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(home: Path, options: tuple[str, ...], problem: str) -> None:
    command = demo(home, *options)
    assert command.end(LIMIT_S) == 2
    (line,) = command.said
    assert re.search(re.escape(problem), line)


def test_device_file_that_cannot_be_used_is_refused_in_one_line(home: Path, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text((DEVICES / "iaa-small.yaml").read_text().replace("kind: iaa\n", "kind: gpu\n"))
    command = KuakaCommand(home, "demo", "--devices", str(wrong))
    assert command.end(LIMIT_S) == 4
    (line,) = command.said
    assert "gpu" in line
    assert str(wrong) in line
