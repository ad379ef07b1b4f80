"""The accelerators that a file declares for a host: each a process that ends with its agent.

A device that has gone stays gone until it answers again; it is asked once a second. Asking blocks for a moment and is
done in a thread.
"""

import asyncio
import logging
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from pipeline.emulated_device import read_devices
from pipeline.errors import MigrationError
from scheduler.core.events import DeviceSample, PoolSettings
from scheduler.devices.address import DeviceAddress
from scheduler.devices.device import DeviceDown
from scheduler.devices.emulated.client import DeviceObserver
from scheduler.devices.opening import stand_in_for
from scheduler.devices.spec import EmulatedDeviceSpec
from scheduler.devices.stand_ins.build import StandInError

_START_TIMEOUT_S = 20.0
_START_POLL_S = 0.02
_ASK_AGAIN_S = 1.0
_END_TIMEOUT_S = 2.0

_log = logging.getLogger(__name__)


class EmulatedHostDevice:
    """One emulated device: its process, its pool, and whether it answers."""

    def __init__(
        self, spec: EmulatedDeviceSpec, file: Path, host: str, socket: Path, stand_in: str | None = None
    ) -> None:
        self.spec = spec
        self.settings: PoolSettings = spec.pool_settings(host)
        self.cost = spec.cost()
        self.address = DeviceAddress(spec.spec.kind, (str(socket),), spec.spec.slots, emulated=True, stand_in=stand_in)
        self._socket = socket
        self._observer: DeviceObserver | None = None
        self._ask_at_s = 0.0
        words = ["-m", "pipeline.emulated_device", str(file), "--socket", str(socket), "--device", spec.metadata.name]
        # -P: what is imported does not depend on the folder the agent was started in.
        self._process = subprocess.Popen([sys.executable, "-P", *words], stdin=subprocess.DEVNULL)

    async def await_start(self) -> None:
        """Raises `MigrationError` when the device does not come up."""
        deadline_s = time.monotonic() + _START_TIMEOUT_S
        while not self._socket.exists():
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

    def share_of(self, vm: str) -> tuple[int, int, int]:
        """What the file says of the migration called `vm`."""
        return self.spec.share_of(vm)

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
                self._observer = DeviceObserver(self._socket)
            return self._observer.sample(self.settings.pool)
        except DeviceDown:
            self._observer = None
            self._ask_at_s = time.monotonic() + _ASK_AGAIN_S
            return None


async def start_emulated(file: Path, host: str, directory: Path) -> Sequence[EmulatedHostDevice]:
    """The devices that a file declares, started. Raises `KuakaError`, and none is left."""
    devices: list[EmulatedHostDevice] = []
    try:
        for number, spec in enumerate(read_devices(file)):
            stand_in = await asyncio.to_thread(_stand_in, spec.spec.kind)
            devices.append(EmulatedHostDevice(spec, file, host, directory / f"device-{number}", stand_in))
        for device in devices:
            await device.await_start()
    except BaseException:
        for device in devices:
            device.end()
        raise
    return devices


def _stand_in(kind: str) -> str | None:
    try:
        return stand_in_for(kind)
    except StandInError as error:
        _log.warning("%s; an emulated IAA is used without it, a QAT is not used", error)
        return None
