"""Fleets that really move on a cluster: their specs, kuaka's commands about them, and what must be true afterwards.

What was done is read from the event log, with the checks that the made-up worlds use; what came of it is looked at:
every image byte by byte, every guest page by page, and what is left in directories, processes and the journal.
"""

import json
import random
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.errors import ExitCode
from pipeline.fleet.events import Event
from pipeline.fleet.journal import JOURNAL_NAME
from pipeline.fleet.read_fleet import read_fleet
from tests.demo.running_guest import wait_until
from tests.fleet.fleet_story import check_events
from tests.fleet.kuaka_command import KuakaCommand, processes
from tests.fleet.live_pair import LivePair

Machine = dict[str, Any]
Fields = dict[str, Any]

#: Agents without anything to do are ended after 20 s.
_IDLE_S = 60.0


def fleet_fields(name: str, machines: Sequence[Machine], hosts: Sequence[str | Machine] = "abc", **spec: Any) -> Fields:
    """A fleet's spec; hosts without more to say are their names."""
    named = [{"name": host} if isinstance(host, str) else host for host in hosts]
    return {
        "apiVersion": "kuaka/v1",
        "kind": "Fleet",
        "metadata": {"name": name},
        "spec": {"hosts": named, "virtualMachines": list(machines), **spec},
    }


@dataclass
class Images:
    """Images in a directory, of seeded contents: half of their pages are zero, the others are not to be compressed."""

    folder: Path
    seed: int = 0
    machines: list[Machine] = field(default_factory=list)

    def add(self, count: int, size_bytes: int, ends: str = "ab", **settings: Any) -> list[Machine]:
        """So many more of a size, from the first host of `ends` to the second."""
        self.folder.mkdir(exist_ok=True)
        added = []
        for _ in range(count):
            number = len(self.machines)
            name = f"i{self.folder.name}-{number}"
            chance = random.Random(self.seed * 100_003 + number)
            half = chance.randbytes(size_bytes // 2)
            source, destination = self.folder / f"{number}.ram", self.folder / f"{number}.new"
            source.write_bytes(half + bytes(size_bytes - len(half)))
            added.append(
                {
                    "name": name,
                    "kind": "image",
                    "memory": size_bytes,
                    "source": {"host": ends[0], "path": str(source)},
                    "destination": {"host": ends[1], "path": str(destination)},
                    **settings,
                }
            )
            self.machines.append(added[-1])
        return added

    def problems(self, states: Mapping[str, str]) -> list[str]:
        """What is wrong with where the images are, for machines that ended so."""
        found = []
        for machine in self.machines:
            source, new = Path(machine["source"]["path"]), Path(machine["destination"]["path"])
            state = states.get(machine["name"])
            if new.exists() != (state == "Succeeded"):
                found.append(f"{machine['name']} is {state} and {new.name} is {'' if new.exists() else 'not '}there")
            elif new.exists() and new.read_bytes() != source.read_bytes():
                found.append(f"{machine['name']} arrived with other contents")
        known = {f"{number}.{end}" for number in range(len(self.machines)) for end in ("ram", "new")}
        return found + [f"{path} is left" for path in self.folder.iterdir() if path.name not in known]


def guest_machine(pair: LivePair, name: str, ends: str = "ab", **settings: Any) -> Machine:
    """The pair's guest as a machine of a fleet."""
    return {
        "name": name,
        "kind": "qemu",
        "memory": pair.parameters.memory_bytes,
        "dirtyRate": pair.parameters.dirty_rate_bytes_s,
        "channels": 2,
        # Both QEMUs have the same boot sector's file.
        "sharedStorage": True,
        "source": {"host": ends[0], "qmp": str(pair.source_qmp)},
        "destination": {
            "host": ends[1],
            "qmp": str(pair.destination_qmp),
            "prepare": [str(pair.prepare)],
            "cleanup": [str(pair.cleanup)],
        },
        **settings,
    }


def guest_problems(guests: Mapping[str, LivePair], states: Mapping[str, str]) -> list[str]:
    """What is wrong with the guests, for machines that ended so: exactly one of each runs, with all of its memory."""
    found = []
    for name, pair in guests.items():
        state, at_source = states.get(name), pair.source.qmp("query-status")["running"]
        if at_source == (state == "Succeeded"):
            found.append(f"{name} is {state} and its source {'runs' if at_source else 'does not run'}")
        if (pair.destination_pid is not None) != (state == "Succeeded"):
            found.append(f"{name} is {state} and its destination is {pair.destination_pid}")
        elif state == "Succeeded" and (wrong := pair.compared().wrong_pages):
            found.append(f"{name} has {wrong} wrong pages")
    return found


@dataclass(frozen=True)
class RealCluster:
    """A cluster by its address, and the directory of what its commands leave."""

    address: str
    home: Path

    def kuaka(self, *words: str, timeout_s: float = 200) -> KuakaCommand:
        """A command about the cluster that has ended well."""
        command = self.command(*words)
        code = command.end(timeout_s)
        assert code == ExitCode.OK, (code, command.stderr)
        return command

    def command(self, *words: str) -> KuakaCommand:
        """A command about the cluster."""
        return KuakaCommand(self.home, *words, "--address", self.address)

    def submit(self, fields: Fields, *words: str) -> None:
        """`kuaka migrate --detach`."""
        path = self.home / f"{fields['metadata']['name']}.json"
        path.write_text(json.dumps(fields))
        self.kuaka("migrate", str(path), "--detach", *words)

    def submit_together(self, *fleets: Fields, workers: int = 2) -> None:
        """Hand fleets to the controller one right after the other."""
        path = self.home / "together.json"
        path.write_text(json.dumps(fleets))
        program = (
            "import json, sys\n"
            "from pipeline.api import Fleet\n"
            "from pipeline.fleet.read_fleet import fields_of\n"
            "from pipeline.fleet.joined import joined_cluster\n"
            f"with joined_cluster({self.address!r}):\n"
            "    from pipeline.fleet.controller_actor import ControllerHandle\n"
            f"    controller = ControllerHandle.find_or_start({workers})\n"
            f"    for fleet in json.load(open({str(path)!r})):\n"
            "        controller.submit(fleet['metadata']['name'], fields_of(Fleet.from_fields(fleet).spec))\n"
            "sys.exit()"
        )
        command = KuakaCommand(self.home, before=program)
        assert command.end(120) == 0, command.stderr

    def attach(self, fleet: str, timeout_s: float = 300) -> dict[str, Machine]:
        """Wait for a fleet; its results by machine."""
        command = self.command("attach", fleet, "-o", "json")
        code = command.end(timeout_s)
        assert code in (ExitCode.OK, ExitCode.PARTIAL, ExitCode.FAILED), (code, command.stderr)
        return {each["vm"]: each for each in command.migrations}

    def events(self, *fleets: str) -> list[Event]:
        """What happened to these fleets, in order."""
        lines = [line for fleet in fleets for line in self.kuaka("events", fleet, "-o", "json").stdout.splitlines()]
        return sorted((Event(**json.loads(line)) for line in lines), key=lambda event: event.sequence)

    def status(self, fleet: str) -> dict[str, Machine]:
        """Where a fleet's machines are, by name."""
        (found,) = json.loads(self.kuaka("status", fleet, "-o", "json").stdout)["fleets"]
        return {each["vm"]: each for each in found["migrations"]}

    def unfinished(self) -> list[str]:
        """What the journal has open: machines that are not put right."""
        connection = sqlite3.connect(f"file:{self.home}/state/{JOURNAL_NAME}?mode=ro", uri=True)
        try:
            return [vm for (vm,) in connection.execute("SELECT vm FROM migration WHERE finished = 0")]
        finally:
            connection.close()

    def wait_nothing_left(self) -> None:
        """Wait until the controller, idle, has ended its agents; they leave no directory."""
        wait_until(lambda: not processes(self.home, "ray::AgentShell", "ray::WorkerShell"), "no agent is left", _IDLE_S)
        wait_until(lambda: not list((self.home / "run").iterdir()), "no directory is left", 10)


def final_states(events: Sequence[Event]) -> dict[str, str]:
    """The last state of each machine."""
    return {event.vm: event.state for event in events if event.vm and event.state != "Changed"}


def event_problems(events: Sequence[Event], *fleets: Fields) -> list[str]:
    """What the log tells against the table of states, the limits, or the users' wishes."""
    found: list[str] = []
    check_events(events, {fields["metadata"]["name"]: fields for fields in fleets}, found.append, read_fleet)
    return found
