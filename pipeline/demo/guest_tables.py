"""The two tables the demo guest composes pages from: pieces of running text and pieces of machine code.

The rule: a table is a pure function of this file, 8 bytes per piece, built without any library's random numbers, so
that the guest's memory is the same for every Python. Words follow Zipf's law and instructions the frequencies of
compiled code, which is what lets zstd level 1 shrink them as it does their models: in chunks of 512 KiB, text 3.1
times and code 1.7 times (lz4 1.7 and 1.3, raw deflate with a 4 KiB window 2.1 and 1.8).
"""

from functools import cache

import numpy as np
from numpy.typing import NDArray

TEXT_PIECES = 2048
CODE_PIECES = 1024

#: Most frequent first.
_WORDS = (
    "the of and to in is for that on with as are be this by it from at or an not have was which can server "
    "request user data page memory value error time new all one has will name file system process thread table "
    "index count state host table cache config network client session message status default local remote update "
    "delete insert select where group order limit connection timeout address buffer length offset record field "
    "string number object method return result parameter function module package version release build source "
    "target migration guest machine device driver kernel virtual physical storage volume snapshot replica cluster "
    "node leader follower election heartbeat checkpoint journal commit transaction rollback isolation consistency "
    "availability partition latency throughput bandwidth congestion window packet segment checksum encryption "
    "certificate signature permission policy administrator environment development production monitoring "
    "dashboard notification subscription customer invoice payment delivery warehouse inventory catalogue"
)
_BREAKS = (" ", " ", " ", " ", " ", " ", ", ", ". ", "\n", "=", ": ", "/", '": "', "_", " 1", " 20")

#: (weight, bytes): an instruction as compilers emit it; a lower-case x is a hex digit that varies from place to place.
_INSTRUCTIONS = (
    (9, "488b45x8"),
    (9, "488945x8"),
    (8, "e8x0xx0000"),
    (7, "4889c7"),
    (6, "488b4c24x8"),
    (5, "85c0"),
    (5, "74xx"),
    (4, "0f84x80x0000"),
    (4, "488d3dx0xx0000"),
    (4, "ebxx"),
    (3, "f30f1efa"),
    (3, "4883ec18"),
    (3, "4883c418"),
    (3, "5b5d415cc3"),
    (3, "4154555348"),
    (3, "488d15xxxx0000"),
    (2, "bexx000000"),
    (2, "0fb64xxx"),
    (2, "4c8b6bx8"),
    (3, "c74424x800000000"),
    (4, "662e0f1f840000000000"),
    (1, "48b8xxxxxxxx00000000"),
)


class _Draws:
    """Pseudo-random numbers: the high bits of a 64-bit linear congruential generator with Knuth's MMIX constants."""

    def __init__(self, seed: int) -> None:
        self._state = seed

    def below(self, bound: int) -> int:
        """The next number in 0..bound-1."""
        self._state = (self._state * 6364136223846793005 + 1442695040888963407) % 2**64
        return (self._state >> 32) * bound >> 32


@cache
def text_table() -> NDArray[np.uint64]:
    """TEXT_PIECES words of 8 characters each, cut from one running text."""
    draws = _Draws(1)
    words = _WORDS.split()
    deck = [word for rank, word in enumerate(words) for _ in range(1000 // (rank + 2))]
    pieces: list[str] = []
    length = 0
    while length < TEXT_PIECES * 8:
        piece = deck[draws.below(len(deck))] + _BREAKS[draws.below(len(_BREAKS))]
        pieces.append(piece)
        length += len(piece)
    text = "".join(pieces).encode("ascii")[: TEXT_PIECES * 8]
    return np.frombuffer(text, dtype=np.uint64)


@cache
def code_table() -> NDArray[np.uint64]:
    """(CODE_PIECES, 2) words: the bits that are the same wherever a piece is used, and the mask of those that vary."""
    draws = _Draws(2)
    deck = [code for weight, code in _INSTRUCTIONS for _ in range(weight)]
    digits = ""
    while len(digits) < CODE_PIECES * 16:
        digits += deck[draws.below(len(deck))]
    digits = digits[: CODE_PIECES * 16]
    fixed = bytes.fromhex(digits.replace("x", "0"))
    varying = bytes.fromhex("".join("f" if digit == "x" else "0" for digit in digits))
    return np.stack([np.frombuffer(fixed, dtype=np.uint64), np.frombuffer(varying, dtype=np.uint64)], axis=1)
