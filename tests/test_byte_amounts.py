"""What people write for amounts of bytes, and what is refused."""

import pytest

from pipeline.byte_amounts import parse_bytes, parse_rate, show_bytes


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        ("0", 0),
        ("4096", 4096),
        ("1B", 1),
        ("2k", 2000),
        ("2K", 2000),
        ("2kB", 2000),
        ("2Ki", 2048),
        ("2KiB", 2048),
        ("256MiB", 256 << 20),
        ("256 MiB", 256 << 20),
        ("64Mi", 64 << 20),
        ("50MB", 50_000_000),
        ("1.5GiB", 3 << 29),
        ("3T", 3 * 10**12),
    ],
)
def test_amounts(text: str, amount: int) -> None:
    assert parse_bytes(text) == amount


@pytest.mark.parametrize("text", ["", "MiB", "-1", "1e6", "5PB", "5Bi", "12 apples", "0x10", "1..5M", "9" * 40, "5i"])
def test_what_is_no_amount_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no amount of bytes"):
        parse_bytes(text)


def test_parts_of_a_byte_are_refused() -> None:
    with pytest.raises(ValueError, match="no whole number"):
        parse_bytes("0.3KiB")


@pytest.mark.parametrize(
    ("text", "rate"), [("20MiB", 20 << 20), ("20MiB/s", 20 << 20), ("0", 0), ("50MB/s", 50 * 10**6)]
)
def test_rates(text: str, rate: int) -> None:
    assert parse_rate(text) == rate


def test_what_is_no_rate_is_refused() -> None:
    with pytest.raises(ValueError, match="is no rate"):
        parse_rate("20MiB/h")


@pytest.mark.parametrize(
    ("amount", "shown"), [(5, "5 bytes"), (1536, "1.5 KiB"), (256 << 20, "256 MiB"), (3 << 40, "3 TiB")]
)
def test_amounts_are_shown_short(amount: int, shown: str) -> None:
    assert show_bytes(amount) == shown
