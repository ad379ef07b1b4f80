"""Stories to draw: fleets as a journal has them, with every state, codec, weight and kind of end."""

import random
from typing import Any

from pipeline.errors import ExitCode
from pipeline.fleet.events import Event
from pipeline.fleet.fleets import FleetRecord, MigrationRecord
from pipeline.fleet.lifecycle import State
from pipeline.fleet.results import MigrationResult, Status

BEGAN_NS = 1_700_000_000_000_000_000
SECOND_NS = 10**9
HOSTILE = """<script>alert('&"1')</script>$x_1$[/red]\x1b[31m\u202e"""


def spec_of(vms: list[str]) -> dict[str, Any]:
    """A spec of guests with weights 1, 2, 4, 1, ..."""
    return {
        "apiVersion": "kuaka/v1",
        "kind": "Fleet",
        "metadata": {"name": "drain"},
        "spec": {
            "hosts": [{"name": "a"}, {"name": "b"}],
            "downtimeLimitMs": 300,
            "virtualMachines": [
                {
                    "name": vm,
                    "kind": "qemu",
                    "sharedStorage": True,
                    "weight": (1, 2, 4)[number % 3],
                    "source": {"host": "a", "qmp": f"/run/a/{number}.qmp"},
                    "destination": {"host": "b", "qmp": f"/run/b/{number}.qmp", "prepare": ["/bin/true"]},
                }
                for number, vm in enumerate(vms)
            ],
        },
    }


def result_of(vm: str, chance: random.Random) -> MigrationResult:
    """A guest that arrived, its work shared between a device and CPUs."""
    pages = chance.randrange(50_000, 300_000)
    on_device = chance.randrange(pages)
    return MigrationResult(
        vm,
        "qemu",
        Status.COMPLETED,
        True,
        0,
        chance.uniform(1000, 9000),
        chance.uniform(20, 380),
        ticket_wait_ms=chance.uniform(0, 50),
        rounds=3,
        pages=2 * pages,
        zero_pages=pages // 2,
        raw_bytes=2 * pages * 4096,
        wire_bytes=pages * 1500,
        codec_pages={"deflate": pages, "none": pages // 4},
        accelerator_pages=on_device,
        accelerators={"iaa": on_device},
        cpu_pages=pages - on_device,
        wait_ms=chance.uniform(0, 300),
        service_class="bulk",
    )


def fleet_story(vms: list[str], seed: int = 1, error: str = "disk full") -> tuple[FleetRecord, list[Event]]:
    """A finished fleet: every tenth machine is tried twice, the ninth fails, the eighth is cancelled while paused."""
    chance = random.Random(seed)
    records: list[MigrationRecord] = []
    events: list[Event] = []

    def tell(at_ns: int, vm: str, state: State | str, why: str = "so it is") -> None:
        events.append(Event(len(events) + 1, BEGAN_NS + at_ns, "drain", vm, state, why))

    tell(0, "", "Submitted")
    for number, vm in enumerate(vms):
        at_ns = number * SECOND_NS // 10
        end, result, why = State.SUCCEEDED, result_of(vm, chance), "the result is recorded"
        if number % 10 == 7:
            tell(at_ns, vm, State.PAUSED)
            at_ns += 3 * SECOND_NS
            end, result, why = State.CANCELLED, MigrationResult(vm, "qemu", Status.CANCELLED), "given up"
        else:
            for attempt in range(2 if number % 10 == 9 else 1):
                if attempt:
                    at_ns += SECOND_NS
                    tell(at_ns, vm, State.PENDING, "again in 5 s")
                    at_ns += 5 * SECOND_NS
                for state in (State.ADMITTED, State.PREPARING, State.RUNNING):
                    tell(at_ns, vm, state)
                    at_ns += chance.randrange(SECOND_NS // 10, SECOND_NS)
            if number % 10 == 8:
                end, why = State.FAILED, error
                result = MigrationResult(vm, "qemu", Status.FAILED, error=error, exit_code=ExitCode.FAILED)
            else:
                tell(at_ns, vm, State.RUNNING, "help was given, which is no change of state")
                tell(at_ns + SECOND_NS, vm, State.SWITCHOVER)
                tell(at_ns + SECOND_NS + SECOND_NS // 10, vm, State.VERIFYING)
                at_ns += 2 * SECOND_NS
        tell(at_ns, vm, end, why)
        records.append(MigrationRecord(1, vm, end, 1, 0, 0, why, None, result))
    events.sort(key=lambda event: event.time_ns)
    return FleetRecord(1, "drain", spec_of(vms), BEGAN_NS, 0, True, tuple(records), {}), events
