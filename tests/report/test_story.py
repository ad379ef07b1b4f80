"""Stories: states over time out of events, and what a command's JSON has of that."""

from dataclasses import replace

from pipeline.fleet.events import Event
from pipeline.fleet.fleet_status import status_of_record
from pipeline.fleet.lifecycle import State
from pipeline.fleet.results import MigrationResult, Status
from pipeline.report.story import Span, story_of_fleet, story_of_results
from tests.report.stories import BEGAN_NS, SECOND_NS, fleet_story


def test_states_follow_each_other_without_gaps_and_end_with_the_machine() -> None:
    record, events = fleet_story([f"db-{number}" for number in range(10)])
    story = story_of_fleet(record, events)
    for machine in story.machines:
        assert machine.spans[0].begin_ns == 0
        for before, after in zip(machine.spans, machine.spans[1:], strict=False):
            assert before.end_ns == after.begin_ns
            assert before.state is not after.state
        last = max(event.time_ns for event in events if event.vm == machine.vm)
        assert machine.spans[-1].end_ns == last - BEGAN_NS
    assert [span.state for span in story.machines[9].spans].count(State.PREPARING) == 2


def test_a_fleet_that_goes_on_reaches_until_now_and_one_without_a_clock_until_its_last_event() -> None:
    record, events = fleet_story(["a"])
    going = replace(record, finished=False)
    assert story_of_fleet(going, events[:2], now_ns=BEGAN_NS + 9 * SECOND_NS).length_ns == 9 * SECOND_NS
    assert story_of_fleet(going, events[:2]).length_ns == events[1].time_ns - BEGAN_NS
    # The clocks of two hosts differ.
    assert story_of_fleet(going, events[:3], now_ns=0).length_ns == events[2].time_ns - BEGAN_NS


def test_a_clock_that_was_set_back_turns_no_time_around() -> None:
    record, _ = fleet_story(["a"])
    at_ns = (5, 3, 8)
    states = (State.ADMITTED, State.PREPARING, State.RUNNING)
    events = [
        Event(number, BEGAN_NS + at, "drain", "a", state, "")
        for number, (at, state) in enumerate(zip(at_ns, states, strict=True))
    ]
    assert story_of_fleet(record, events).machines[0].spans == (
        Span(State.PENDING, 0, 5),
        Span(State.ADMITTED, 5, 5),
        Span(State.PREPARING, 5, 8),
        Span(State.RUNNING, 8, 8),
    )


def test_weights_and_limits_come_from_the_spec_and_are_unknown_without_one() -> None:
    record, events = fleet_story(["a", "b", "c"])
    wanted = [(each.weight, each.downtime_limit_ms) for each in story_of_fleet(record, events).machines]
    assert wanted == [(1, 300), (2, 300), (4, 300)]
    strange = replace(record, spec={"of": "another version"})
    assert [each.weight for each in story_of_fleet(strange, events).machines] == [None] * 3


def test_the_reason_of_today_is_the_status() -> None:
    record, events = fleet_story(["a"])
    status = status_of_record(record)
    waiting = replace(status, migrations=(replace(status.migrations[0], reason="1/1 inbound on b"),))
    assert story_of_fleet(record, events, waiting).machines[0].reason == "1/1 inbound on b"


def test_results_alone_have_durations() -> None:
    results = [
        MigrationResult("a", "qemu", Status.COMPLETED, total_ms=1000, downtime_ms=100, weight=4),
        MigrationResult("b", "image", Status.FAILED, error="two\nlines"),
    ]
    story = story_of_results("r.json", results, 1.5)
    assert story.began_ns is None
    assert story.machines[0].spans == (
        Span(State.RUNNING, 0, 900_000_000),
        Span(State.SWITCHOVER, 900_000_000, 1_000_000_000),
    )
    assert [each.weight for each in story.machines] == [4, None]
    assert [each.state for each in story.machines] == [State.SUCCEEDED, State.FAILED]
    assert story.machines[1].result is not None
    assert story.machines[1].result.error == "two lines"
