"""What a report tells: every machine's states over time, what it came to, and what it was meant to get.

Made of what was recorded (a fleet, its events) or of a command's JSON, which knows no times of day. Times in a story
count from its beginning. All text is put on one line of printable characters here: it comes from specs and from hosts.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from pydantic import ValidationError

from pipeline.errors import one_line
from pipeline.fleet.events import Event
from pipeline.fleet.fleet_status import FleetStatus
from pipeline.fleet.fleets import FleetRecord, MigrationRecord
from pipeline.fleet.lifecycle import FINAL, State
from pipeline.fleet.results import MigrationResult, Status
from pipeline.fleet.spec import Spec, resolve

_MS_NS = 10**6
_ENDS = {Status.COMPLETED: State.SUCCEEDED, Status.FAILED: State.FAILED, Status.CANCELLED: State.CANCELLED}
_STATES = frozenset(State)


@dataclass(frozen=True, slots=True)
class Span:
    """A time in one state; nanoseconds since the story began."""

    state: State
    begin_ns: int
    end_ns: int


@dataclass(frozen=True, slots=True)
class Machine:
    """One machine's part."""

    vm: str
    state: State
    reason: str
    spans: tuple[Span, ...] = ()
    result: MigrationResult | None = None
    #: None where it is not known.
    attempt: int | None = None
    #: Its share of accelerators among the others, and the longest it should stand still; None: not known.
    weight: int | None = None
    downtime_limit_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Story:
    """A whole fleet's; machines in the order of its spec."""

    title: str
    state: str
    #: Nanoseconds since 1970; None where only durations are known.
    began_ns: int | None
    length_ns: int
    machines: tuple[Machine, ...]

    @property
    def count(self) -> Mapping[State, int]:
        """How many machines are in each state."""
        return Counter(machine.state for machine in self.machines)


def story_of_fleet(
    record: FleetRecord, events: Sequence[Event], status: FleetStatus | None = None, now_ns: int | None = None
) -> Story:
    """A recorded fleet's story, up to `now_ns` if it goes on, or up to its last event. `status` has today's reasons."""
    last_ns = max((event.time_ns for event in events), default=record.submitted_ns)
    until_ns = last_ns if now_ns is None or record.finished else max(now_ns, last_ns)
    length_ns = max(0, until_ns - record.submitted_ns)
    waits = {} if status is None else {each.vm: each.reason for each in status.migrations}
    spans = _spans(events, record.submitted_ns, length_ns)
    wanted = _wanted(record)
    machines = tuple(
        _recorded(each, waits.get(each.vm, each.reason), spans.get(each.vm, ()), wanted.get(each.vm))
        for each in record.migrations
    )
    state = "finished" if record.finished else "not finished"
    return Story(one_line(record.id), state, record.submitted_ns, length_ns, machines)


def story_of_results(title: str, results: Sequence[MigrationResult], wall_s: float) -> Story:
    """The story of a command that ended: how long each took and stood still, for its JSON has no more."""
    machines = tuple(
        Machine(one_line(each.vm), _ENDS[each.status], "", _durations(each), _printable(each), weight=each.weight)
        for each in results
    )
    longest_ns = max((span.end_ns for machine in machines for span in machine.spans), default=0)
    return Story(one_line(title), f"{wall_s:.1f} s", None, longest_ns, machines)


def _recorded(record: MigrationRecord, reason: str, spans: tuple[Span, ...], wanted: tuple[int, int] | None) -> Machine:
    weight, limit_ms = wanted or (None, None)
    result = None if record.result is None else _printable(record.result)
    return Machine(one_line(record.vm), record.state, one_line(reason), spans, result, record.attempt, weight, limit_ms)


def _spans(events: Sequence[Event], began_ns: int, length_ns: int) -> dict[str, tuple[Span, ...]]:
    """The time in each state, by machine. An event in the state that a machine is in already changes nothing."""
    changes: dict[str, list[tuple[State, int]]] = {}
    for event in events:
        if event.vm and event.state in _STATES:
            known = changes.setdefault(event.vm, [(State.PENDING, 0)])
            if event.state != known[-1][0]:
                # A clock that was set back must not turn a time around.
                at_ns = max(known[-1][1], event.time_ns - began_ns)
                known.append((State(event.state), at_ns))
    return {vm: _closed(known, length_ns) for vm, known in changes.items()}


def _closed(changes: Sequence[tuple[State, int]], length_ns: int) -> tuple[Span, ...]:
    ends_ns = [at_ns for _, at_ns in changes[1:]] + [length_ns]
    return tuple(
        Span(state, begin_ns, max(begin_ns, end_ns))
        for (state, begin_ns), end_ns in zip(changes, ends_ns, strict=True)
        if state not in FINAL
    )


def _durations(result: MigrationResult) -> tuple[Span, ...]:
    total_ns = int((result.total_ms or 0) * _MS_NS)
    stood_ns = min(total_ns, int((result.downtime_ms or 0) * _MS_NS))
    spans = (Span(State.RUNNING, 0, total_ns - stood_ns), Span(State.SWITCHOVER, total_ns - stood_ns, total_ns))
    return tuple(span for span in spans if span.end_ns > span.begin_ns)


def _wanted(record: FleetRecord) -> dict[str, tuple[int, int]]:
    """Weight and downtime limit by machine; nothing for a spec that this kuaka cannot read."""
    try:
        spec = Spec.model_validate(record.spec, by_alias=True, by_name=False)
    except ValidationError:
        return {}
    settings = {vm.name: resolve(spec, vm) for vm in spec.spec.virtual_machines}
    return {vm: (each.weight, each.downtime_limit_ms) for vm, each in settings.items()}


def _printable(result: MigrationResult) -> MigrationResult:
    codecs = {one_line(name): pages for name, pages in result.codec_pages.items()}
    error = None if result.error is None else one_line(result.error)
    return replace(result, vm=one_line(result.vm), error=error, codec_pages=codecs)
