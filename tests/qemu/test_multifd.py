"""Packets as each QEMU writes them, quirks included, and as nobody should."""

import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import WireError
from pipeline.memory.pages import PAGE_BYTES
from pipeline.qemu.multifd import (
    DEVICE_STATE_HEAD_BYTES,
    FLAG_DEVICE_STATE,
    FLAG_SYNC,
    INIT_BYTES,
    MAX_DEVICE_STATE_BYTES,
    PACKET_HEAD_BYTES,
    PACKET_START_BYTES,
    PAGES_PER_PACKET,
    PacketHead,
    announced_payload_bytes,
    device_state_bytes,
    encode_head,
    encode_sync,
    parse_head,
    parse_init,
    parse_start,
)
from tests.qemu.multifd_packets import device_state, init, packet

NO_PAGES = np.empty(0, dtype=np.uint32)
OFFSETS = st.integers(0, 2**32 - 1).map(lambda number: number * PAGE_BYTES)


def parse(data: bytes) -> PacketHead:
    """A whole head as the source reads it: 12 bytes, then the rest."""
    return parse_head(parse_start(data[:PACKET_START_BYTES]), data[PACKET_START_BYTES:PACKET_HEAD_BYTES])


def payload_bytes(data: bytes) -> int:
    """How much the source reads behind a head."""
    return announced_payload_bytes(data[:DEVICE_STATE_HEAD_BYTES])


@given(st.binary(min_size=16, max_size=16), st.integers(0, 254))
def test_init_says_uuid_and_channel(uuid: bytes, channel: int) -> None:
    parsed = parse_init(init(uuid, channel), 255)
    assert (parsed.uuid, parsed.channel) == (uuid, channel)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (init(magic=0x5145564D), "magic 0x5145564d"),
        (init(version=2), "version 2"),
        (init(channel=2), "channel 2 of 2: set multifd-channels alike"),
        (init(channel=255), "channel 255 of 2"),
        (init()[:-1], "has 63 bytes"),
        (init() + b"\0", "has 65 bytes"),
        (b"", "has 0 bytes"),
    ],
)
def test_init_that_is_wrong_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(WireError, match=reason):
        parse_init(data, 2)


@given(st.lists(OFFSETS, max_size=128), st.integers(0, 128), st.integers(0, 2**64 - 1), st.booleans())
def test_packet_says_which_pages_follow(offsets: list[int], split: int, number: int, sync: bool) -> None:
    normal, zero = tuple(offsets[:split]), tuple(offsets[split:])
    data = packet(int(sync), normal, zero, number=number)
    head = parse(data)
    assert (head.normal * np.uint64(PAGE_BYTES)).tolist() == list(normal)
    assert (head.zero * np.uint64(PAGE_BYTES)).tolist() == list(zero)
    assert (head.sync, head.packet_number) == (sync, number)
    assert payload_bytes(data) == len(normal) * PAGE_BYTES
    assert head.block == (b"pc.ram" if offsets else b"")


@pytest.mark.parametrize("flags", [0, 1])
@pytest.mark.parametrize("stale", [4096, 128 * 4096, 2**32 - 1])
def test_stale_payload_size_of_a_packet_without_pages_is_not_believed(flags: int, stale: int) -> None:
    # Quirk b, QEMU 7.2.
    assert payload_bytes(packet(flags, next_size=stale)) == 0


@pytest.mark.parametrize("next_size", [0, 1, 2**32 - 1])
def test_payload_is_as_long_as_its_pages_whatever_its_size_field_says(next_size: int) -> None:
    assert payload_bytes(packet(0, (0, 4096), next_size=next_size)) == 2 * PAGE_BYTES


@pytest.mark.parametrize("pages_alloc", [0, 128])
def test_stale_block_and_offsets_of_a_packet_without_pages_are_not_read(pages_alloc: int) -> None:
    # Quirk c, QEMU up to 9.1: not even offsets that would be refused matter.
    head = parse(packet(1, stale_offsets=(1, 2**64 - 1) * 64, block=b"\xff" * 256, pages_alloc=pages_alloc))
    assert head.sync
    assert (head.block, len(head.normal), len(head.zero)) == (b"", 0, 0)


def test_offsets_behind_the_announced_pages_are_not_read() -> None:
    assert parse(packet(0, (8192,), stale_offsets=(1, 2**64 - 1))).normal.tolist() == [2]


def test_barrier_on_a_data_packet_is_told_together_with_its_pages() -> None:
    # Quirk a, QEMU 7.2 and 8.2; an empty packet without flags follows.
    data = packet(1, (4096, 0))
    head = parse(data)
    assert (head.sync, head.normal.tolist(), payload_bytes(data)) == (True, [1, 0], 2 * PAGE_BYTES)
    empty = packet(0, next_size=8192)
    assert (parse(empty).sync, payload_bytes(empty)) == (False, 0)


def test_block_name_ends_at_its_first_nul() -> None:
    assert parse(packet(0, (0,), block=b"/rom@etc/acpi/tables\0stale")).block == b"/rom@etc/acpi/tables"
    assert parse(packet(0, (0,), block=b"x" * 255)).block == b"x" * 255


@pytest.mark.parametrize("block", [b"", b"\0pc.ram", b"x" * 256])
def test_pages_of_a_block_without_a_name_are_refused(block: bytes) -> None:
    with pytest.raises(WireError, match="no RAM block name"):
        parse(packet(0, (0,), block=block))


@pytest.mark.parametrize(
    ("normal", "zero"), [(129, 0), (0, 129), (128, 1), (64, 65), (2**32 - 1, 0), (0, 2**32 - 1), (2**32 - 1, 2**32 - 1)]
)
def test_more_pages_than_a_packet_holds_are_refused(normal: int, zero: int) -> None:
    data = packet(0, normal_pages=normal, zero_pages=zero)
    for parser in (parse, payload_bytes):
        with pytest.raises(WireError, match=f"{normal} normal and {zero} zero pages"):
            parser(data)


@pytest.mark.parametrize("offset", [1, 4095, 4097, 2**44, 2**44 + 4096, 2**63, 2**64 - 4096, 2**64 - 1])
@pytest.mark.parametrize("at", [0, 63, 127])
def test_offset_that_is_no_page_is_refused(offset: int, at: int) -> None:
    offsets = [0] * 128
    offsets[at] = offset
    for split in (0, 64, 128):
        with pytest.raises(WireError, match="offset"):
            parse(packet(0, tuple(offsets[:split]), tuple(offsets[split:])))


def test_highest_page_is_taken() -> None:
    assert parse(packet(0, (2**44 - 4096,))).normal.tolist() == [2**32 - 1]


@pytest.mark.parametrize(
    ("flags", "method"),
    [
        (0x02, "zlib"),
        (0x04, "zstd"),
        (0x08, "qpl"),
        (0x10, "uadk"),
        (0x20, "qatzip"),
        (0x06, "method 0x6"),
        (0x3E, "method 0x3e"),
    ],
)
def test_compressed_packets_are_refused_by_the_name_of_their_method(flags: int, method: str) -> None:
    for extra in (0, FLAG_SYNC, FLAG_DEVICE_STATE):
        with pytest.raises(WireError, match=f"compresses multifd with {method}: set multifd-compression=none"):
            parse_start(packet(flags | extra)[:PACKET_START_BYTES])


@pytest.mark.parametrize("flags", [0x80, 0x100, 0x80000000, 0xFFFFFFFF])
def test_flags_of_a_later_qemu_are_refused(flags: int) -> None:
    with pytest.raises(WireError, match=f"unknown flags {flags:#x}"):
        parse_start(packet(flags)[:PACKET_START_BYTES])


def test_stream_that_lost_its_place_is_noticed() -> None:
    for start in (struct.pack(">III", 0x5145564D, 3, 0), struct.pack(">III", 0x11223344, 2, 0), bytes(12)):
        with pytest.raises(WireError, match="lost its place"):
            parse_start(start)


@pytest.mark.parametrize("flags", [0, FLAG_SYNC, FLAG_DEVICE_STATE])
def test_flags_that_pass_are_told(flags: int) -> None:
    assert parse_start(packet(flags)[:PACKET_START_BYTES]) == flags


def test_device_state_is_never_a_barrier() -> None:
    with pytest.raises(WireError, match="device state and SYNC"):
        parse_start(device_state(10, flags=0x41)[:PACKET_START_BYTES])


@pytest.mark.parametrize("size", [1, 1 << 20, MAX_DEVICE_STATE_BYTES])
def test_device_state_says_how_much_follows(size: int) -> None:
    data = device_state(size)
    assert len(data) == DEVICE_STATE_HEAD_BYTES
    assert parse_start(data[:PACKET_START_BYTES]) == FLAG_DEVICE_STATE
    assert device_state_bytes(data[PACKET_START_BYTES:]) == size


@pytest.mark.parametrize("size", [0, MAX_DEVICE_STATE_BYTES + 1, 2**32 - 1])
def test_device_state_of_impossible_size_is_refused(size: int) -> None:
    with pytest.raises(WireError, match=f"device-state packet of {size} bytes"):
        device_state_bytes(device_state(size)[PACKET_START_BYTES:])


@given(st.lists(st.integers(0, 2**32 - 1), max_size=128), st.integers(0, 128), st.integers(0, 2**64 - 1))
def test_encoded_heads_are_what_qemu_writes(numbers: list[int], split: int, number: int) -> None:
    pages = np.array(numbers, dtype=np.uint32)
    normal, zero = (tuple(page * PAGE_BYTES for page in part) for part in (numbers[:split], numbers[split:]))
    encoded = encode_head(b"pc.ram", pages[:split], pages[split:], number)
    assert encoded == packet(0, normal, zero, number=number)


@pytest.mark.parametrize("number", [0, 2**64 - 1])
def test_encoded_barrier_is_what_qemu_writes(number: int) -> None:
    assert encode_sync(number) == packet(1, block=b"", number=number)


def test_encoded_block_name_is_always_ended() -> None:
    page = np.zeros(1, dtype=np.uint32)
    assert parse(encode_head(b"x" * 255, page, NO_PAGES, 0)).block == b"x" * 255


@pytest.mark.parametrize("parser", [parse_start, lambda data: parse_head(0, data), device_state_bytes])
@pytest.mark.parametrize("length", [0, 1, 11, 13, 263, 265, 1331, 1333, 1344])
def test_head_of_another_length_is_refused(parser: object, length: int) -> None:
    assert callable(parser)
    with pytest.raises(WireError):
        parser(bytes(length))


def check_bounds(head: PacketHead) -> None:
    assert len(head.normal) + len(head.zero) <= PAGES_PER_PACKET
    assert (head.normal.dtype, head.zero.dtype) == (np.uint32, np.uint32)
    assert len(head.block) <= 255
    assert 0 <= head.packet_number < 2**64
    assert bool(head.block) == bool(len(head.normal) + len(head.zero))


@settings(max_examples=150)
@given(st.binary(max_size=80), st.integers(0, 255))
def test_random_inits_raise_nothing_but_wire_errors(data: bytes, channels: int) -> None:
    for candidate in (data, init()[:8] + data[:56].ljust(56, b"\0")):
        try:
            parsed = parse_init(candidate, channels)
        except WireError:
            continue
        assert 0 <= parsed.channel < channels
        assert len(parsed.uuid) == 16


@settings(max_examples=150)
@given(st.binary(max_size=16), st.integers(0, 2**32 - 1))
def test_random_starts_raise_nothing_but_wire_errors(data: bytes, flags: int) -> None:
    for candidate in (
        data,
        struct.pack(">III", 0x11223344, 1, flags),
        struct.pack(">III", 0x11223344, 1, flags & 0x7F),
    ):
        try:
            parsed = parse_start(candidate)
        except WireError:
            continue
        assert parsed in (0, FLAG_SYNC, FLAG_DEVICE_STATE)


@settings(max_examples=150)
@given(st.integers(0, 2**32 - 1), st.integers(0, 140), st.integers(0, 140))
def test_random_heads_raise_nothing_but_wire_errors(seed: int, normal: int, zero: int) -> None:
    rng = np.random.default_rng(seed)
    counts = struct.pack(">IIIQI", 128, normal, 0, 1, zero)
    for offsets in (
        rng.bytes(1024),
        (rng.integers(0, 2**46, 128, dtype=np.uint64) >> 12 << 12).astype(">u8").tobytes(),
    ):
        for name in (rng.bytes(256), b"pc.ram".ljust(256, b"\0")):
            try:
                head = parse_head(0, counts + bytes(28) + name + offsets)
            except WireError:
                continue
            check_bounds(head)


@settings(max_examples=200)
@given(
    st.integers(0, 1),
    st.lists(OFFSETS, max_size=6),
    st.lists(st.tuples(st.integers(0, PACKET_HEAD_BYTES - 1), st.integers(0, 255)), min_size=1, max_size=6),
)
def test_damaged_packets_raise_nothing_but_wire_errors(
    flags: int, offsets: list[int], damage: list[tuple[int, int]]
) -> None:
    data = bytearray(packet(flags, tuple(offsets)))
    for at, value in damage:
        # Half of the damage goes where the fields are, ahead of the offsets.
        data[at % 72 if value % 2 else at] = value
    try:
        start = parse_start(bytes(data[:PACKET_START_BYTES]))
        if start & FLAG_DEVICE_STATE:
            assert device_state_bytes(data[PACKET_START_BYTES:DEVICE_STATE_HEAD_BYTES]) <= MAX_DEVICE_STATE_BYTES
            return
        head = parse_head(start, data[PACKET_START_BYTES:])
    except WireError:
        return
    check_bounds(head)
    assert payload_bytes(bytes(data)) == len(head.normal) * PAGE_BYTES


@given(st.binary(min_size=DEVICE_STATE_HEAD_BYTES - 12, max_size=DEVICE_STATE_HEAD_BYTES - 12))
def test_random_device_state_raises_nothing_but_wire_errors(rest: bytes) -> None:
    try:
        assert 0 < device_state_bytes(rest) <= MAX_DEVICE_STATE_BYTES
    except WireError:
        return


def test_init_and_packet_sizes_are_those_of_the_structs() -> None:
    assert (INIT_BYTES, PACKET_HEAD_BYTES, DEVICE_STATE_HEAD_BYTES, PACKET_START_BYTES) == (64, 1344, 276, 12)
