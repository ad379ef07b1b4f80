"""An emulated accelerator as a process: `python -m pipeline.emulated_device FILE.yaml --socket PATH [--device NAME]`.

The scheduler's emulation knows queues and time; this hands it the arithmetic. The device ends with whoever started it,
with SIGTERM and with Ctrl-C, and takes its socket with it.
"""

import argparse
import os
import signal
import socket
import sys
from pathlib import Path

from pipeline.codecs.deflate import HISTORY_BITS
from pipeline.codecs.device_arithmetic import DeflateArithmetic
from pipeline.codecs.gzip_extended import HISTORY_BITS as QAT_HISTORY_BITS
from pipeline.control import listen_unix
from pipeline.errors import KuakaError, SpecError, UsageError
from scheduler.core.units import AcceleratorKind
from scheduler.devices.emulated.schedule import fault_drawer
from scheduler.devices.emulated.server import DeviceServer
from scheduler.devices.spec import EmulatedDeviceSpec
from scheduler.devices.spec_file import DeviceSpecError, load_devices

_BACKLOG = 64


def read_devices(path: Path) -> tuple[EmulatedDeviceSpec, ...]:
    """The devices declared in a file; raises `SpecError`."""
    try:
        return load_devices(path)
    except DeviceSpecError as error:
        raise SpecError(str(error)) from None


def choose(devices: tuple[EmulatedDeviceSpec, ...], name: str | None) -> EmulatedDeviceSpec:
    """The device called `name`, or the only one for None; raises `UsageError` that lists those there are."""
    chosen = [device for device in devices if name in (None, device.metadata.name)]
    if len(chosen) != 1:
        names = ", ".join(device.metadata.name for device in devices)
        raise UsageError(f"--device {name or 'is missing and'}: choose one of {names}")
    return chosen[0]


def serve(spec: EmulatedDeviceSpec, path: Path) -> None:
    """Be that device at a socket of this path, until a signal comes or the parent has gone. Raises `KuakaError`."""
    signals: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _frame: signals.append(number))
    parent = os.getppid()
    faults = spec.spec.faults
    history_bits = QAT_HISTORY_BITS if spec.spec.kind == AcceleratorKind.QAT.value else HISTORY_BITS
    listener = listen_unix(path, socket.SOCK_SEQPACKET, _BACKLOG)
    try:
        DeviceServer(
            listener,
            spec.queue_settings(),
            DeflateArithmetic(history_bits),
            fault_drawer(faults.page_faults_per_million, faults.seed),
            spec.disturbances(),
        ).run(lambda: bool(signals) or os.getppid() != parent)
    finally:
        path.unlink(missing_ok=True)


def main() -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.emulated_device")
    parser.add_argument("file", type=Path, help="a device file, as in examples/devices")
    parser.add_argument("--socket", type=Path, required=True, help="where clients find it; only our user may connect")
    parser.add_argument("--device", help="its name, where the file has several")
    arguments = parser.parse_args()
    try:
        serve(choose(read_devices(arguments.file), arguments.device), arguments.socket)
    except KuakaError as error:
        sys.stderr.write(f"{error}\n")
        return int(error.exit_code)
    return 0


if __name__ == "__main__":
    sys.exit(main())
