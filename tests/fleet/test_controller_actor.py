"""Fleets that a controller on the cluster has: the commands, the limits, and a controller that is killed."""

import json
import re
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.errors import ExitCode
from tests.demo.running_guest import wait_until
from tests.fleet.kuaka_command import KuakaCommand, processes

pytestmark = [pytest.mark.ray, pytest.mark.timeout(240)]

MIB = 1 << 20
DEVICES = Path(__file__).parents[2] / "examples" / "devices"
ENDED = {"Succeeded", "Failed", "Cancelled"}


class Fleet:
    """Some images on one machine that move under limits, as one submitted fleet."""

    def __init__(self, cluster: tuple[str, Path], images: int, image_bytes: int, **settings: object) -> None:
        self.address, self.home = cluster
        self.id = f"f{secrets.token_hex(3)}"
        self.folder = self.home / self.id
        self.folder.mkdir()
        self.contents = [secrets.token_bytes(MIB) * (image_bytes // MIB) for _ in range(images)]
        for number, content in enumerate(self.contents):
            (self.folder / f"{number}.ram").write_bytes(content)
        machines = [
            {
                "name": f"vm{number}",
                "kind": "image",
                "source": {"host": "a", "path": str(self.folder / f"{number}.ram")},
                "destination": {"host": "b", "path": str(self.folder / f"{number}.new")},
            }
            for number in range(images)
        ]
        spec = {"codec": "none", "channels": 1, "hosts": [{"name": "a"}, {"name": "b"}], **settings}
        fields = {"apiVersion": "kuaka/v1", "kind": "Fleet", "metadata": {"name": self.id}}
        self.spec = self.folder / "fleet.yaml"
        self.spec.write_text(yaml.safe_dump({**fields, "spec": {**spec, "virtualMachines": machines}}))

    def kuaka(self, *words: str) -> KuakaCommand:
        return KuakaCommand(self.home, *words, "--address", self.address)

    def done(self, *words: str, code: ExitCode = ExitCode.OK) -> KuakaCommand:
        command = self.kuaka(*words)
        assert command.end(120) == code, command.stderr
        return command

    def submit(self) -> KuakaCommand:
        return self.done("migrate", str(self.spec), "--detach")

    def states(self) -> dict[str, str]:
        (fleet,) = json.loads(self.done("status", self.id, "-o", "json").stdout)["fleets"]
        return {each["vm"]: each["state"] for each in fleet["migrations"]}

    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.done("events", self.id, "-o", "json").stdout.splitlines()]

    def arrived(self) -> list[bool]:
        paths = [self.folder / f"{number}.new" for number in range(len(self.contents))]
        return [
            path.exists() and path.read_bytes() == content for path, content in zip(paths, self.contents, strict=True)
        ]


@pytest.fixture(autouse=True)
def _kept(cluster: tuple[str, Path]) -> Iterator[None]:
    yield
    assert processes(cluster[1], "ray::ControllerShell")


def most_at_once(events: list[dict[str, Any]]) -> int:
    """Migrations that held a slot at the same time."""
    states: dict[str, str] = {}
    most = 0
    for event in events:
        if event["vm"]:
            states[event["vm"]] = event["state"]
            most = max(most, sum(state not in {*ENDED, "Pending", "Paused"} for state in states.values()))
    return most


def test_fleet_ends_well_under_its_limits_though_its_controller_is_killed(cluster: tuple[str, Path]) -> None:
    fleet = Fleet(
        cluster, 4, 6 * MIB, parallelMigrationsPerCluster=2, bandwidthPerMigration="8MB", retry={"backoffSeconds": 1}
    )
    assert "is submitted" in fleet.submit().said[0]
    waiting = fleet.kuaka("attach", fleet.id, "-o", "json")
    wait_until(lambda: "Succeeded" in fleet.states().values(), "the first has arrived", 60)
    (controller,) = processes(fleet.home, "ray::ControllerShell")
    controller.kill()
    assert "was submitted before" in fleet.submit().said[0]
    assert waiting.end(120) == ExitCode.OK, waiting.stderr
    assert [each["status"] for each in waiting.migrations] == ["completed"] * 4
    assert fleet.arrived() == [True] * 4
    events = fleet.events()
    assert most_at_once(events) == 2
    succeeded = [event["vm"] for event in events if event["state"] == "Succeeded"]
    assert sorted(succeeded) == [f"vm{number}" for number in range(4)]


@pytest.mark.long
def test_a_fleet_is_watched_and_reported_while_it_moves_and_when_it_has_ended(cluster: tuple[str, Path]) -> None:
    hosts = [{"name": name, "emulatedDevices": str(DEVICES / "iaa-small.yaml")} for name in "ab"]
    limits = {"parallelMigrationsPerCluster": 1, "bandwidthPerMigration": "8MB"}
    fleet = Fleet(cluster, 2, 12 * MIB, codec="deflate", hosts=hosts, **limits)
    fleet.submit()
    under_way = fleet.done("report", fleet.id, "-o", "-").stdout
    assert "not finished" in under_way
    watched = fleet.done("top", fleet.id, "--rows", "2").stdout
    assert "1 fleet (0 active), 0 running, 0 waiting, 0 failed, 2 of 2 ended" in watched
    # A row for a machine, and one for a pool of the two.
    assert watched.count("and 1 more") == 2
    assert re.search(r"^ *[ab]/iaa/0 .* \d+/\d+ ", watched, re.MULTILINE)
    pages = [fleet.folder / "asked.html", fleet.folder / "read.html"]
    fleet.done("report", fleet.id, "-o", str(pages[0]))
    # Without its controller the journal is enough.
    command = KuakaCommand(fleet.home, "report", fleet.id, "--journal", "-o", str(pages[1]))
    assert command.end(60) == ExitCode.OK, command.stderr
    asked, read = (page.read_text() for page in pages)
    assert asked == read
    for figure in ("timeline", "codecs", "waits"):
        assert re.search(f'<figure id="{figure}">.*?<svg', asked)


@pytest.mark.long
def test_fleet_is_slowed_down_held_back_and_given_up(cluster: tuple[str, Path]) -> None:
    fleet = Fleet(cluster, 3, 32 * MIB, parallelMigrationsPerCluster=1, bandwidthPerMigration="1MB")
    fleet.submit()
    wait_until(lambda: "Running" in fleet.states().values(), "one runs", 60)
    fleet.done("pause", fleet.id, "--vm", "vm2")
    wait_until(lambda: fleet.states()["vm2"] == "Paused", "one is held back", 30)
    # At 1 MB/s it would take half a minute.
    fleet.done("set-bandwidth", fleet.id, "none")
    wait_until(lambda: fleet.states()["vm0"] == fleet.states()["vm1"] == "Succeeded", "two have arrived", 20)
    fleet.done("cancel", fleet.id)
    command = fleet.done("attach", fleet.id, "-o", "json", code=ExitCode.INTERRUPTED)
    assert [each["status"] for each in command.migrations] == ["completed", "completed", "cancelled"]
    assert fleet.arrived() == [True, True, False]


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (("set-bandwidth", "nobody", "fast"), "'fast' is no rate"),
        (("attach", "nobody"), "fleet nobody is not known"),
    ],
)
def test_what_cannot_be_is_one_line(cluster: tuple[str, Path], words: tuple[str, ...], problem: str) -> None:
    command = KuakaCommand(cluster[1], *words, "--address", cluster[0])
    assert command.end() == ExitCode.USAGE
    (line,) = command.said
    assert problem in line
