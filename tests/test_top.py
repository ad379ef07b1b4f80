"""The live view: sums, rates over time, what is under way first, and names that are no markup."""

from rich.console import Console

from pipeline.fleet.fleet_status import FleetState, FleetStatus, MigrationStatus
from pipeline.fleet.lifecycle import State
from pipeline.fleet.orders import MigrationProgress
from pipeline.fleet.results import MigrationResult, Status
from pipeline.shard import ShardCounters
from pipeline.top import Rates, summary, view

MIB = 1 << 20


def machine(
    vm: str, state: State, wire_bytes: int | None = None, *, raw_bytes: int = 0, attempt: int = 1, reason: str = ""
) -> MigrationStatus:
    counters = ShardCounters(raw_bytes=raw_bytes, wire_bytes=wire_bytes or 0)
    progress = None if wire_bytes is None else MigrationProgress(counters, None, total_bytes=100 * MIB)
    return MigrationStatus(vm, state, attempt, reason, progress, None)


def fleet(*machines: MigrationStatus, name: str = "drain", state: FleetState = FleetState.ACTIVE) -> FleetStatus:
    return FleetStatus(name, state, 0, machines)


def shown(fleets: list[FleetStatus], rates: dict[tuple[str, str, int], float] | None = None, rows: int = 40) -> str:
    console = Console(width=160, color_system=None)
    with console.capture() as capture:
        console.print(view(fleets, rates or {}, rows))
    return capture.get()


def test_the_summary_counts_what_operators_ask_for() -> None:
    states = (State.RUNNING, State.PREPARING, State.PENDING, State.PAUSED, State.FAILED, State.SUCCEEDED)
    fleets = [
        fleet(*(machine(str(number), state) for number, state in enumerate(states))),
        fleet(machine("x", State.SUCCEEDED), name="old", state=FleetState.FINISHED),
    ]
    assert summary(fleets, {("drain", "0", 1): 2.5 * MIB, ("drain", "1", 1): 0.5 * MIB}) == (
        "2 fleets (1 active), 2 running, 2 waiting, 1 failed, 3 of 7 ended, 3 MiB/s"
    )
    assert summary([], {}) == "0 fleets (0 active), 0 running, 0 waiting, 0 failed, 0 of 0 ended, 0 bytes/s"


def test_a_rate_is_that_of_the_last_seconds() -> None:
    rates = Rates()
    assert rates.look(0.0, [fleet(machine("a", State.RUNNING, 0))]) == {}
    assert rates.look(1.0, [fleet(machine("a", State.RUNNING, 10))]) == {("drain", "a", 1): 10.0}
    for second in range(2, 10):
        seen = rates.look(float(second), [fleet(machine("a", State.RUNNING, 10))])
    assert seen == {("drain", "a", 1): 0.0}


def test_another_attempt_begins_anew_and_what_has_ended_has_no_rate() -> None:
    rates = Rates()
    rates.look(0.0, [fleet(machine("a", State.RUNNING, 1000))])
    assert rates.look(1.0, [fleet(machine("a", State.RUNNING, 0, attempt=2))]) == {}
    assert rates.look(2.0, [fleet(machine("a", State.RUNNING, 50, attempt=2))]) == {("drain", "a", 2): 50.0}
    assert rates.look(3.0, [fleet(machine("a", State.FAILED, 50, attempt=2))]) == {}


def test_what_is_under_way_comes_first_the_fastest_before_the_others() -> None:
    machines = (
        machine("done", State.SUCCEEDED),
        machine("failed", State.FAILED),
        machine("waits", State.PENDING, reason="2/2 outbound on a"),
        machine("slow", State.RUNNING, 1, raw_bytes=25 * MIB),
        machine("fast", State.RUNNING, 1, raw_bytes=300 * MIB),
    )
    rates = {("drain", "slow", 1): 1.0, ("drain", "fast", 1): 2.0}
    screen = shown([fleet(*machines)], rates)
    rows = [line for line in screen.splitlines() if line.split()[:1] == ["drain"]]
    assert [row.split()[1] for row in rows] == ["fast", "slow", "waits", "failed", "done"]
    assert "25 %" in screen
    assert "100 %" in screen
    assert "2/2 outbound on a" in screen
    # Of 20 columns.
    assert [row.count("\N{BOX DRAWINGS HEAVY HORIZONTAL}") for row in rows] == [20, 5, 0, 0, 20]


def test_only_so_many_rows_are_shown_and_the_rest_is_counted() -> None:
    screen = shown([fleet(*(machine(f"vm{number}", State.PENDING) for number in range(10)))], rows=3)
    assert "and 7 more" in screen
    assert "vm2" in screen
    assert "vm3" not in screen


def test_names_and_reasons_are_no_markup_and_no_control_sequences() -> None:
    screen = shown([fleet(machine("[/red]", State.FAILED, reason="[bold]\x1b[31mx"))])
    assert "[/red]" in screen
    assert "[bold] [31mx" in screen


def test_a_result_says_what_was_moved() -> None:
    result = MigrationResult("a", "qemu", Status.COMPLETED, raw_bytes=3 * MIB)
    assert "3 MiB" in shown([fleet(MigrationStatus("a", State.SUCCEEDED, 1, "", None, result))])
