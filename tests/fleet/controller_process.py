"""A process that has a controller, over hosts whose guests are files; killed and started again by its parent.

    python -m tests.fleet.controller_process DIRECTORY SEED KILLS MACHINES

forks the controller (so that a start costs no imports), kills it with SIGKILL at `KILLS` moments drawn from `SEED`,
lets the last one live to its end, and writes what was broken, and how far it came, to stdout as JSON.
"""

import asyncio
import contextlib
import fcntl
import json
import os
import random
import signal
import sqlite3
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from pipeline.fleet.backoff import Backoff
from pipeline.fleet.controller import Controller
from pipeline.fleet.controller_settings import ControllerSettings
from pipeline.fleet.fleet_order import FleetOrder
from pipeline.fleet.fleets import FleetJournal
from pipeline.fleet.journal import JOURNAL_NAME, Journal
from pipeline.fleet.lifecycle import State
from pipeline.fleet.owner import Owner, this_process
from tests.fleet.fleet_agents import Agents
from tests.fleet.fleet_specs import AttemptMaker, machine, read_fleet, spec_of
from tests.fleet.fleet_story import all_events, check_events, orders_of
from tests.fleet.fleet_world import Guest, World

Fleets = Mapping[str, dict[str, Any]]

#: The one machine that users do not want moved, from the beginning.
CANCELLED = "second-5"
#: How much faster a guest moves here than in tests that only pretend to wait.
_HASTE = 40
_LONGEST_LIFE_S = 0.35
_LAST_LIFE_S = 60.0
SETTINGS = ControllerSettings(look_s=0.02, settle_wait_s=(0.05, 0.2))


def fleets_of(machines: int) -> dict[str, dict[str, Any]]:
    """Two fleets of half as many each."""
    return {
        name: spec_of(
            *(machine(f"{name}-{number}", "ab"[number % 2], "bc"[number % 2]) for number in range(machines // 2)),
            cluster=3,
        )
        for name in ("first", "second")
    }


class Files(World):
    """A world whose guests are files, each replaced as a whole: a kill leaves the guest before or after a change."""

    def __init__(self, directory: Path) -> None:
        super().__init__(lambda: time.time_ns() * _HASTE)
        self.haste = _HASTE
        self._directory = directory

    @contextlib.contextmanager
    def guest(self, vm: str) -> Iterator[Guest]:
        path = self._directory / f"{vm}.guest"
        with (self._directory / f"{vm}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            guest = Guest(**json.loads(path.read_text())) if path.exists() else Guest(vm)
            guest.advance(self.now_ns())
            try:
                yield guest
            finally:
                self.look(guest)
                new = path.with_suffix(".new")
                new.write_text(json.dumps(asdict(guest)))
                new.replace(path)

    def names(self) -> list[str]:
        return [path.stem for path in self._directory.glob("*.guest")]

    def breaks(self, text: str) -> None:
        with (self._directory / "broken").open("a") as file:
            file.write(f"{text}\n")


def prepared(directory: Path, fleets: Fleets) -> Files:
    """The guests as they are before anything moves."""
    world = Files(directory)
    for number, name in enumerate(orders_of(fleets)):
        with world.guest(name.partition("/")[2]) as guest:
            guest.cuts = int(number % 5 == 1)
    return world


def read_quickly(fleet_id: str, spec: Mapping[str, Any]) -> FleetOrder:
    """Whoever failed is back soon."""
    order = read_fleet(fleet_id, spec)
    backoff = Backoff(50_000_000, 500_000_000)
    return replace(order, vms=tuple(replace(vm, rules=replace(vm.rules, backoff=backoff)) for vm in order.vms))


async def control(directory: Path, fleets: Fleets) -> None:
    """One controller's life, to the end of all fleets if it is let."""
    world = Files(directory)
    reader = sqlite3.connect(directory / JOURNAL_NAME)

    def handed_over(session: str) -> bool:
        row = reader.execute("SELECT handed_over FROM migration WHERE session = ?", (session,)).fetchone()
        return row is not None and bool(row[0])

    world.handed_over = handed_over
    with Journal.open(directory, this_process()) as journal:
        controller = Controller(journal, Agents(world), read_quickly, AttemptMaker(journal), settings=SETTINGS)
        controller.adopt()
        for name, spec in fleets.items():
            controller.submit(name, spec)
        controller.cancel("second", CANCELLED)
        running = asyncio.create_task(controller.run())
        idle = asyncio.create_task(controller.idle())
        await asyncio.wait((running, idle), return_when=asyncio.FIRST_COMPLETED)
        controller.stop()
        await running


def live(directory: Path, fleets: Fleets) -> None:
    """In a child: never returns."""
    try:
        asyncio.run(control(directory, fleets))
    except BaseException as error:
        (directory / "broken").open("a").write(f"a controller ended with {error!r}\n")
        raise
    finally:
        os._exit(0)


def kill_and_start_again(directory: Path, fleets: Fleets, seed: int, kills: int) -> int:
    """Lives that end at random moments, then one that does not; how many were killed."""
    chance, killed = random.Random(seed), 0
    while killed < kills:
        child = os.fork()
        if child == 0:
            live(directory, fleets)
        time.sleep(chance.random() * _LONGEST_LIFE_S)
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status):
            break
        killed += 1
    child = os.fork()
    if child == 0:
        live(directory, fleets)
    deadline_s = time.monotonic() + _LAST_LIFE_S
    while os.waitpid(child, os.WNOHANG) == (0, 0):
        if time.monotonic() > deadline_s:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            break
        time.sleep(0.01)
    return killed


def verdict(directory: Path, fleets: Fleets, world: Files) -> dict[str, str]:
    """What was broken goes to the world; the states at the end."""
    with Journal.open(directory, Owner(1, 1, "nobody")) as journal:
        recorded = FleetJournal(journal)
        records = [record for name in fleets if (record := recorded.fleet(name)) is not None]
        states = {each.vm: each.state for record in records for each in record.migrations}
        without = [
            each.vm for record in records for each in record.migrations if each.result is None or not record.finished
        ]
        events = all_events(recorded)
        left = journal.file.rows("SELECT vm FROM migration WHERE finished = 0", ())
    for vm, state in states.items():
        with world.guest(vm) as guest:
            moved = state is State.SUCCEEDED
            if (guest.source_runs, guest.destination_runs, guest.destination is None) != (not moved, moved, not moved):
                world.breaks(f"{vm} is {state}: {guest}")
    if without or left:
        world.breaks(f"without a result: {without}, not put right: {left}")
    check_events(events, fleets, world.breaks)
    return {vm: str(state) for vm, state in states.items()}


def main() -> None:
    """See the module."""
    directory, seed, kills, machines = Path(sys.argv[1]), *(int(word) for word in sys.argv[2:5])
    fleets = fleets_of(machines)
    world = prepared(directory, fleets)
    Journal.open(directory, this_process()).close()
    killed = kill_and_start_again(directory, fleets, seed, kills)
    states = verdict(directory, fleets, world)
    broken = (directory / "broken").read_text().splitlines() if (directory / "broken").exists() else []
    sys.stdout.write(json.dumps({"killed": killed, "states": states, "broken": broken}))


if __name__ == "__main__":
    main()
