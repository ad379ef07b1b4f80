"""Messages between an emulated device and its clients: SEQPACKET, little-endian, checked before anything is used.

    client: HELLO (memory wanted; 0: an observer)    device: WELCOME (state, model) with the region's descriptor
            SUBMIT + descriptors                             ACCEPTED (how many), DONE (nothing of it is in flight)
            SAMPLE                                           SAMPLED (counters)
            DISABLE, ENABLE, STALL (a duration)

Sans-I/O. A peer that breaks these rules has its connection closed; no offset, length or count of its is trusted.
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from scheduler.devices.cost import CostModel, OperationCost
from scheduler.devices.device import DESCRIPTOR, MAX_DESCRIPTORS, Descriptors, Operation, Status
from scheduler.devices.emulated.queue import QueueStatistics
from scheduler.devices.emulated.region import MAX_DATA_BYTES

MAGIC = b"KDEV"
VERSION = 1
#: A submission of as many descriptors as there may be is the longest.
MAX_MESSAGE_BYTES = 16 + MAX_DESCRIPTORS * DESCRIPTOR.itemsize
MAX_DURATION_NS = 24 * 3600 * 10**9

_HELLO = struct.Struct("<4sHHI")
_WELCOME = struct.Struct("<4sHHII" + "II" * len(Operation))
_SUBMIT = struct.Struct("<BBHHxxI")
_COMMAND = struct.Struct("<BxxxxxxxQ")
_ANSWER = struct.Struct("<BxHI")
_SAMPLED = struct.Struct("<Bxxxxxxx5Q")


class ProtocolError(Exception):
    """A message breaks the rules above."""


class Kind(IntEnum):
    """First byte of a message; the client's, then the device's."""

    SUBMIT = 1
    SAMPLE = 2
    DISABLE = 3
    ENABLE = 4
    STALL = 5
    ACCEPTED = 65
    DONE = 66
    SAMPLED = 67


class State(IntEnum):
    """What a device answers a HELLO with."""

    READY = 1
    DISABLED = 2
    #: As many clients as it can serve.
    FULL = 3


@dataclass(frozen=True, slots=True)
class Welcome:
    """What a client is told of its device."""

    state: State
    slots: int
    engines: int
    cost: CostModel


@dataclass(frozen=True, slots=True)
class Submit:
    """A batch of descriptors; the ranges lie within the data region that it was checked against."""

    operation: Operation
    sequence: int
    first: int
    descriptors: Descriptors


@dataclass(frozen=True, slots=True)
class Command:
    """SAMPLE, or a change of the device's state; a DISABLE of 0 ns has no end but an ENABLE."""

    kind: Kind
    duration_ns: int


@dataclass(frozen=True, slots=True)
class Answer:
    """ACCEPTED with the number of descriptors taken, or DONE."""

    kind: Kind
    accepted: int
    sequence: int


def encode_hello(data_bytes: int) -> bytes:
    """A client's first message."""
    return _HELLO.pack(MAGIC, VERSION, 0, data_bytes)


def parse_hello(message: bytes) -> int:
    """Bytes of data memory that the client wants; raises `ProtocolError`."""
    if len(message) != _HELLO.size:
        raise ProtocolError(f"a hello of {len(message)} bytes")
    magic, version, zero, data_bytes = _HELLO.unpack(message)
    if (magic, version, zero) != (MAGIC, VERSION, 0):
        raise ProtocolError("a hello of something else, or of another version")
    if data_bytes > MAX_DATA_BYTES:
        raise ProtocolError(f"a hello that asks for {data_bytes} bytes, the limit is {MAX_DATA_BYTES}")
    return int(data_bytes)


def encode_welcome(welcome: Welcome) -> bytes:
    """A device's first message; an operation that it does not have has no cost."""
    costs = [number for operation in Operation for number in _cost_numbers(welcome.cost.operations, operation)]
    return _WELCOME.pack(MAGIC, VERSION, welcome.state, welcome.slots, welcome.engines, *costs)


def parse_welcome(message: bytes) -> Welcome:
    """Raises `ProtocolError`."""
    if len(message) != _WELCOME.size:
        raise ProtocolError(f"a welcome of {len(message)} bytes")
    magic, version, state, slots, engines, *costs = _WELCOME.unpack(message)
    if (magic, version) != (MAGIC, VERSION) or state not in tuple(State):
        raise ProtocolError("a welcome of something else, or of another version")
    operations = {
        operation: OperationCost(costs[2 * operation], costs[2 * operation + 1])
        for operation in Operation
        if costs[2 * operation + 1]
    }
    return Welcome(State(state), slots, engines, CostModel(operations))


def encode_submit(operation: Operation, sequence: int, first: int, count: int) -> bytes:
    """The head of a submission; its descriptors follow in the same message."""
    return _SUBMIT.pack(Kind.SUBMIT, operation, count, first, sequence)


def encode_command(kind: Kind, duration_ns: int = 0) -> bytes:
    """SAMPLE, DISABLE, ENABLE or STALL."""
    return _COMMAND.pack(kind, duration_ns)


def parse_request(message: bytes, data_bytes: int, cost: CostModel) -> Submit | Command:
    """A client's message but the first; raises `ProtocolError` that says what is wrong with it."""
    if not message:
        raise ProtocolError("an empty message")
    if message[0] == Kind.SUBMIT:
        return _parse_submit(message, data_bytes, cost)
    if message[0] not in (Kind.SAMPLE, Kind.DISABLE, Kind.ENABLE, Kind.STALL) or len(message) != _COMMAND.size:
        raise ProtocolError(f"a message of kind {message[0]} and {len(message)} bytes")
    kind, duration_ns = _COMMAND.unpack(message)
    if duration_ns > MAX_DURATION_NS:
        raise ProtocolError(f"a duration of {duration_ns} ns")
    return Command(Kind(kind), duration_ns)


def encode_answer(kind: Kind, sequence: int, accepted: int = 0) -> bytes:
    """ACCEPTED or DONE."""
    return _ANSWER.pack(kind, accepted, sequence)


def encode_sampled(statistics: QueueStatistics) -> bytes:
    """Counters, for an observer."""
    return _SAMPLED.pack(
        Kind.SAMPLED,
        statistics.busy_ns,
        statistics.completed,
        statistics.refused,
        statistics.occupancy,
        statistics.latency_p99_ns,
    )


def parse_answer(message: bytes) -> Answer:
    """ACCEPTED or DONE; raises `ProtocolError`."""
    if len(message) != _ANSWER.size or message[0] not in (Kind.ACCEPTED, Kind.DONE):
        raise ProtocolError(f"an answer of {len(message)} bytes")
    kind, accepted, sequence = _ANSWER.unpack(message)
    return Answer(Kind(kind), accepted, sequence)


def parse_sampled(message: bytes) -> QueueStatistics:
    """Raises `ProtocolError`."""
    if len(message) != _SAMPLED.size or message[0] != Kind.SAMPLED:
        raise ProtocolError(f"a sample of {len(message)} bytes")
    _kind, *numbers = _SAMPLED.unpack(message)
    return QueueStatistics(*numbers)


def _cost_numbers(operations: Mapping[Operation, OperationCost], operation: Operation) -> tuple[int, int]:
    cost = operations.get(operation)
    return (cost.fixed_ns, cost.per_byte_ps) if cost is not None else (0, 0)


def _parse_submit(message: bytes, data_bytes: int, cost: CostModel) -> Submit:
    if len(message) < _SUBMIT.size:
        raise ProtocolError(f"a submission of {len(message)} bytes")
    _kind, operation, count, first, sequence = _SUBMIT.unpack_from(message)
    if not 0 < count <= MAX_DESCRIPTORS - first or len(message) != _SUBMIT.size + count * DESCRIPTOR.itemsize:
        raise ProtocolError(f"a submission of {count} descriptors from record {first} in {len(message)} bytes")
    if operation not in tuple(Operation) or not cost.supports(Operation(operation)):
        raise ProtocolError(f"operation {operation}, which this device does not have")
    descriptors = np.frombuffer(message, dtype=DESCRIPTOR, count=count, offset=_SUBMIT.size)
    for place, size in (("source", "source_bytes"), ("destination", "capacity_bytes")):
        # Two 32-bit numbers: their sum needs the wider type.
        if int((descriptors[place].astype(np.int64) + descriptors[size]).max()) > data_bytes:
            raise ProtocolError(f"a {place} beyond the {data_bytes} bytes of memory")
    if not descriptors["source_bytes"].all():
        raise ProtocolError("a source of no bytes")
    return Submit(Operation(operation), sequence, first, descriptors)


#: Statuses are bytes, in memory and in messages.
assert max(Status) < 256
