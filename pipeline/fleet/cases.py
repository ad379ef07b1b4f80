"""The controller's own picture of fleets that are under way: what is recorded, and what runs for it right now.

What is recorded is written first and pictured afterwards: a controller that dies in between has lost a picture only.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from pipeline.fleet.convergence import Help
from pipeline.fleet.fleet_order import FleetOrder, VmOrder
from pipeline.fleet.fleets import CommandKind, FleetRecord, MigrationRecord
from pipeline.fleet.lifecycle import FINAL, UNDER_WAY, State
from pipeline.fleet.orders import MigrationProgress
from pipeline.fleet.plan.requests import Request
from pipeline.fleet.run import Attempt

#: More places than a spec has machines.
_PLACE_BITS = 24


@dataclass(slots=True)
class Running:
    """An attempt that runs, and what was seen of it; times by the controller's monotonic clock."""

    attempt: Attempt
    task: "asyncio.Task[Any]"
    began_ns: int
    #: When something of it was last seen to move.
    moved_ns: int
    helped_ns: int
    looked_ns: int
    #: The cap on its wire bytes that its hosts were told last.
    rate_bytes_s: int | None
    pages: int = 0
    progress: MigrationProgress | None = None
    tried: set[Help] = field(default_factory=set)
    #: Whether it was told to end.
    stopped: bool = False

    def stop(self, why: str | None) -> None:
        """Let it end and put things back; `why` is None for the user's own wish."""
        if not self.stopped:
            self.stopped = True
            self.task.cancel(why)


@dataclass(slots=True)
class Case:
    """One machine."""

    fleet: "FleetCase"
    order: VmOrder
    record: MigrationRecord
    #: Why it does not go on, where that is no event.
    waiting: str = ""
    running: Running | None = None
    #: Its memory as its host has said, in whichever attempt; 0 before.
    said_bytes: int = 0

    @property
    def memory_bytes(self) -> int:
        """Its memory as its host has said, else as its spec says or a plan assumes."""
        return self.said_bytes or self.order.request.memory_bytes

    @property
    def id(self) -> str:
        """The same in every controller: fleet/vm."""
        return f"{self.fleet.id}/{self.order.vm}"

    @property
    def ended(self) -> bool:
        """Whether nothing follows."""
        return self.record.state in FINAL

    @property
    def request(self) -> Request:
        """What admission is asked: fleets in the order of their submission, deadlines from it."""
        fleet, request = self.fleet, self.order.request
        deadline_ns = None if request.deadline_ns is None else fleet.submitted_ns + request.deadline_ns
        submitted = (fleet.number << _PLACE_BITS) + request.submitted
        return replace(request, submitted=submitted, deadline_ns=deadline_ns)

    @property
    def holds_slot(self) -> bool:
        """Whether it counts for every limit: also while something that a dead controller left is put right."""
        return self.record.state in UNDER_WAY

    @property
    def cancelled(self) -> bool:
        """Whether the user wants it no more."""
        return self.fleet.wants(CommandKind.CANCEL, self.order.vm)

    @property
    def paused(self) -> bool:
        """Whether the user wants it held back."""
        return self.fleet.wants(CommandKind.PAUSE, self.order.vm)

    @property
    def rate_bytes_s(self) -> int | None:
        """Its cap, as the user set it last or as its spec has it."""
        return self.fleet.commands.get(("", CommandKind.BANDWIDTH), self.order.request.rate_bytes_s)


@dataclass(slots=True)
class FleetCase:
    """A fleet that has not finished."""

    number: int
    id: str
    spec: Mapping[str, Any]
    submitted_ns: int
    head_start_bytes: int
    order: FleetOrder
    commands: dict[tuple[str, CommandKind], int | None]
    cases: dict[str, Case] = field(default_factory=dict)
    #: Of this process in the journal, once something of it was attempted.
    run: int | None = None

    def wants(self, kind: CommandKind, vm: str) -> bool:
        """Whether that holds for a machine, by itself or by its fleet."""
        return ("", kind) in self.commands or (vm, kind) in self.commands

    @property
    def ended(self) -> bool:
        """Whether all its migrations have ended."""
        return all(case.ended for case in self.cases.values())

    @property
    def weight(self) -> int:
        """Its share against other fleets."""
        return self.order.vms[0].request.weight

    @property
    def served_bytes(self) -> int:
        """What it counts as served, without what runs: its head start, and memory that it has moved."""
        cases = self.cases.values()
        moved = (case.order.request.memory_bytes for case in cases if case.record.state is State.SUCCEEDED)
        return self.head_start_bytes + sum(moved)

    @property
    def charged_bytes(self) -> int:
        """The same with what runs."""
        running = (case.order.request.memory_bytes for case in self.cases.values() if case.holds_slot)
        return self.served_bytes + sum(running)


def fleet_case(record: FleetRecord, order: FleetOrder) -> FleetCase:
    """The picture of a fleet that nothing runs for yet."""
    commands = dict(record.commands)
    fleet = FleetCase(
        record.number, record.id, record.spec, record.submitted_ns, record.head_start_bytes, order, commands
    )
    orders = {each.vm: each for each in order.vms}
    fleet.cases.update((each.vm, Case(fleet, orders[each.vm], each)) for each in record.migrations)
    return fleet
