"""Help for a guest that dirties its memory faster than it is sent: what to try next, and when to give it up.

A guest that converges sends its memory once, and ever smaller rests of it. So the passes are watched: bytes of pages
sent so far divided by bytes of memory. Help comes in this order, each after the passes that the rules say and no sooner
than `patience_ns` after the help before it:

    more accelerator weight -> QEMU's auto-converge, where it is allowed -> give up: the guest goes on at its source
"""

from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum

_SECOND_NS = 10**9


class Help(StrEnum):
    """What can be done for an attempt."""

    MORE_WEIGHT = "more accelerator weight"
    AUTO_CONVERGE = "auto-converge"
    GIVE_UP = "give up"


@dataclass(frozen=True, slots=True)
class ConvergenceRules:
    """Passes are in thousandths of the guest's memory."""

    allow_auto_converge: bool = False
    weight_per_mille: int = 2_000
    auto_converge_per_mille: int = 3_000
    give_up_per_mille: int = 10_000
    patience_ns: int = 10 * _SECOND_NS


@dataclass(frozen=True, slots=True)
class Course:
    """How an attempt has gone so far."""

    #: Bytes of the pages sent, each time that it was sent.
    sent_bytes: int
    memory_bytes: int
    #: What was tried already, with effect or without.
    tried: Collection[Help]
    #: Since the last of it, or since the attempt began.
    since_help_ns: int


def next_help(course: Course, rules: ConvergenceRules) -> Help | None:
    """What to try now; None to go on as it is."""
    if course.memory_bytes <= 0 or course.since_help_ns < rules.patience_ns:
        return None
    passes_per_mille = course.sent_bytes * 1000 // course.memory_bytes
    ladder = [(Help.MORE_WEIGHT, rules.weight_per_mille)]
    if rules.allow_auto_converge:
        ladder.append((Help.AUTO_CONVERGE, rules.auto_converge_per_mille))
    ladder.append((Help.GIVE_UP, rules.give_up_per_mille))
    for step, from_per_mille in ladder:
        if step not in course.tried:
            return step if passes_per_mille >= from_per_mille else None
    return None
