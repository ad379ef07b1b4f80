"""`kuaka demo` as a user runs it: a command of its own, real guests, and nothing of it afterwards."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from pipeline.demo.ram_check import RamComparison
from pipeline.demo.run import verdict
from pipeline.errors import ExitCode
from pipeline.fleet.results import MigrationResult, Status, exit_code

MIB = 1 << 20
#: A job of a shell that runs in the background has SIGINT ignored, and so have its children.
HEEDS_CTRL_C = "import signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
RUNS = HEEDS_CTRL_C + "from pipeline.cli import main\nmain()\n"
NO_QEMU = "from pathlib import Path\nfrom pipeline.demo import qemu_binary\nqemu_binary._CACHED = Path('none')\n"
SOON_S = 60.0
SHARED_MEMORY = Path("/dev/shm")


@dataclass(frozen=True, slots=True)
class Demo:
    """Starts `kuaka demo`; `directory` is for its state and sockets alone, and tells its processes from others."""

    directory: Path

    def start(self, *words: str, code: str = RUNS, **environment: str) -> subprocess.Popen[str]:
        own = {"KUAKA_STATE": f"{self.directory}/state", "KUAKA_RUNTIME": f"{self.directory}/run"}
        return subprocess.Popen(
            [sys.executable, "-c", code, "demo", *words, "-o", "json"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
            env={**os.environ, **own, **environment},
        )

    def runtime_files(self) -> list[Path]:
        return sorted((self.directory / "run").glob("demo-*"))

    def processes(self) -> list[str]:
        """Everything that was started by it and still runs: all of it has its directory in the environment."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                ours = process.environ().get("KUAKA_RUNTIME") == f"{self.directory}/run"
                if ours and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(" ".join(process.cmdline()))
        return found

    def assert_nothing_stays(self) -> None:
        wait_for(lambda: not self.processes(), self.processes)
        assert self.runtime_files() == []


@pytest.fixture
def demo() -> Iterator[Demo]:
    # pytest's own directories may be too long for sockets.
    with tempfile.TemporaryDirectory(prefix="kd-", dir="/tmp") as directory:
        yield Demo(Path(directory))


def wait_for(condition: Callable[[], object], what: Callable[[], object]) -> None:
    deadline = time.monotonic() + SOON_S
    while not condition():
        assert time.monotonic() < deadline, f"not within {SOON_S} s: {what()}"
        time.sleep(0.05)


def migrations(finished: str) -> list[dict[str, Any]]:
    shown = json.loads(finished)
    assert set(shown) == {"migrations", "wall_s"}
    found: list[dict[str, Any]] = shown["migrations"]
    return found


def ram_of(demo_directory: Path) -> Path:
    return SHARED_MEMORY / f"kuaka-{demo_directory.name}"


@pytest.mark.qemu
@pytest.mark.ray
def test_guests_migrate_at_the_same_time_and_every_page_is_right(demo: Demo, qemu_72: Path, qemu_100: Path) -> None:
    process = demo.start(
        *("--memory", "64MiB", "--source-qemu", str(qemu_72), "--destination-qemu", str(qemu_100), "--codec", "lz4"),
        *("--channels", "2"),
    )
    out, err = process.communicate(timeout=SOON_S)
    assert process.returncode == ExitCode.OK, err
    found = migrations(out)
    assert [(vm["vm"], vm["kind"], vm["status"], vm["error"]) for vm in found] == [
        ("demo-1", "qemu", "completed", None),
        ("demo-2", "qemu", "completed", None),
    ]
    for vm in found:
        assert (vm["verified"], vm["wrong_pages"]) == (True, 0)
        assert vm["pages"] > 64 * MIB // 4096
        assert vm["raw_bytes"] == vm["pages"] * 4096 > vm["wire_bytes"]
        assert 0 < vm["zero_pages"] == vm["pages"] - sum(vm["codec_pages"].values())
        assert vm["downtime_ms"] > 0
        assert vm["rounds"] > 1
    assert sum(vm["total_ms"] for vm in found) > json.loads(out)["wall_s"] * 1000
    demo.assert_nothing_stays()


@pytest.mark.qemu
@pytest.mark.ray
@pytest.mark.usefixtures("qemu_72")
def test_ctrl_c_in_the_middle_leaves_nothing(demo: Demo) -> None:
    process = demo.start("--memory", "64MiB", "--link-rate", "2MB")
    # The second end of a guest appears when its migration begins, which takes a minute at this rate.
    wait_for(
        lambda: process.poll() is not None or [*demo.directory.glob("run/demo-*/destination-2.qmp")],
        lambda: "no destination",
    )
    places = demo.runtime_files()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=SOON_S)
    assert process.returncode == ExitCode.INTERRUPTED, err
    assert [vm["status"] for vm in migrations(out)] == ["cancelled", "cancelled"]
    demo.assert_nothing_stays()
    assert [place for place in places if ram_of(place).exists()] == []


@pytest.mark.ray
def test_without_a_qemu_images_move_instead_and_it_says_so(demo: Demo) -> None:
    process = demo.start("--memory", "32MiB", "--channels", "2", code=NO_QEMU + RUNS, PATH="/none")
    out, err = process.communicate(timeout=SOON_S)
    assert process.returncode == ExitCode.OK, err
    assert [line for line in err.splitlines() if "no QEMU was found" in line and "memory images" in line]
    for vm in migrations(out):
        assert (vm["kind"], vm["status"], vm["verified"], vm["wrong_pages"]) == ("image", "completed", True, 0)
        assert vm["pages"] == 32 * MIB // 4096
    demo.assert_nothing_stays()


def test_wrong_memory_fails_a_migration_that_completed() -> None:
    completed = MigrationResult("demo-1", "qemu", Status.COMPLETED)
    found = verdict(completed, RamComparison(65536, 2, (300, 301), 1, 2))
    assert (found.status, found.verified, found.wrong_pages) == (Status.COMPLETED, False, 2)
    assert found.error == "2 of 65536 pages are wrong, the first of them 300, 301"
    assert exit_code([found]) is ExitCode.FAILED
