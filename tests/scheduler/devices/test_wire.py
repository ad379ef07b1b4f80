"""Messages to a device: what is not one is refused, whatever it claims about lengths and offsets."""

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.devices.cost import CostModel, OperationCost
from scheduler.devices.device import DESCRIPTOR, MAX_DESCRIPTORS, Operation
from scheduler.devices.emulated.queue import QueueStatistics
from scheduler.devices.emulated.region import MAX_DATA_BYTES
from scheduler.devices.emulated.wire import (
    MAX_DURATION_NS,
    Command,
    Kind,
    ProtocolError,
    State,
    Submit,
    Welcome,
    encode_answer,
    encode_command,
    encode_hello,
    encode_sampled,
    encode_submit,
    encode_welcome,
    parse_answer,
    parse_hello,
    parse_request,
    parse_sampled,
    parse_welcome,
)

COST = CostModel({Operation.COMPRESS: OperationCost(1, 2), Operation.DECOMPRESS: OperationCost(3, 4)})
DATA_BYTES = 65536
EDGES = [0, 1, 4096, DATA_BYTES - 1, DATA_BYTES, DATA_BYTES + 1, 2**31, 2**32 - 4096, 2**32 - 1]


def submit(
    rows: list[tuple[int, int, int, int]], first: int = 0, operation: int = 0, count: int | None = None
) -> bytes:
    head = struct.pack("<BBHHxxI", Kind.SUBMIT, operation, len(rows) if count is None else count, first, 7)
    return head + np.array(rows, dtype=DESCRIPTOR).tobytes()


def test_messages_come_back_as_they_were() -> None:
    assert parse_hello(encode_hello(123)) == 123
    welcome = Welcome(State.READY, 128, 2, COST)
    assert parse_welcome(encode_welcome(welcome)) == welcome
    assert parse_request(encode_command(Kind.STALL, 5), 0, COST) == Command(Kind.STALL, 5)
    answer = parse_answer(encode_answer(Kind.ACCEPTED, 9, 64))
    assert (answer.kind, answer.accepted, answer.sequence) == (Kind.ACCEPTED, 64, 9)
    counters = QueueStatistics(1, 2, 3, 4, 5)
    assert parse_sampled(encode_sampled(counters)) == counters


def test_submission_comes_back_as_it_was() -> None:
    rows = [(0, 4096, 8192, 4095), (4096, 1, 0, 0)]
    message = encode_submit(Operation.DECOMPRESS, 7, 3, 2) + np.array(rows, dtype=DESCRIPTOR).tobytes()
    request = parse_request(message, DATA_BYTES, COST)
    assert isinstance(request, Submit)
    assert (request.operation, request.sequence, request.first) == (Operation.DECOMPRESS, 7, 3)
    assert request.descriptors.tolist() == rows


@pytest.mark.parametrize("at", [0, 2])
@pytest.mark.parametrize("offset", EDGES)
@pytest.mark.parametrize("size", EDGES[1:])
def test_range_that_leaves_the_memory_is_refused_and_no_other(at: int, offset: int, size: int) -> None:
    row = [0, 1, 0, 1]
    row[at : at + 2] = offset, size
    message = submit([(0, 1, 0, 1), (row[0], row[1], row[2], row[3])])
    if offset + size <= DATA_BYTES:
        assert isinstance(parse_request(message, DATA_BYTES, COST), Submit)
    else:
        with pytest.raises(ProtocolError, match=f"beyond the {DATA_BYTES} bytes"):
            parse_request(message, DATA_BYTES, COST)


ROW = (0, 1, 0, 1)


@pytest.mark.parametrize(
    ("message", "why"),
    [
        (b"", "empty"),
        (bytes([Kind.SUBMIT]), "submission of 1 bytes"),
        (submit([]), "0 descriptors"),
        (submit([ROW], count=2), "2 descriptors"),
        (submit([ROW, ROW], count=1), "1 descriptors"),
        (submit([ROW], first=MAX_DESCRIPTORS), "from record 1024"),
        (submit([ROW] * 2, first=MAX_DESCRIPTORS - 1), "from record 1023"),
        (submit([ROW], first=0xFFFF), "from record 65535"),
        (submit([ROW] * (MAX_DESCRIPTORS + 1)), "1025 descriptors"),
        (submit([ROW], operation=int(Operation.ZERO_SCAN)), "operation 2"),
        (submit([ROW], operation=255), "operation 255"),
        (submit([(0, 0, 0, 1)]), "no bytes"),
        (submit([ROW])[:-1], "1 descriptors"),
        (bytes([Kind.ACCEPTED]) * 16, "kind 65"),
        (bytes(16), "kind 0"),
        (encode_command(Kind.SAMPLE) + b"x", "kind 2"),
        (encode_command(Kind.STALL, MAX_DURATION_NS + 1), "duration"),
    ],
)
def test_request_that_breaks_a_rule_is_refused(message: bytes, why: str) -> None:
    with pytest.raises(ProtocolError, match=why):
        parse_request(message, DATA_BYTES, COST)


def test_hello_of_another_kind_or_size_is_refused() -> None:
    good = encode_hello(4096)
    for wrong in (b"", good[:-1], good + b"\0", b"QEMU" + good[4:], good[:4] + b"\2" + good[5:]):
        with pytest.raises(ProtocolError):
            parse_hello(wrong)
    assert parse_hello(encode_hello(MAX_DATA_BYTES)) == MAX_DATA_BYTES
    with pytest.raises(ProtocolError, match="limit"):
        parse_hello(encode_hello(MAX_DATA_BYTES + 1))


@given(st.one_of(st.binary(max_size=80), st.binary(max_size=40).map(lambda tail: bytes([Kind.SUBMIT, 0]) + tail)))
def test_random_bytes_are_a_request_within_the_memory_or_refused(message: bytes) -> None:
    try:
        request = parse_request(message, DATA_BYTES, COST)
    except ProtocolError:
        return
    if isinstance(request, Submit):
        for source, size, destination, capacity in request.descriptors.tolist():
            assert source + size <= DATA_BYTES
            assert destination + capacity <= DATA_BYTES


@given(st.binary(max_size=64))
def test_random_answers_are_refused_or_read(message: bytes) -> None:
    for parse in (parse_answer, parse_welcome, parse_sampled):
        try:
            parse(message)
        except ProtocolError:
            continue
