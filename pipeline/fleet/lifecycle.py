"""The life of one migration in a fleet, as one table: (state, trigger) -> next state, and why that may be.

    Paused <─> Pending ─> Admitted ─> Preparing ─> Running ─> Switchover ─> Verifying ─> Succeeded
                  ▲           │            │           │           │
                  └───────────┴────────────┴───────────┴───────────┴──> Failed, Cancelled

Anything that is not in the table raises: a state that was reached against it would be a bug, and is not recorded.
Succeeded, Failed and Cancelled are final. Behind Switchover the destination owns the guest: nothing is cancelled there
unless the guest was put back first. Paused is a migration that was held back before it began; one that runs stays
Running and is slowed down (see `controller`).
"""

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType


class State(StrEnum):
    """Where a migration is; the same words in the journal, in events and on the screen."""

    PENDING = "Pending"
    ADMITTED = "Admitted"
    PREPARING = "Preparing"
    RUNNING = "Running"
    SWITCHOVER = "Switchover"
    VERIFYING = "Verifying"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    CANCELLED = "Cancelled"
    PAUSED = "Paused"


class Trigger(StrEnum):
    """What happened."""

    ADMIT = "admit"
    PREPARE = "prepare"
    START = "start"
    HAND_OVER = "hand over"
    TAKE_BACK = "take back"
    VERIFY = "verify"
    SUCCEED = "succeed"
    FAIL = "fail"
    RETRY = "retry"
    RECOVER = "recover"
    ADOPT = "adopt"
    CANCEL = "cancel"
    PAUSE = "pause"
    RESUME = "resume"


#: Nothing follows these.
FINAL = frozenset((State.SUCCEEDED, State.FAILED, State.CANCELLED))
#: These hold a slot of every limit that they count for.
UNDER_WAY = frozenset((State.ADMITTED, State.PREPARING, State.RUNNING, State.SWITCHOVER, State.VERIFYING))
#: These may have something at their hosts that must be brought to its end.
TOUCHING = UNDER_WAY - {State.ADMITTED}

_Row = tuple[State, str]
_PUT_BACK = "the guest is where it was"


def _ends(state: State) -> dict[tuple[State, Trigger], _Row]:
    """How an attempt that touches hosts may end without success."""
    return {
        (state, Trigger.RETRY): (State.PENDING, f"the attempt failed, {_PUT_BACK}, and there are attempts left"),
        (state, Trigger.RECOVER): (State.PENDING, f"its controller died and {_PUT_BACK}"),
        (state, Trigger.ADOPT): (State.SUCCEEDED, "its controller died behind the hand-over"),
        (state, Trigger.FAIL): (State.FAILED, "the attempt failed and no other is to be made"),
        (state, Trigger.CANCEL): (State.CANCELLED, f"the user gave it up and {_PUT_BACK}"),
    }


TRANSITIONS: Mapping[tuple[State, Trigger], _Row] = MappingProxyType(
    {
        (State.PENDING, Trigger.ADMIT): (State.ADMITTED, "every limit has room for it"),
        (State.PENDING, Trigger.PAUSE): (State.PAUSED, "held back before it begins"),
        (State.PENDING, Trigger.CANCEL): (State.CANCELLED, "given up before it began"),
        (State.PAUSED, Trigger.RESUME): (State.PENDING, "no longer held back"),
        (State.PAUSED, Trigger.CANCEL): (State.CANCELLED, "given up while it was held back"),
        (State.ADMITTED, Trigger.PREPARE): (State.PREPARING, "its hosts answer, the attempt begins"),
        (State.ADMITTED, Trigger.RETRY): (State.PENDING, "a host does not answer, and there are attempts left"),
        (State.ADMITTED, Trigger.RECOVER): (State.PENDING, "its controller died before it began"),
        (State.ADMITTED, Trigger.FAIL): (State.FAILED, "a host does not answer, and no other attempt is to be made"),
        (State.ADMITTED, Trigger.CANCEL): (State.CANCELLED, "given up before it began"),
        (State.PREPARING, Trigger.START): (State.RUNNING, "bytes travel"),
        # What happens between two looks at a host is not seen.
        (State.PREPARING, Trigger.HAND_OVER): (State.SWITCHOVER, "the hand-over was recorded"),
        (State.PREPARING, Trigger.VERIFY): (State.VERIFYING, "the attempt completed"),
        (State.RUNNING, Trigger.HAND_OVER): (State.SWITCHOVER, "the hand-over was recorded"),
        (State.RUNNING, Trigger.VERIFY): (State.VERIFYING, "the attempt completed"),
        (State.SWITCHOVER, Trigger.TAKE_BACK): (State.RUNNING, "the destination is gone for certain"),
        (State.SWITCHOVER, Trigger.VERIFY): (State.VERIFYING, "the attempt completed"),
        (State.VERIFYING, Trigger.SUCCEED): (State.SUCCEEDED, "the result is recorded"),
        (State.VERIFYING, Trigger.FAIL): (State.FAILED, "the memory at the destination is not that of the source"),
        (State.VERIFYING, Trigger.ADOPT): (State.SUCCEEDED, "its controller died behind the hand-over"),
        (State.VERIFYING, Trigger.RECOVER): (State.PENDING, f"its controller died and {_PUT_BACK}"),
        **_ends(State.PREPARING),
        **_ends(State.RUNNING),
        **_ends(State.SWITCHOVER),
    }
)


def follow(state: State, trigger: Trigger) -> State:
    """The state behind `trigger`. Raises `RuntimeError` for what must not happen: a bug, never a user's mistake."""
    try:
        return TRANSITIONS[state, trigger][0]
    except KeyError:
        raise RuntimeError(f"a migration that is {state} cannot {trigger}") from None


def reason(state: State, trigger: Trigger) -> str:
    """Why `trigger` may happen in `state`, for events that have no better one."""
    follow(state, trigger)
    return TRANSITIONS[state, trigger][1]
