"""The demo guest once more, one word at a time in plain integers: the oracle of guest_model's tests.

Written from the description of the guest, not from its model.
"""

from collections.abc import Iterator

from pipeline.demo.guest import FIRST_PAGE, GuestParameters
from pipeline.demo.guest_tables import code_table, text_table

_MASK = 2**64 - 1
_GOLDEN = 0x9E3779B97F4A7C15


def _mix(value: int) -> int:
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


def _word(seed: int, nth: int) -> int:
    value = (seed + nth * _GOLDEN) & _MASK
    return ((value ^ (value >> 32)) * 0xD6E8FEB86659FD93) & _MASK


def _text(word: int) -> int:
    return int(text_table()[word >> 53])


def _code(word: int) -> int:
    fixed, varying = (int(value) for value in code_table()[word >> 54])
    return fixed | (word & varying)


def fill(parameters: GuestParameters, page: int) -> list[int]:
    """The words that `page` holds before the first step."""
    seed = _mix((page * _GOLDEN + parameters.fill_seed) & _MASK)
    zero_below, text_below, code_below = parameters.kind_thresholds
    draw = seed >> 32
    words = [_word(seed, nth) for nth in range(512)]
    if draw < zero_below:
        return [0] * 512
    if draw < text_below:
        return [_text(word) for word in words]
    if draw < code_below:
        return [_code(word) for word in words]
    return words


def writes(parameters: GuestParameters, step: int) -> Iterator[tuple[int, int, int]]:
    """(page, word, value) that `step` writes, in order."""
    seed = _mix((step * _GOLDEN + parameters.step_seed) & _MASK)
    page = FIRST_PAGE + (((seed >> 32) * parameters.working_set_pages) >> 32)
    action = seed % 16
    if action <= 2:
        for nth in range(512):
            word = _word(seed, nth)
            yield page, nth, (0, _text(word), word)[action]
    else:
        for nth in range(1 + (seed >> 4) % 4):
            yield page, ((seed >> 8) + 67 * nth) % 512, _word(seed, nth)
