"""QEMU's return path: messages are found in any pieces, every byte once, and what is no message is refused."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import WireError
from pipeline.qemu.return_path import MAX_DATA_BYTES, ReturnPath

PONG = bytes.fromhex("0002000400000001")
SHUT = bytes.fromhex("0001000400000000")
SHUT_FAILED = bytes.fromhex("0001000400000001")
SWITCHOVER_ACK = bytes.fromhex("00070000")


def fed(*pieces: bytes) -> bool | None:
    path = ReturnPath()
    for piece in pieces:
        path.feed(piece)
    return path.confirmed


@pytest.mark.parametrize(
    ("data", "confirmed"),
    [(b"", None), (PONG, None), (PONG + SHUT, True), (SWITCHOVER_ACK + PONG + SHUT, True), (PONG + SHUT_FAILED, False)],
)
def test_measured_return_paths(data: bytes, confirmed: bool | None) -> None:
    assert fed(data) is confirmed
    assert fed(*(data[at : at + 1] for at in range(len(data)))) is confirmed


def test_half_a_shut_confirms_nothing() -> None:
    assert fed(PONG + SHUT[:-1]) is None


@pytest.mark.parametrize(
    "data",
    [
        b"\0\0\0\0",
        b"\0\x08\0\0",
        b"QEVM",
        struct.pack(">HH", 1, 0),
        b"\0\1\0\5" + bytes(5),
        struct.pack(">HHI", 7, 4, 0),
        struct.pack(">HH", 4, MAX_DATA_BYTES + 1),
    ],
    ids=repr,
)
def test_what_is_no_message_is_refused_before_its_data_has_come(data: bytes) -> None:
    with pytest.raises(WireError, match="the destination QEMU sent"):
        fed(data)


def test_body_of_another_message_is_not_read_as_messages() -> None:
    assert fed(struct.pack(">HH", 4, 12) + SHUT + bytes(4) + PONG) is None


#: Any sequence of messages that QEMU could send.
MESSAGES = st.lists(
    st.one_of(
        st.sampled_from((PONG, SHUT, SHUT_FAILED, SWITCHOVER_ACK)),
        st.builds(
            lambda kind, data: struct.pack(">HH", kind, len(data)) + data,
            st.integers(2, 6),
            st.binary(max_size=MAX_DATA_BYTES),
        ),
    ),
    max_size=12,
)


@given(MESSAGES, st.data())
def test_messages_are_the_same_in_whatever_pieces_they_come_and_no_byte_is_lost(
    messages: list[bytes], data: st.DataObject
) -> None:
    stream = b"".join(messages)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    end = data.draw(st.sampled_from((len(stream), max(0, len(stream) - 1))))
    path = ReturnPath()
    found = []
    for first, last in zip([0, *cuts], [*cuts, end], strict=True):
        found += path.feed(stream[first : min(last, end)])
        assert len(path.rest) < 4 + MAX_DATA_BYTES
    whole = [message.encoded for message in found]
    assert whole == messages[: len(whole)]
    assert b"".join(whole) + path.rest == stream[:end]
    assert [message.is_switchover_ack for message in found] == [each == SWITCHOVER_ACK for each in whole]


@given(st.lists(st.binary(max_size=20)))
def test_random_bytes_raise_nothing_but_wire_errors(pieces: list[bytes]) -> None:
    try:
        fed(*pieces)
    except WireError:
        return
