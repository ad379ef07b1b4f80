"""The accelerators of a host: for now those that a file declares, each a process of its own that ends with its agent.

A device that has gone stays gone until it answers again; it is asked once a second. Asking blocks for a moment and is
done in a thread.
"""

import asyncio
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from pipeline.emulated_device import read_devices
from pipeline.errors import MigrationError
from scheduler.core.events import DeviceSample, PoolSettings
from scheduler.devices.device import DeviceDown
from scheduler.devices.emulated.client import DeviceObserver
from scheduler.devices.spec import EmulatedDeviceSpec

_START_TIMEOUT_S = 20.0
_START_POLL_S = 0.02
_ASK_AGAIN_S = 1.0
_END_TIMEOUT_S = 2.0


class HostDevice:
    """One device: its process, its pool, and whether it answers."""

    def __init__(self, spec: EmulatedDeviceSpec, file: Path, host: str, socket: Path) -> None:
        self.spec = spec
        self.settings: PoolSettings = spec.pool_settings(host)
        self.socket = socket
        self._observer: DeviceObserver | None = None
        self._ask_at_s = 0.0
        words = ["-m", "pipeline.emulated_device", str(file), "--socket", str(socket), "--device", spec.metadata.name]
        # -P: what is imported does not depend on the folder the agent was started in.
        self._process = subprocess.Popen([sys.executable, "-P", *words], stdin=subprocess.DEVNULL)

    async def await_start(self) -> None:
        """Raises `MigrationError` when the device does not come up."""
        deadline_s = time.monotonic() + _START_TIMEOUT_S
        while not self.socket.exists():
            if self._process.poll() is not None or time.monotonic() > deadline_s:
                raise MigrationError(
                    f"device {self.spec.metadata.name} does not start: see stderr, or run pipeline.emulated_device"
                )
            await asyncio.sleep(_START_POLL_S)

    @property
    def up(self) -> bool:
        """Whether it answered when it was last asked."""
        return self._observer is not None

    async def sample(self) -> DeviceSample | None:
        """Its counters; None while it does not answer."""
        return await asyncio.to_thread(self._sample)

    def end(self) -> None:
        """End its process."""
        if self._observer is not None:
            self._observer.close()
        self._process.terminate()
        try:
            self._process.wait(_END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _sample(self) -> DeviceSample | None:
        try:
            if self._observer is None:
                if time.monotonic() < self._ask_at_s:
                    return None
                self._observer = DeviceObserver(self.socket)
            return self._observer.sample(self.settings.pool)
        except DeviceDown:
            self._observer = None
            self._ask_at_s = time.monotonic() + _ASK_AGAIN_S
            return None


async def start_devices(file: Path | None, host: str, directory: Path) -> Sequence[HostDevice]:
    """The devices that `file` declares, started; none without a file. Raises `KuakaError`, and none is left."""
    if file is None:
        return ()
    devices: list[HostDevice] = []
    try:
        for number, spec in enumerate(read_devices(file)):
            devices.append(HostDevice(spec, file, host, directory / f"device-{number}"))
        for device in devices:
            await device.await_start()
    except BaseException:
        for device in devices:
            device.end()
        raise
    return devices
