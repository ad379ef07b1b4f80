"""The table of states: what it must allow, and what it must never allow, whatever happens in whatever order."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.fleet.lifecycle import FINAL, TOUCHING, TRANSITIONS, UNDER_WAY, State, Trigger, follow, reason


def reachable(start: State, without: frozenset[Trigger] = frozenset()) -> set[State]:
    found, waiting = {start}, [start]
    while waiting:
        state = waiting.pop()
        for (before, trigger), (after, _) in TRANSITIONS.items():
            if before is state and trigger not in without and after not in found:
                found.add(after)
                waiting.append(after)
    return found


def test_a_migration_without_trouble_goes_through_all_states_in_this_order() -> None:
    state, seen = State.PENDING, [State.PENDING]
    for trigger in ("admit", "prepare", "start", "hand over", "verify", "succeed"):
        state = follow(state, Trigger(trigger))
        seen.append(state)
    assert [str(state) for state in seen] == [
        "Pending",
        "Admitted",
        "Preparing",
        "Running",
        "Switchover",
        "Verifying",
        "Succeeded",
    ]


def test_every_state_is_reached_and_every_one_can_come_to_an_end() -> None:
    assert reachable(State.PENDING) == set(State)
    for state in State:
        assert reachable(state) & FINAL


@pytest.mark.parametrize("state", sorted(FINAL))
def test_nothing_follows_an_end(state: State) -> None:
    for trigger in Trigger:
        with pytest.raises(RuntimeError, match=f"is {state} cannot {trigger}"):
            follow(state, trigger)


def test_what_is_not_in_the_table_raises_and_has_no_reason() -> None:
    for state, trigger in itertools.product(State, Trigger):
        if (state, trigger) not in TRANSITIONS:
            with pytest.raises(RuntimeError):
                follow(state, trigger)
            with pytest.raises(RuntimeError):
                reason(state, trigger)
        else:
            assert reason(state, trigger)


def test_nothing_touches_a_host_that_was_not_admitted() -> None:
    assert not reachable(State.PENDING, frozenset((Trigger.ADMIT,))) & UNDER_WAY
    assert not reachable(State.PENDING, frozenset((Trigger.PREPARE,))) & TOUCHING


def test_success_comes_behind_the_hand_over_or_a_check_alone() -> None:
    assert State.SUCCEEDED not in reachable(State.PENDING, frozenset((Trigger.VERIFY, Trigger.ADOPT)))


def test_a_controller_that_died_leaves_no_state_under_way_without_a_way_out() -> None:
    for state in UNDER_WAY:
        assert follow(state, Trigger.RECOVER) is State.PENDING
    for state in TOUCHING:
        assert follow(state, Trigger.ADOPT) is State.SUCCEEDED


def test_a_migration_that_is_verified_is_cancelled_by_nobody() -> None:
    assert (State.VERIFYING, Trigger.CANCEL) not in TRANSITIONS
    assert (State.VERIFYING, Trigger.RETRY) not in TRANSITIONS


@given(st.lists(st.sampled_from(Trigger), max_size=60))
def test_whatever_happens_an_end_comes_once_and_stays(triggers: list[Trigger]) -> None:
    state, ends = State.PENDING, 0
    for trigger in triggers:
        if (state, trigger) in TRANSITIONS:
            assert state not in FINAL
            state = follow(state, trigger)
            ends += state in FINAL
    assert ends == (state in FINAL)
