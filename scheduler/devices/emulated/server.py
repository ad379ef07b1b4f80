"""The process of an emulated device: one loop that takes messages, computes results and makes them visible when due.

One thread does it all. The arithmetic is a few microseconds per page and everything else is done per batch; a second
thread would fight for the interpreter's lock around every page (docs/devices.md). Messages are looked at between
slices of a batch, so an answer is never further away than one slice or one large buffer.

Clients are not trusted with each other: every message is checked, one that breaks the rules costs its sender the
connection, and so does not reading the answers. A client that goes takes its queue entries with it; when the device
is disabled all clients are let go, as with hardware, and a new one is told so.
"""

import os
import select
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass

from scheduler.devices.device import Operation, Status
from scheduler.devices.emulated.arithmetic import Arithmetic
from scheduler.devices.emulated.clock import PausableClock
from scheduler.devices.emulated.peer import is_own_user
from scheduler.devices.emulated.queue import QueueSettings, Submission, WorkQueue
from scheduler.devices.emulated.region import Region, make_region
from scheduler.devices.emulated.schedule import Disturbance, DisturbanceKind
from scheduler.devices.emulated.wire import (
    MAX_MESSAGE_BYTES,
    Command,
    Kind,
    ProtocolError,
    State,
    Submit,
    Welcome,
    encode_answer,
    encode_sampled,
    encode_welcome,
    parse_hello,
    parse_request,
)

#: select() knows no descriptors beyond 1024.
MAX_CLIENTS = 256
#: Descriptors between two looks at the sockets: 150 us of 4 KiB pages.
_SLICE = 16
#: Longest sleep; after it the process looks whether it should end.
_IDLE_S = 0.1
# Plain numbers: an enumeration's member costs a call where it is stored in a bytearray.
_OK, _OVERFLOW, _FAULT, _FAILED = (
    int(status) for status in (Status.OK, Status.OVERFLOW, Status.PAGE_FAULT, Status.FAILED)
)


@dataclass(slots=True, eq=False)
class _Client:
    """A connection; `region` comes with its hello, an observer has none."""

    sock: socket.socket
    greeted: bool = False
    region: Region | None = None


class DeviceServer:
    """Serves `listener` until `ended` says so; see the module. Takes ownership of the listener."""

    def __init__(
        self,
        listener: socket.socket,
        settings: QueueSettings,
        arithmetic: Arithmetic,
        draw_faults: Callable[[int], list[bool]],
        disturbances: tuple[Disturbance, ...] = (),
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._listener = listener
        self._settings = settings
        self._arithmetic = arithmetic
        self._queue = WorkQueue(settings, draw_faults)
        self._clock = clock
        self._device_clock = PausableClock()
        self._began_ns = clock()
        self._disturbances = sorted(disturbances, key=lambda each: each.at_ns)
        #: None while enabled; the end of a disabled time, with none where only an ENABLE ends it.
        self._disabled_until_ns: float | None = None
        self._clients: dict[int, _Client] = {}
        #: What the clients' regions say of the queue.
        self._told_occupancy = 0
        listener.setblocking(False)

    def run(self, ended: Callable[[], bool]) -> None:
        """Serve; returns after `ended` has become true, with every connection closed."""
        try:
            while not ended():
                self._disturb()
                self._serve_sockets(self._sleep_s())
                self._compute_slice()
                self._publish()
        finally:
            for descriptor in list(self._clients):
                self._let_go(descriptor)
            self._listener.close()

    # What happens to the device.

    def _disturb(self) -> None:
        now_ns = self._clock()
        while self._disturbances and self._disturbances[0].at_ns <= now_ns - self._began_ns:
            disturbance = self._disturbances.pop(0)
            if disturbance.kind is DisturbanceKind.STALL:
                self._device_clock.pause(now_ns, disturbance.duration_ns)
            else:
                self._disable(now_ns, disturbance.duration_ns)
        if self._disabled_until_ns is not None and now_ns >= self._disabled_until_ns:
            self._disabled_until_ns = None

    def _disable(self, now_ns: int, duration_ns: int) -> None:
        self._disabled_until_ns = now_ns + duration_ns if duration_ns else float("inf")
        for descriptor, client in list(self._clients.items()):
            if client.region is not None:
                self._let_go(descriptor)

    # Time.

    def _sleep_s(self) -> float:
        now_ns = self._clock()
        wakes_ns = []
        resumes_ns = self._device_clock.resumes_ns(now_ns)
        if resumes_ns is not None:
            wakes_ns.append(resumes_ns - now_ns)
        elif self._queue.next_uncomputed() is not None:
            return 0.0
        elif (due_ns := self._queue.next_due_ns()) is not None:
            wakes_ns.append(due_ns - self._device_clock.read(now_ns))
        if self._disturbances:
            wakes_ns.append(self._disturbances[0].at_ns + self._began_ns - now_ns)
        return min(max(0, min(wakes_ns)) / 1e9, _IDLE_S) if wakes_ns else _IDLE_S

    # Messages.

    def _serve_sockets(self, timeout_s: float) -> None:
        listening = self._listener.fileno()
        ready, _, _ = select.select([listening, *self._clients], [], [], timeout_s)
        for each in ready:
            if each == listening:
                self._accept()
            elif each in self._clients:
                self._receive(each)

    def _accept(self) -> None:
        try:
            sock, _address = self._listener.accept()
        except OSError:
            return
        if not is_own_user(sock):
            sock.close()
            return
        sock.setblocking(False)
        if len(self._clients) >= MAX_CLIENTS:
            self._send(sock, encode_welcome(self._welcome(State.FULL)))
            sock.close()
            return
        self._clients[sock.fileno()] = _Client(sock)

    def _receive(self, descriptor: int) -> None:
        client = self._clients[descriptor]
        try:
            message = client.sock.recv(MAX_MESSAGE_BYTES + 1)
            if not message or not self._handle(descriptor, client, message):
                self._let_go(descriptor)
        except BlockingIOError:
            return
        except (OSError, ProtocolError):
            self._let_go(descriptor)

    def _handle(self, descriptor: int, client: _Client, message: bytes) -> bool:
        """Do what a message asks; False when its sender cannot stay."""
        if not client.greeted:
            return self._greet(client, parse_hello(message))
        data_bytes = len(client.region.data) if client.region is not None else 0
        request = parse_request(message, data_bytes, self._settings.cost)
        if isinstance(request, Submit):
            # An observer has no memory, so no submission of its can be within it.
            return self._submit(descriptor, client, request)
        return self._obey(client, request)

    def _greet(self, client: _Client, data_bytes: int) -> bool:
        if not data_bytes:
            client.greeted = True
            return self._send(client.sock, encode_welcome(self._welcome(State.READY)))
        if self._disabled_until_ns is not None:
            self._send(client.sock, encode_welcome(self._welcome(State.DISABLED)))
            return False
        region = make_region(data_bytes)
        try:
            client.region = Region(region)
            # Before it is sent: the client may look at once.
            client.region.occupancy[0] = self._told_occupancy
            socket.send_fds(client.sock, [encode_welcome(self._welcome(State.READY))], [region])
        finally:
            os.close(region)
        client.greeted = True
        return True

    def _welcome(self, state: State) -> Welcome:
        return Welcome(state, self._settings.slots, self._settings.engines, self._settings.cost)

    def _submit(self, descriptor: int, client: _Client, request: Submit) -> bool:
        # What is due frees its entries first: a busy answer must not come from looking late.
        self._publish()
        now_ns = self._clock()
        accepted = self._queue.offer(
            descriptor,
            request.operation,
            request.descriptors.tolist(),
            request.sequence,
            request.first,
            self._device_clock.read(now_ns),
            now_ns,
        )
        self._tell_occupancy()
        return descriptor in self._clients and self._send(
            client.sock, encode_answer(Kind.ACCEPTED, request.sequence, accepted)
        )

    def _obey(self, client: _Client, command: Command) -> bool:
        now_ns = self._clock()
        if command.kind is Kind.STALL:
            self._device_clock.pause(now_ns, command.duration_ns)
        elif command.kind is Kind.DISABLE:
            self._disable(now_ns, command.duration_ns)
        elif command.kind is Kind.ENABLE:
            self._disabled_until_ns = None
        return self._send(client.sock, encode_sampled(self._queue.statistics()))

    def _send(self, sock: socket.socket, message: bytes) -> bool:
        try:
            sock.send(message)
        except OSError:
            # It has gone, or does not read.
            return False
        return True

    def _let_go(self, descriptor: int) -> None:
        self._queue.drop(descriptor)
        self._clients.pop(descriptor).sock.close()
        self._tell_occupancy()

    # Work.

    def _compute_slice(self) -> None:
        if self._device_clock.resumes_ns(self._clock()) is not None:
            return
        submission = self._queue.next_uncomputed()
        if submission is None:
            return
        region = self._clients[submission.client].region
        if region is not None:
            compute(submission, region.data.data, self._arithmetic, _SLICE)

    def _publish(self) -> None:
        now_ns = self._clock()
        visible = self._queue.complete(self._device_clock.read(now_ns), now_ns)
        # Before anyone hears of it: who is told that its work is done must not see the queue still full of it.
        self._tell_occupancy()
        for submission, start, stop in visible:
            client = self._clients.get(submission.client)
            if client is None or client.region is None:
                continue
            records = slice(submission.first + start, submission.first + stop)
            client.region.output_bytes[records] = submission.output_bytes[start:stop]
            client.region.status[records] = memoryview(submission.status)[start:stop]
            if submission.done and not self._send(client.sock, encode_answer(Kind.DONE, submission.sequence)):
                self._let_go(submission.client)

    def _tell_occupancy(self) -> None:
        occupancy = self._queue.occupancy
        if occupancy == self._told_occupancy:
            return
        self._told_occupancy = occupancy
        for client in self._clients.values():
            if client.region is not None:
                client.region.occupancy[0] = occupancy


def compute(submission: Submission, memory: memoryview, arithmetic: Arithmetic, most: int) -> None:
    """Do the next descriptors of a submission, at most `most`; the client may write to its memory meanwhile."""
    start = submission.computed
    stop = min(start + most, len(submission.descriptors))
    compute_one = _COMPUTE[submission.operation]
    status, output_bytes, faults = submission.status, submission.output_bytes, submission.faults
    # What stands here is run per page: 1 us of it beside the 8 us of the arithmetic.
    for index, descriptor in enumerate(submission.descriptors[start:stop], start):
        if faults[index]:
            status[index] = _FAULT
        else:
            status[index], output_bytes[index] = compute_one(arithmetic, memory, *descriptor)
    submission.computed = stop


def _compress(
    arithmetic: Arithmetic, memory: memoryview, source: int, source_bytes: int, destination: int, capacity_bytes: int
) -> tuple[int, int]:
    stream = arithmetic.compress(memory[source : source + source_bytes])
    length = len(stream)
    if length > capacity_bytes:
        return _OVERFLOW, 0
    memory[destination : destination + length] = stream
    return _OK, length


def _decompress(
    arithmetic: Arithmetic, memory: memoryview, source: int, source_bytes: int, destination: int, capacity_bytes: int
) -> tuple[int, int]:
    data = arithmetic.decompress(memory[source : source + source_bytes], capacity_bytes)
    if data is None:
        return _FAILED, 0
    memory[destination : destination + len(data)] = data
    return _OK, len(data)


def _zero_scan(
    arithmetic: Arithmetic, memory: memoryview, source: int, source_bytes: int, _destination: int, _capacity_bytes: int
) -> tuple[int, int]:
    return _OK, 0 if arithmetic.is_zero(memory[source : source + source_bytes]) else 1


_COMPUTE = {Operation.COMPRESS: _compress, Operation.DECOMPRESS: _decompress, Operation.ZERO_SCAN: _zero_scan}
