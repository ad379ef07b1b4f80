"""QEMU's return path: SHUT is found in any pieces, and what is no message is refused."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import WireError
from pipeline.qemu.return_path import ReturnPath

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
    "data", [b"\0\0\0\0", b"\0\x08\0\0", b"QEVM", struct.pack(">HH", 1, 0), b"\0\1\0\5" + bytes(5)]
)
def test_what_is_no_message_is_refused(data: bytes) -> None:
    with pytest.raises(WireError):
        fed(data)


def test_body_of_another_message_is_not_read_as_messages() -> None:
    assert fed(struct.pack(">HH", 4, 12) + SHUT + bytes(4) + PONG) is None


@given(st.lists(st.binary(max_size=20)))
def test_random_bytes_raise_nothing_but_wire_errors(pieces: list[bytes]) -> None:
    try:
        fed(*pieces)
    except WireError:
        return
