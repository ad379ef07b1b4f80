"""Emulated devices to test against: one served by a thread of the test, and one that is a process of its own."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from scheduler.devices.cost import CostModel, OperationCost
from scheduler.devices.device import DESCRIPTOR, Descriptors, Operation
from scheduler.devices.emulated.arithmetic import Arithmetic
from scheduler.devices.emulated.client import DeviceObserver, EmulatedDevice
from scheduler.devices.emulated.queue import QueueSettings
from scheduler.devices.emulated.schedule import Disturbance
from scheduler.devices.emulated.server import DeviceServer
from tests.conftest import ROOT

#: Nothing here takes so long; it only keeps a broken test from hanging.
LONG_NS = 20_000_000_000
PAGE_BYTES = 4096
DATA_BYTES = 1 << 20
#: Where the tests let the device write.
OUTPUT_AT = DATA_BYTES // 2
FAST = CostModel({operation: OperationCost(1000, 1) for operation in Operation})


class ZlibArithmetic:
    """An arithmetic that is none of the product's."""

    def compress(self, data: memoryview) -> bytes:
        deflate = zlib.compressobj(1, zlib.DEFLATED, -12)
        return deflate.compress(data) + deflate.flush()

    def decompress(self, stream: memoryview, capacity_bytes: int) -> bytes | None:
        inflate = zlib.decompressobj(-12)
        try:
            data = inflate.decompress(stream, capacity_bytes)
        except zlib.error:
            return None
        return data if inflate.eof and not inflate.unused_data else None

    def is_zero(self, data: memoryview) -> bool:
        return not any(data)


def settings(slots: int = 128, engines: int = 2, cost: CostModel = FAST) -> QueueSettings:
    return QueueSettings(slots, engines, cost, 1000)


def no_faults(count: int) -> list[bool]:
    return [False] * count


@contextmanager
def served(
    path: Path,
    queue: QueueSettings | None = None,
    draw_faults: Callable[[int], list[bool]] = no_faults,
    disturbances: tuple[Disturbance, ...] = (),
    arithmetic: Arithmetic | None = None,
) -> Iterator[Path]:
    """A device served by a thread; it ends with the context."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(str(path))
    listener.listen()
    server = DeviceServer(listener, queue or settings(), arithmetic or ZlibArithmetic(), draw_faults, disturbances)
    ended = threading.Event()
    thread = threading.Thread(target=server.run, args=(ended.is_set,), daemon=True)
    thread.start()
    try:
        yield path
    finally:
        ended.set()
        thread.join(10)
        assert not thread.is_alive()


@contextmanager
def device_process(file: Path, path: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """The device of a file as its own process; killed with the context unless it has ended."""
    command = [sys.executable, "-P", "-m", "pipeline.emulated_device", str(file), "--socket", str(path)]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        await_true(lambda: path.exists() or process.poll() is not None)
        yield process
    finally:
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
        process.wait()
        if process.stderr is not None:
            process.stderr.close()


def await_true(condition: Callable[[], bool]) -> None:
    """Wait for what must come about, or fail."""
    deadline_ns = time.monotonic_ns() + LONG_NS
    while not condition():
        assert time.monotonic_ns() < deadline_ns, "did not come about"
        time.sleep(0.002)


def jobs(count: int, *, first: int = 0, capacity_bytes: int = PAGE_BYTES - 1) -> Descriptors:
    """Pages from the start of the memory, each with a place of its own for its output."""
    descriptors = np.zeros(count, dtype=DESCRIPTOR)
    descriptors["source"] = (first + np.arange(count)) * PAGE_BYTES
    descriptors["source_bytes"] = PAGE_BYTES
    descriptors["destination"] = OUTPUT_AT + descriptors["source"]
    descriptors["capacity_bytes"] = capacity_bytes
    return descriptors


def decode_jobs(device: EmulatedDevice, count: int) -> Descriptors:
    """What `jobs` wrote, back to where it came from."""
    descriptors = jobs(count)
    back = np.zeros(count, dtype=DESCRIPTOR)
    back["source"], back["source_bytes"] = descriptors["destination"], device.output_bytes[:count]
    back["destination"], back["capacity_bytes"] = descriptors["source"], PAGE_BYTES
    return back


def occupancy(observer: DeviceObserver) -> int:
    """Entries of the queue that are taken."""
    return observer.sample("pool").occupancy
