"""The head of the main channel: as real QEMUs wrote it, built by its layout, in any pieces, and as garbage."""

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import WireError
from pipeline.qemu.main_channel import MAX_HEAD_BYTES, HeadState, MainChannelHead

HEADER = b"QEVM" + struct.pack(">I", 3)
RAM_SECTION = b"\x01" + struct.pack(">IB3sII", 2, 3, b"ram", 0, 4)


def configuration(machine: bytes = b"pc-q35-9.0") -> bytes:
    return b"\x07" + struct.pack(">I", len(machine)) + machine


def subsection(name: bytes, fields: bytes) -> bytes:
    return b"\x05" + bytes([len(name)]) + name + struct.pack(">I", 1) + fields


def command(number: int, data: bytes = b"") -> bytes:
    return b"\x08" + struct.pack(">HH", number, len(data)) + data


CAPABILITIES = subsection(
    b"configuration/capabilities", struct.pack(">I", 2) + b"\x0fx-ignore-shared" + b"\x0amapped-ram"
)
UUID = subsection(b"configuration/uuid", bytes(range(16)))
PAGE_BITS = subsection(b"configuration/target-page-bits", struct.pack(">I", 12))
RETURN_PATH = command(1)
PING = command(2, struct.pack(">I", 1))
POSTCOPY_ADVISE = command(3, struct.pack(">QQ", 4096, 4096))
ENABLE_COLO = command(8)

#: First bytes of the main channel, captured from QEMU 7.2.22 and 10.0.2 with a 32 MB guest that had not started.
CAPTURED = {
    "7.2 return-path postcopy-ram": (
        (
            b"QEVM\x00\x00\x00\x03\x07\x00\x00\x00\rpc-i440fx-7.2"
            b"\x08\x00\x01\x00\x00\x08\x00\x02\x00\x04\x00\x00\x00\x01"
            b"\x08\x00\x03\x00\x10\x00\x00\x00\x00\x00\x00\x10\x00\x00\x00\x00\x00\x00\x00\x10\x00"
            b"\x01\x00\x00\x00\x02\x03ram\x00\x00\x00\x00\x00\x00\x00\x04"
        ),
        (True, True, "pc-i440fx-7.2"),
    ),
    "7.2 without return-path": (
        b"QEVM\x00\x00\x00\x03\x07\x00\x00\x00\npc-q35-7.2\x01\x00\x00\x00\x02\x03ram\x00\x00\x00\x00\x00\x00\x00\x04",
        (False, False, "pc-q35-7.2"),
    ),
    "7.2 return-path validate-uuid x-ignore-shared": (
        (
            b"QEVM\x00\x00\x00\x03\x07\x00\x00\x00\rpc-i440fx-7.2"
            b"\x05\x1aconfiguration/capabilities\x00\x00\x00\x01\x00\x00\x00\x01\x0fx-ignore-shared"
            b'\x05\x12configuration/uuid\x00\x00\x00\x01\x00\x11"3DUfw\x88\x99\xaa\xbb\xcc\xdd\xee\xff'
            b"\x08\x00\x01\x00\x00\x08\x00\x02\x00\x04\x00\x00\x00\x01\x01\x00\x00\x00\x02\x03ram"
        ),
        (True, False, "pc-i440fx-7.2"),
    ),
    "10.0 return-path": (
        (
            b"QEVM\x00\x00\x00\x03\x07\x00\x00\x00\rpc-i440fx-9.0"
            b"\x08\x00\x01\x00\x00\x08\x00\x02\x00\x04\x00\x00\x00\x01\x01\x00\x00\x00\x01\x03ram"
        ),
        (True, False, "pc-i440fx-9.0"),
    ),
}


def read(data: bytes, piece: int | None = None) -> MainChannelHead:
    head = MainChannelHead()
    feed(head, data, piece)
    return head


def feed(head: MainChannelHead, data: bytes, piece: int | None) -> None:
    step = piece or len(data) or 1
    for at in range(0, len(data), step):
        head.feed(data[at : at + step])


def facts(head: MainChannelHead) -> tuple[HeadState, bool, bool, bool, str]:
    return head.state, head.return_path, head.postcopy, head.colo, head.machine


@pytest.mark.parametrize("piece", [None, 1, 2, 7])
@pytest.mark.parametrize("name", CAPTURED)
def test_heads_of_real_qemus_are_understood_in_any_pieces(name: str, piece: int | None) -> None:
    data, (return_path, postcopy, machine) = CAPTURED[name]
    head = read(data, piece)
    assert facts(head) == (HeadState.DONE, return_path, postcopy, False, machine)


@pytest.mark.parametrize("piece", [None, 1])
@pytest.mark.parametrize("parts", [(), (UUID,), (CAPABILITIES,), (PAGE_BITS,), (PAGE_BITS, CAPABILITIES, UUID)])
@pytest.mark.parametrize("commands", [(), (RETURN_PATH, PING), (RETURN_PATH, PING, POSTCOPY_ADVISE, ENABLE_COLO)])
def test_commands_are_told_behind_any_parts_of_the_configuration(
    commands: tuple[bytes, ...], parts: tuple[bytes, ...], piece: int | None
) -> None:
    data = HEADER + configuration() + b"".join((*parts, *commands)) + RAM_SECTION
    expected = (HeadState.DONE, RETURN_PATH in commands, POSTCOPY_ADVISE in commands, ENABLE_COLO in commands)
    assert facts(read(data, piece)) == (*expected, "pc-q35-9.0")


def test_head_without_a_configuration_is_understood() -> None:
    assert facts(read(HEADER + RETURN_PATH + RAM_SECTION)) == (HeadState.DONE, True, False, False, "")


def test_device_that_is_set_up_before_ram_ends_the_head() -> None:
    early = b"\x04" + struct.pack(">IB", 3, 23) + b"virtio-mem-device-early"
    assert facts(read(HEADER + configuration() + RETURN_PATH + early))[:2] == (HeadState.DONE, True)


def test_head_is_not_done_before_its_first_section() -> None:
    data = HEADER + configuration() + CAPABILITIES + UUID + RETURN_PATH + PING + POSTCOPY_ADVISE
    for length in range(len(data) + 1):
        assert read(data[:length]).state is HeadState.READING
    assert read(data + b"\x01").state is HeadState.DONE


def test_bytes_behind_the_head_are_not_looked_at() -> None:
    head = read(HEADER + configuration() + RAM_SECTION)
    for garbage in (b"\xff" * 100_000, HEADER + RETURN_PATH, b""):
        assert head.feed(garbage) is HeadState.DONE
    assert not head.return_path


def test_command_bytes_inside_a_machine_name_or_command_are_not_commands() -> None:
    hidden = read(HEADER + configuration(b"pc" + RETURN_PATH) + command(2, POSTCOPY_ADVISE) + RAM_SECTION)
    assert facts(hidden)[:3] == (HeadState.DONE, False, False)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"QEVX" + struct.pack(">I", 3) + b"\x07", "version 3"),
        (b"QEVM" + struct.pack(">I", 2) + b"\x07", "version 3"),
        (b"GET / HTTP/1.1\r\n\r\n", "not a QEMU migration stream"),
        (HEADER + b"\x07" + struct.pack(">I", 257), "machine name of 257 bytes"),
        (HEADER + b"\x07" + struct.pack(">I", 2**32 - 1), "machine name of 4294967295 bytes"),
        (HEADER + configuration() + b"\x00", "byte 0x0 where"),
        (HEADER + configuration() + b"\x7e", "byte 0x7e where"),
        (HEADER + configuration() + subsection(b"configuration/other", b""), "'configuration/other' that is unknown"),
        (HEADER + configuration() + subsection(b"\xff\x1b[31m", b""), "unknown here"),
    ],
)
def test_what_is_no_head_is_refused(data: bytes, reason: str) -> None:
    for piece in (None, 1):
        with pytest.raises(WireError, match=reason) as refused:
            read(data, piece)
        assert str(refused.value).isprintable()


@pytest.mark.parametrize(
    "endless",
    [
        command(2, bytes(4)) * 1000,
        command(2, bytes(65535)),
        UUID * 1000,
        subsection(b"configuration/capabilities", struct.pack(">I", 2**32 - 1) + bytes(8192)),
        subsection(b"configuration/capabilities", struct.pack(">I", 100) + (b"\xff" + bytes(255)) * 100),
    ],
    ids=["commands", "long-command", "subsections", "capabilities", "long-capabilities"],
)
@pytest.mark.parametrize("piece", [None, 1, 4000])
def test_head_that_never_ends_is_refused_within_its_limit(endless: bytes, piece: int | None) -> None:
    head = MainChannelHead()
    with pytest.raises(WireError, match="does not start like a QEMU migration stream"):
        feed(head, HEADER + configuration() + endless, piece)
    assert len(head._seen) <= MAX_HEAD_BYTES + 1


@settings(max_examples=60)
@given(
    st.lists(
        st.sampled_from(
            [UUID, CAPABILITIES, PAGE_BITS, RETURN_PATH, PING, POSTCOPY_ADVISE, ENABLE_COLO, b"\x05", b"\x08"]
        ),
        max_size=8,
    ),
    st.lists(st.tuples(st.integers(0, 200), st.integers(0, 255)), max_size=3),
    st.lists(st.integers(1, 60), min_size=1, max_size=12),
    st.binary(max_size=40),
)
def test_pieces_never_change_what_is_understood(
    parts: list[bytes], damage: list[tuple[int, int]], pieces: list[int], tail: bytes
) -> None:
    data = bytearray(HEADER + configuration() + b"".join(parts) + RAM_SECTION + tail)
    for at, value in damage:
        data[at % len(data)] = value
    outcomes = []
    for steps in ([len(data)], [1], pieces):
        head, at, turn = MainChannelHead(), 0, 0
        try:
            while at < len(data):
                step = steps[turn % len(steps)]
                head.feed(bytes(data[at : at + step]))
                at, turn = at + step, turn + 1
        except WireError as error:
            outcomes.append((str(error),))
        else:
            outcomes.append(facts(head))
    assert outcomes[0] == outcomes[1] == outcomes[2]


@settings(max_examples=200)
@given(st.binary(max_size=300), st.booleans())
def test_random_bytes_raise_nothing_but_wire_errors(data: bytes, with_header: bool) -> None:
    try:
        read(HEADER + data if with_header else data, 50)
    except WireError as error:
        assert str(error).isprintable()  # noqa: PT017
