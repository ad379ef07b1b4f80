"""Sessions: the first real reason stays, a cut waits for one, and what is held is cut exactly when it must be."""

import threading
import time

import pytest

from pipeline.errors import LinkCut, LinkError
from pipeline.session import Session
from pipeline.shard import ShardCounters


class Held:
    def __init__(self) -> None:
        self.aborts = 0

    def abort(self) -> None:
        self.aborts += 1


class Recorder:
    """A session with one thing held and a record of the channels it aborted."""

    def __init__(self) -> None:
        self.aborted: list[str] = []
        self.session = Session("ab" * 16, self.aborted.append)
        self.held = Held()
        self.session.hold(self.held)


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


def test_it_ends_well_when_closed_for_new_parts_and_all_have_ended(recorder: Recorder) -> None:
    session = recorder.session
    for part in ("main", "channel 0"):
        session.start_part(part)
    session.end_part("channel 0", None)
    session.complete()
    assert not session.wait(0.01)
    session.end_part("main", None)
    assert session.wait(0)
    assert (session.error, recorder.held.aborts, recorder.aborted) == (None, 0, [])


def test_it_has_not_ended_while_parts_may_come(recorder: Recorder) -> None:
    recorder.session.start_part("main")
    recorder.session.end_part("main", None)
    assert not recorder.session.ended


def test_first_reason_fails_it_at_once_and_stays(recorder: Recorder) -> None:
    session = recorder.session
    session.start_part("main")
    session.start_part("channel 0")
    session.end_part("channel 0", LinkError("first"))
    assert (session.error, recorder.held.aborts, recorder.aborted) == ("first", 1, [session.session_id])
    session.end_part("main", "second")
    session.fail("third")
    assert session.wait(0)
    assert (session.error, recorder.held.aborts) == ("first", 1)


def test_what_is_held_after_the_failure_is_cut_at_once(recorder: Recorder) -> None:
    recorder.session.fail("gone")
    late = Held()
    recorder.session.hold(late)
    assert late.aborts == 1


def test_failure_after_the_end_changes_nothing(recorder: Recorder) -> None:
    recorder.session.complete()
    recorder.session.fail("too late")
    assert recorder.session.error is None
    assert recorder.held.aborts == 0


def test_reason_overtakes_the_cut_that_came_before_it(recorder: Recorder) -> None:
    session = recorder.session
    session.start_part("main")
    session.start_part("channel 0")
    session.end_part("channel 0", LinkCut("was cut"))
    assert session.error is None
    session.end_part("main", LinkError("they gave up: disk full"))
    assert session.error == "they gave up: disk full"


def test_cut_is_the_reason_when_no_other_comes() -> None:
    held = Held()
    session = Session("ab" * 16, lambda _session: None, grace_s=0.05)
    session.hold(held)
    session.start_part("main")
    session.start_part("channel 0")
    session.end_part("channel 0", LinkCut("was cut"))
    session.end_part("main", None)
    session.complete()
    assert session.wait(5)
    assert (session.error, held.aborts) == ("was cut", 1)


def test_cut_waits_for_nobody_when_no_part_is_left(recorder: Recorder) -> None:
    recorder.session.start_part("main")
    recorder.session.end_part("main", LinkCut("was cut"))
    assert recorder.session.error == "was cut"


def test_cut_never_ends_well_even_if_all_others_do(recorder: Recorder) -> None:
    session = recorder.session
    session.start_part("main")
    session.start_part("channel 0")
    session.complete()
    session.end_part("channel 0", LinkCut("was cut"))
    session.end_part("main", None)
    assert session.error == "was cut"


def test_waiters_wake_when_it_fails(recorder: Recorder) -> None:
    threading.Timer(0.05, recorder.session.fail, ("gone",)).start()
    started = time.monotonic()
    assert recorder.session.wait(5)
    assert time.monotonic() - started < 2


def test_totals_are_the_sum_over_channels(recorder: Recorder) -> None:
    first = ShardCounters(pages=3, wire_bytes=10, codec_pages={"lz4": 2, "none": 1}, codec_wire_bytes={"lz4": 10})
    recorder.session.count(first)
    second = {"codec_pages": {"lz4": 4}, "codec_wire_bytes": {"lz4": 15, "none": 5}}
    recorder.session.count(ShardCounters(pages=4, wire_bytes=20, **second))
    totals = recorder.session.totals()
    assert totals.codec_wire_bytes == {"lz4": 25, "none": 5}
    assert (totals.pages, totals.wire_bytes, totals.codec_pages) == (7, 30, {"lz4": 6, "none": 1})


def test_age_counts_from_the_first_part(recorder: Recorder) -> None:
    assert recorder.session.age_s == 0
    recorder.session.start_part("main")
    time.sleep(0.01)
    assert recorder.session.age_s >= 0.01
