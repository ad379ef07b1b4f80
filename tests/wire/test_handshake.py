"""What two ends say first: the documented bytes, every disagreement by name, only `WireError` for garbage."""

import json
import struct
from dataclasses import asdict, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.codecs.codec import CodecId
from pipeline.errors import LinkError, WireError
from pipeline.wire.handshake import (
    LENGTH,
    MAX_CHANNELS,
    MAX_MESSAGE_BYTES,
    PREAMBLE_BYTES,
    Hello,
    Preamble,
    Role,
    agreed_codecs,
    check_answer,
    disagreement,
    encode_accept,
    encode_hello,
    encode_preamble,
    encode_refusal,
    message_length,
    parse_hello,
    parse_preamble,
)

SESSION = bytes(range(16))
PREAMBLE = Preamble(Role.CHANNEL, 3, SESSION)
HELLO = Hello(Role.CHANNEL, SESSION.hex(), 3, 4, CodecId.ZSTD)
FIELDS = asdict(HELLO)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


def body(message: bytes) -> bytes:
    """A message without its length, which must be right."""
    assert message_length(message[: LENGTH.size]) == len(message) - LENGTH.size
    return message[LENGTH.size :]


def refusal(hello: Hello, channels: int | None = 4) -> str:
    reason = disagreement(hello, PREAMBLE, channels)
    assert reason is not None
    return reason


def test_preamble_is_laid_out_as_documented() -> None:
    data = encode_preamble(PREAMBLE)
    assert data == b"KUAKA1" + bytes([3, 0]) + struct.pack(">H", 3) + bytes(6) + SESSION
    assert len(data) == PREAMBLE_BYTES
    assert parse_preamble(data) == PREAMBLE


@pytest.mark.parametrize("role", Role)
def test_every_role_comes_back(role: Role) -> None:
    assert parse_preamble(encode_preamble(Preamble(role, 65535, SESSION))) == Preamble(role, 65535, SESSION)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n", "not from kuaka"),
        (b"KUAKA2" + encode_preamble(PREAMBLE)[6:], "incompatible version"),
        (b"KUAKA1\x00" + encode_preamble(PREAMBLE)[7:], "0 is not a valid Role"),
        (b"KUAKA1\x05" + encode_preamble(PREAMBLE)[7:], "5 is not a valid Role"),
        (encode_preamble(PREAMBLE)[:-1], "has 31 bytes"),
        (encode_preamble(PREAMBLE) + b"\0", "has 33 bytes"),
        (b"", "has 0 bytes"),
    ],
)
def test_preamble_of_a_stranger_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(WireError, match=reason):
        parse_preamble(data[:PREAMBLE_BYTES] if data.startswith(b"GET") else data)


@given(st.sampled_from(Role), st.integers(0, MAX_CHANNELS), st.integers(0, MAX_CHANNELS), st.sampled_from(CodecId))
def test_any_hello_comes_back_as_it_was(role: Role, channel: int, channels: int, codec: CodecId) -> None:
    hello = Hello(role, SESSION.hex(), channel, channels, codec)
    assert parse_hello(body(encode_hello(hello))) == hello


def test_ends_that_agree_do_not_disagree() -> None:
    assert disagreement(HELLO, PREAMBLE, 4) is None
    assert disagreement(HELLO, PREAMBLE, None) is None
    highest = replace(HELLO, channel=254, channels=MAX_CHANNELS)
    assert disagreement(highest, replace(PREAMBLE, channel=254), MAX_CHANNELS) is None


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"version": 2}, "protocol version 2 differs from 1 here"),
        ({"version": 0}, "protocol version 0 differs from 1 here"),
        ({"page_bytes": 16384}, "page size 16384 differs from 4096 here"),
        ({"page_bytes": 0}, "page size 0"),
        ({"session": "00" * 16}, "session, role or channel"),
        ({"role": Role.IMAGE}, "session, role or channel"),
        ({"channel": 2}, "session, role or channel"),
        ({"codec": 99, "codecs": (0, 99)}, "codec 99 is not known here"),
        ({"codec": CodecId.LZ4, "codecs": (0, 2)}, "codec 1"),
        ({"channels": 8}, "channel count 8 differs from 4 here: set multifd-channels alike on both sides"),
    ],
)
def test_each_disagreement_is_named(changes: dict[str, Any], reason: str) -> None:
    assert reason in refusal(replace(HELLO, **changes))


@pytest.mark.parametrize("channels", [0, 3, MAX_CHANNELS + 1, 2**32 - 1])
def test_channel_that_cannot_exist_is_refused_where_any_count_will_do(channels: int) -> None:
    assert f"channel 3 of {channels} does not exist" in refusal(replace(HELLO, channels=channels), None)


@pytest.mark.parametrize("name", [*FIELDS])
def test_missing_field_is_named(name: str) -> None:
    fields = {key: value for key, value in FIELDS.items() if key != name}
    with pytest.raises(WireError, match=f"field '{name}' is missing"):
        parse_hello(json.dumps(fields).encode())


@pytest.mark.parametrize("value", [None, "1", 1.0, True, -1, 2**32, [], {}, [1]])
@pytest.mark.parametrize("name", ["role", "channel", "channels", "codec", "page_bytes", "version"])
def test_number_of_another_type_or_range_is_refused(name: str, value: object) -> None:
    with pytest.raises(WireError, match=f"{name} is not a number in range"):
        parse_hello(json.dumps(FIELDS | {name: value}).encode())


@pytest.mark.parametrize("session", [None, 1, "", "00" * 15, "00" * 17, ["0"] * 32])
def test_session_of_another_shape_is_refused(session: object) -> None:
    with pytest.raises(WireError, match="32 hexadecimal digits"):
        parse_hello(json.dumps(FIELDS | {"session": session}).encode())


@pytest.mark.parametrize("codecs", [None, 1, {}, "0123", [0, "1"], [True], [1.0], [0] * 257])
def test_codecs_of_another_shape_are_refused(codecs: object) -> None:
    with pytest.raises(WireError, match="list of numbers"):
        parse_hello(json.dumps(FIELDS | {"codecs": codecs}).encode())


@pytest.mark.parametrize("length", [0, 1, MAX_MESSAGE_BYTES + 1, 2**31, 2**32 - 1])
def test_message_of_impossible_length_is_refused_before_it_is_read(length: int) -> None:
    with pytest.raises(WireError, match=f"message of {length} bytes"):
        message_length(struct.pack(">I", length))


@pytest.mark.parametrize("data", [b"", b"\0\0\0", b"\0\0\0\x10\0"])
def test_length_of_another_size_is_refused(data: bytes) -> None:
    with pytest.raises(WireError):
        message_length(data)


@pytest.mark.parametrize(
    "data", [b"", b"\xff\xfe\xfd", b"[" * 4096, b'{"a":' * 800, b"1" * 4096, b"NaN", b"[]", b'"x"', b"null", b"{"]
)
def test_message_that_is_no_json_object_is_refused(data: bytes) -> None:
    with pytest.raises(WireError):
        parse_hello(data)
    with pytest.raises(WireError):
        check_answer(data, "peer", HELLO)


@settings(max_examples=80)
@given(st.binary(max_size=200) | JSON.map(lambda value: json.dumps(value).encode()))
def test_random_messages_raise_nothing_but_wire_and_link_errors(data: bytes) -> None:
    with pytest.raises(WireError):
        parse_hello(data)
    with pytest.raises((WireError, LinkError)):
        check_answer(data, "peer", HELLO)


@settings(max_examples=150)
@given(st.sampled_from([*FIELDS]), JSON)
def test_hello_with_any_value_in_a_field_is_taken_or_refused_cleanly(name: str, value: object) -> None:
    try:
        hello = parse_hello(json.dumps(FIELDS | {name: value}).encode())
    except WireError:
        return
    assert hello == HELLO or disagreement(hello, PREAMBLE, 4) is not None or name in ("codecs", "codec")


@given(st.binary(max_size=40))
def test_random_preambles_raise_nothing_but_wire_errors(data: bytes) -> None:
    with pytest.raises(WireError):
        parse_preamble(data)


def test_acceptance_says_what_frames_may_be_of() -> None:
    hello = replace(HELLO, codecs=(CodecId.ZSTD, CodecId.QAT, CodecId.LZ4))
    agreed = agreed_codecs(hello, (CodecId.QAT, CodecId.NONE))
    assert agreed == (CodecId.ZSTD, CodecId.QAT)
    assert check_answer(body(encode_accept(agreed)), "peer", hello) == agreed


@pytest.mark.parametrize("codecs", [None, [], "23", [CodecId.QAT], [CodecId.ZSTD, 99], [2.0], [True], [[2]], {}])
def test_acceptance_of_what_was_not_offered_is_refused(codecs: object) -> None:
    hello = replace(HELLO, codecs=(CodecId.ZSTD, CodecId.QAT))
    with pytest.raises(WireError, match="accepts codecs that were not offered"):
        check_answer(json.dumps({"accepted": True, "codecs": codecs}).encode(), "peer", hello)


@pytest.mark.parametrize("accepted", [1, "true", None, [True], False])
def test_only_true_is_acceptance(accepted: object) -> None:
    with pytest.raises(LinkError, match="peer refused the link: no reason given"):
        check_answer(json.dumps({"accepted": accepted}).encode(), "peer", HELLO)


def test_refusal_carries_its_reason() -> None:
    with pytest.raises(LinkError, match="peer refused the link: codec 9 is not known here"):
        check_answer(body(encode_refusal("codec 9 is not known here")), "peer", HELLO)


@pytest.mark.parametrize("text", ["x" * 5000, "é" * 5000, "\N{BIRD}" * 5000, '"\\' * 5000, "\0\x1b\n" * 5000, "\ud800"])
def test_reason_of_any_text_fits_a_message_and_one_line(text: str) -> None:
    message = encode_refusal(text)
    assert len(message) - LENGTH.size <= MAX_MESSAGE_BYTES
    with pytest.raises(LinkError) as refused:
        check_answer(body(message), "peer", HELLO)
    assert str(refused.value).isprintable()


@given(st.text(max_size=1200))
def test_reason_of_a_hostile_peer_is_shown_on_one_printable_line(text: str) -> None:
    with pytest.raises(LinkError) as refused:
        check_answer(json.dumps({"accepted": False, "reason": text}).encode(), "peer", HELLO)
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 1100
