"""Amounts of bytes as people write them: 256MiB, 64Mi, 50MB, 20MiB/s, 4096.

The rule: k, M, G, T are powers of 1000 and Ki, Mi, Gi, Ti powers of 1024, as in Kubernetes; the B is optional. Nothing
is guessed: an amount that is no whole number of bytes is refused.
"""

import re
from fractions import Fraction

_UNITS = {"": 1} | {
    prefix + suffix: base**power
    for power, letter in enumerate("kMGT", start=1)
    for prefix, suffix, base in ((letter, "", 1000), (letter.upper(), "i", 1024))
}
_AMOUNT = re.compile(r"(\d{1,18}(?:\.\d{1,6})?) ?([kKMGT]?i?)B?")
_PER_SECOND = ("/s", "/S")


def parse_bytes(text: str) -> int:
    """Bytes; raises ValueError with what is wrong and what to write."""
    found = _AMOUNT.fullmatch(text.strip())
    unit = _UNITS.get("k" if found[2] == "K" else found[2]) if found else None
    if not found or unit is None:
        raise ValueError(f"{text[:80]!r} is no amount of bytes: write one like 256MiB, 50MB or 4096")
    amount = Fraction(found[1]) * unit
    if amount.denominator != 1:
        raise ValueError(f"{text[:80]!r} is no whole number of bytes")
    return int(amount)


def parse_rate(text: str) -> int:
    """Bytes per second, the "/s" optional; raises ValueError with what is wrong and what to write."""
    text = text.strip()
    try:
        return parse_bytes(text[:-2] if text.endswith(_PER_SECOND) else text)
    except ValueError:
        raise ValueError(f"{text[:80]!r} is no rate: write one like 20MiB/s or 50MB") from None


def show_bytes(amount: int) -> str:
    """`amount` in the largest binary unit that keeps it short."""
    size, unit = float(amount), "bytes"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if size < 1024:
            break
        size, unit = size / 1024, larger
    return f"{size:.1f}".removesuffix(".0") + f" {unit}"
