"""The emulated device as a process: it dies, its clients die, its parent dies, and nobody waits for ever."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from scheduler.devices.device import DeviceDown, Operation, Status
from scheduler.devices.emulated.client import DeviceObserver, EmulatedDevice
from tests.conftest import ROOT
from tests.scheduler.devices.served_device import (
    DATA_BYTES,
    LONG_NS,
    await_true,
    device_process,
    jobs,
    occupancy,
)

SMALL = ROOT / "examples/devices/iaa-small.yaml"
#: Every descriptor takes a second.
SLOW = """
apiVersion: kuaka/v1
kind: EmulatedDevice
metadata: {name: slow}
spec: {kind: iaa, size: 32, engines: 1, operations: {compress: {fixedNs: 1000000000, nsPerByte: 1}}}
"""

CLIENT = """
import sys, time
from pathlib import Path
from scheduler.devices.device import Operation
from scheduler.devices.emulated.client import EmulatedDevice
from tests.scheduler.devices.served_device import DATA_BYTES, jobs
device = EmulatedDevice.open(Path(sys.argv[1]), DATA_BYTES)
print(device.submit(Operation.COMPRESS, jobs(20)), flush=True)
time.sleep(60)
"""


@pytest.fixture
def slow_file(tmp_path: Path) -> Path:
    file = tmp_path / "slow.yaml"
    file.write_text(SLOW)
    return file


def test_preset_serves_real_streams(tmp_path: Path) -> None:
    with device_process(SMALL, tmp_path / "device"):
        assert (tmp_path / "device").stat().st_mode & 0o777 == 0o600
        device = EmulatedDevice.open(tmp_path / "device", DATA_BYTES)
        assert device.submit(Operation.COMPRESS, jobs(64)) == 64
        assert device.wait(LONG_NS)
        assert set(device.status[:64].tolist()) == {Status.OK}


def test_killed_device_is_down_for_clients_that_wait_and_for_those_that_come(tmp_path: Path, slow_file: Path) -> None:
    path = tmp_path / "device"
    with device_process(slow_file, path) as process:
        waiting, submitting = (EmulatedDevice.open(path, DATA_BYTES) for _ in range(2))
        assert waiting.submit(Operation.COMPRESS, jobs(8)) == 8
        down: list[DeviceDown] = []

        def wait() -> None:
            try:
                waiting.wait(LONG_NS)
            except DeviceDown as error:
                down.append(error)

        thread = threading.Thread(target=wait)
        thread.start()
        process.kill()
        thread.join(10)
        assert len(down) == 1
        with pytest.raises(DeviceDown):
            submitting.submit(Operation.COMPRESS, jobs(8))
        with pytest.raises(DeviceDown):
            EmulatedDevice.open(path, DATA_BYTES)


def test_device_that_is_stopped_is_down_within_the_bound_of_an_answer(tmp_path: Path, slow_file: Path) -> None:
    with device_process(slow_file, tmp_path / "device") as process:
        device = EmulatedDevice.open(tmp_path / "device", DATA_BYTES)
        process.send_signal(signal.SIGSTOP)
        with pytest.raises(DeviceDown, match="does not answer"):
            device.submit(Operation.COMPRESS, jobs(8))


def test_killed_client_frees_its_entries(tmp_path: Path, slow_file: Path) -> None:
    path = tmp_path / "device"
    with device_process(slow_file, path):
        client = subprocess.Popen([sys.executable, "-c", CLIENT, str(path)], cwd=ROOT, stdout=subprocess.PIPE)
        assert client.stdout is not None
        assert client.stdout.readline() == b"20\n"
        observer = DeviceObserver(path)
        assert occupancy(observer) == 20
        client.kill()
        client.wait()
        client.stdout.close()
        await_true(lambda: occupancy(observer) == 0)
        assert EmulatedDevice.open(path, DATA_BYTES).submit(Operation.COMPRESS, jobs(32)) == 32


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_device_that_is_told_to_end_ends_quietly_and_takes_its_socket_with_it(tmp_path: Path, number: int) -> None:
    path = tmp_path / "device"
    with device_process(SMALL, path) as process:
        device = EmulatedDevice.open(path, DATA_BYTES)
        process.send_signal(number)
        assert process.wait(10) == 0
        assert process.stderr is not None
        assert process.stderr.read() == b""
        assert not path.exists()
        with pytest.raises(DeviceDown):
            device.submit(Operation.COMPRESS, jobs(1))


def test_device_ends_with_its_parent(tmp_path: Path) -> None:
    path = tmp_path / "device"
    start = (
        "import subprocess, sys, time\n"
        f"arguments = [{str(SMALL)!r}, '--socket', {str(path)!r}]\n"
        "command = [sys.executable, '-P', '-m', 'pipeline.emulated_device', *arguments]\n"
        "print(subprocess.Popen(command).pid, flush=True)\n"
        "time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", start], cwd=ROOT, stdout=subprocess.PIPE)
    assert parent.stdout is not None
    device = int(parent.stdout.readline())
    try:
        await_true(path.exists)
        parent.kill()
        parent.wait()
        await_true(lambda: not path.exists())
    finally:
        parent.stdout.close()
        if path.exists():
            os.kill(device, signal.SIGKILL)


@pytest.mark.parametrize(
    ("arguments", "code", "line"),
    [
        (["none.yaml"], 4, "none.yaml: cannot be read: No such file or directory: check the path and its mode"),
        ([str(SMALL), "--device", "dsa"], 2, "--device dsa: choose one of iaa-small"),
    ],
)
def test_refusal_is_one_line_and_its_exit_code(tmp_path: Path, arguments: list[str], code: int, line: str) -> None:
    command = [sys.executable, "-m", "pipeline.emulated_device", *arguments, "--socket", str(tmp_path / "device")]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (answer.returncode, answer.stderr) == (code, f"{line}\n")
