"""An emulated device as its clients have it: the `Device` protocol over a socket and shared memory.

A submission is one message and one answer; then the client sleeps until the device says that all of it is complete, or
the bound of its wait has passed. The end of the connection, however it comes, is `DeviceDown` at once: the kernel
reports a killed device as it reports a closed one.
"""

import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from scheduler.core.events import DeviceSample
from scheduler.devices.cost import CostModel
from scheduler.devices.device import DESCRIPTOR, MAX_DESCRIPTORS, Descriptors, DeviceDown, Operation, Status
from scheduler.devices.emulated.peer import is_own_user
from scheduler.devices.emulated.region import Region
from scheduler.devices.emulated.wire import (
    Answer,
    Kind,
    ProtocolError,
    State,
    Welcome,
    encode_command,
    encode_hello,
    encode_submit,
    parse_answer,
    parse_sampled,
    parse_welcome,
)

#: Longest that a device may take to answer a message. It looks at them between slices of work, but on a machine with
#: four runnable threads per core it was seen to run only after 60 ms. That it died or was disabled shows at once.
ANSWER_NS = 250_000_000
_LONGEST_ANSWER_BYTES = 256
_SEQUENCES = 1 << 32


class EmulatedDevice:
    """One client's connection to an emulated device; see `scheduler.devices.device.Device`."""

    def __init__(self, sock: socket.socket, welcome: Welcome, region: Region, clock: Callable[[], int]) -> None:
        self._sock = sock
        self._welcome = welcome
        self._region = region
        self._clock = clock
        self._sequence = 0
        #: Submissions that the device has not said DONE of.
        self._in_flight: set[int] = set()
        self._open = True

    @classmethod
    def open(cls, path: Path, data_bytes: int, clock: Callable[[], int] = time.monotonic_ns) -> Self:
        """Connect to the device's socket and share `data_bytes` with it. Raises `DeviceDown`."""
        if data_bytes < 1:
            raise ValueError(f"a device with {data_bytes} bytes of memory")
        sock, welcome, descriptors = _connect(path, data_bytes)
        try:
            if welcome.state is not State.READY or len(descriptors) != 1:
                raise DeviceDown(f"device at {path} is {welcome.state.name.lower()}")
            region = Region(descriptors[0])
        except (DeviceDown, OSError, ValueError):
            sock.close()
            raise
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
        return cls(sock, welcome, region, clock)

    @property
    def slots(self) -> int:
        return self._welcome.slots

    @property
    def cost(self) -> CostModel:
        return self._welcome.cost

    @property
    def memory(self) -> NDArray[np.uint8]:
        return self._region.data

    @property
    def status(self) -> NDArray[np.uint8]:
        return self._region.status

    @property
    def output_bytes(self) -> NDArray[np.uint32]:
        return self._region.output_bytes

    @property
    def occupancy(self) -> int:
        """Entries of the queue that were taken, all clients' together, when the device last said so."""
        return int(self._region.occupancy[0])

    def submit(self, operation: Operation, descriptors: Descriptors, first: int = 0) -> int:
        count = len(descriptors)
        if descriptors.dtype != DESCRIPTOR or not 0 < count <= MAX_DESCRIPTORS - first or first < 0:
            raise ValueError(f"{count} descriptors of {descriptors.dtype} from record {first}")
        if not self.cost.supports(operation):
            raise ValueError(f"this device does not {operation.name.lower()}")
        self._sequence = sequence = (self._sequence + 1) % _SEQUENCES
        self._region.status[first : first + count] = Status.PENDING
        self._send(encode_submit(operation, sequence, first, count) + descriptors.tobytes())
        accepted = self._await_accepted(sequence)
        if accepted > count:
            raise self._down("says that it took more than it was given")
        if accepted:
            self._in_flight.add(sequence)
        return accepted

    def wait(self, timeout_ns: int) -> bool:
        deadline_ns = self._clock() + timeout_ns
        while self._in_flight:
            answer = self._receive(max(0, deadline_ns - self._clock()))
            if answer is None:
                return False
            self._in_flight.discard(answer.sequence)
        if not self._open:
            raise DeviceDown("the device was closed")
        return True

    def close(self) -> None:
        self._open = False
        self._sock.close()

    def _await_accepted(self, sequence: int) -> int:
        deadline_ns = self._clock() + ANSWER_NS
        while (answer := self._receive(max(0, deadline_ns - self._clock()))) is not None:
            if answer.kind is Kind.DONE:
                self._in_flight.discard(answer.sequence)
            elif answer.sequence == sequence:
                return answer.accepted
        raise self._down("does not answer")

    def _send(self, message: bytes) -> None:
        try:
            self._sock.settimeout(ANSWER_NS / 1e9)
            self._sock.send(message)
        except OSError as error:
            raise self._down(str(error)) from None

    def _receive(self, timeout_ns: int) -> Answer | None:
        try:
            self._sock.settimeout(timeout_ns / 1e9)
            message = self._sock.recv(_LONGEST_ANSWER_BYTES)
            if not message:
                raise self._down("ended the connection")
            return parse_answer(message)
        except (TimeoutError, BlockingIOError):
            return None
        except (OSError, ProtocolError) as error:
            raise self._down(str(error)) from None

    def _down(self, why: str) -> DeviceDown:
        self.close()
        return DeviceDown(f"the device {why}")


class DeviceObserver:
    """A connection that submits nothing: it reads the counters, and can make the device fail. Raises `DeviceDown`."""

    def __init__(self, path: Path) -> None:
        self._sock, self.welcome, descriptors = _connect(path, 0)
        for descriptor in descriptors:
            os.close(descriptor)
        if self.welcome.state is not State.READY:
            self.close()
            raise DeviceDown(f"device at {path} is {self.welcome.state.name.lower()}")

    def sample(self, pool: str) -> DeviceSample:
        """The device's counters as the scheduler takes them."""
        return self._ask(pool, Kind.SAMPLE, 0)

    def disable(self, duration_ns: int = 0) -> None:
        """Let all clients go and take no others, for so long or (0) until `enable`."""
        self._ask("", Kind.DISABLE, duration_ns)

    def enable(self) -> None:
        """Take clients again."""
        self._ask("", Kind.ENABLE, 0)

    def stall(self, duration_ns: int) -> None:
        """Complete nothing for so long."""
        self._ask("", Kind.STALL, duration_ns)

    def close(self) -> None:
        """End the connection."""
        self._sock.close()

    def _ask(self, pool: str, kind: Kind, duration_ns: int) -> DeviceSample:
        try:
            self._sock.send(encode_command(kind, duration_ns))
            counters = parse_sampled(self._sock.recv(_LONGEST_ANSWER_BYTES))
        except (OSError, ProtocolError) as error:
            self.close()
            raise DeviceDown(f"the device does not answer: {error}") from None
        return DeviceSample(
            pool,
            counters.busy_ns,
            counters.completed,
            counters.refused,
            counters.occupancy,
            counters.latency_p99_ns,
        )


def _connect(path: Path, data_bytes: int) -> tuple[socket.socket, Welcome, list[int]]:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    descriptors: list[int] = []
    try:
        sock.settimeout(ANSWER_NS / 1e9)
        sock.connect(str(path))
        if not is_own_user(sock):
            raise ProtocolError("it is another user's")
        sock.send(encode_hello(data_bytes))
        message, descriptors, _flags, _address = socket.recv_fds(
            sock, _LONGEST_ANSWER_BYTES, 1, socket.MSG_CMSG_CLOEXEC
        )
        return sock, parse_welcome(message), descriptors
    except (OSError, ProtocolError) as error:
        sock.close()
        for descriptor in descriptors:
            os.close(descriptor)
        raise DeviceDown(f"device at {path} does not answer: {error}") from None
