"""Nothing of a demo stays, whatever happens to it. A QEMU is played by a shell that was given its pid file."""

import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from pipeline.demo.place import choose_ram_directory, demo_place
from pipeline.demo.removal import cleanup_command, end_qemu, remove_demo
from pipeline.errors import UsageError

SOON_S = 10.0
PLAYED = 'echo $$ >"$1.new" && mv "$1.new" "$1" && while :; do sleep 0.1; done'


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SOON_S
    while not condition():
        assert time.monotonic() < deadline, "not within the time"
        time.sleep(0.01)


def gone(process: psutil.Process) -> bool:
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.fixture
def play_qemu() -> Iterator[Callable[[Path], psutil.Process]]:
    """Starts something that runs until it is killed, and has its pid file among its words."""
    played: list[subprocess.Popen[bytes]] = []

    def play(pid_file: Path) -> psutil.Process:
        played.append(subprocess.Popen(["/bin/sh", "-c", PLAYED, "sh", str(pid_file)]))
        wait_for(pid_file.exists)
        return psutil.Process(played[-1].pid)

    yield play
    for process in played:
        process.kill()
        process.wait()


Play = Callable[[Path], psutil.Process]


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    # pytest's own directories may be too long for sockets.
    with tempfile.TemporaryDirectory(prefix="kd-", dir="/tmp") as directory:
        monkeypatch.setenv("KUAKA_RUNTIME", directory)
        yield Path(directory)


def test_qemus_end_and_directories_go(tmp_path: Path, play_qemu: Play) -> None:
    directories = (tmp_path / "sockets", tmp_path / "ram")
    for directory in directories:
        directory.mkdir()
    (tmp_path / "ram/source-1").write_bytes(b"x")
    qemus = [play_qemu(tmp_path / f"sockets/{name}.pid") for name in ("source-1", "destination-1")]
    remove_demo(directories)
    wait_for(lambda: all(map(gone, qemus)))
    assert list(tmp_path.iterdir()) == []


def test_a_number_that_was_given_to_another_process_is_left_alone(tmp_path: Path, play_qemu: Play) -> None:
    other = play_qemu(tmp_path / "other.pid")
    pid_file = tmp_path / "mine.pid"
    pid_file.write_text(str(other.pid))
    end_qemu(pid_file)
    time.sleep(0.1)
    assert not gone(other)


@pytest.mark.parametrize("text", ["", "x", "999999999"])
def test_a_pid_file_that_says_nothing_is_no_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.pid").write_text(text)
    end_qemu(tmp_path / "a.pid")
    end_qemu(tmp_path / "none.pid")


def test_cleanup_ends_one_qemu_and_may_run_again(tmp_path: Path, play_qemu: Play) -> None:
    kept, ended = play_qemu(tmp_path / "kept.pid"), play_qemu(tmp_path / "ended.pid")
    ram = tmp_path / "ram"
    ram.write_bytes(b"x")
    for _ in range(2):
        subprocess.run(cleanup_command(tmp_path / "ended.pid", ram), check=True)
    wait_for(lambda: gone(ended))
    assert not gone(kept)
    assert [path.name for path in tmp_path.iterdir()] == ["kept.pid"]


def test_the_place_goes_with_all_in_it_when_the_demo_fails(runtime: Path, play_qemu: Play) -> None:
    qemus: list[psutil.Process] = []

    def fail() -> None:
        with demo_place(1 << 20) as place:
            (place.ram / "source-1").write_bytes(b"x")
            qemus.append(play_qemu(place.sockets / "source-1.pid"))
            raise RuntimeError(str(place.ram))

    with pytest.raises(RuntimeError) as failure:
        fail()
    wait_for(lambda: gone(qemus[0]))
    assert (list(runtime.iterdir()), Path(str(failure.value)).exists()) == ([], False)


def test_nothing_stays_when_the_demo_is_killed(runtime: Path, play_qemu: Play) -> None:
    code = "import time\nfrom pipeline.demo.place import demo_place\n"
    code += "with demo_place(1 << 20) as place:\n    print(place.sockets, place.ram, flush=True)\n    time.sleep(60)\n"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as demo:
        assert demo.stdout is not None
        sockets, ram = map(Path, demo.stdout.readline().split())
        qemu = play_qemu(sockets / "destination-1.pid")
        demo.send_signal(signal.SIGKILL)
        wait_for(lambda: gone(qemu) and not sockets.exists() and not ram.exists())
    wait_for(lambda: list(runtime.iterdir()) == [])


def test_ram_goes_where_there_is_room(tmp_path: Path) -> None:
    assert choose_ram_directory(1 << 20, (Path("/no/such"), tmp_path)) == tmp_path


def test_no_room_is_one_line_with_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=rf"need 1024 TiB .*, {tmp_path} has .*: use fewer --vms or less --memory$"):
        choose_ram_directory(1 << 50, (tmp_path,))
