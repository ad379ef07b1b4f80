"""`from pipeline import Fleet, migrate`: what programs use; docs/api.md's programs run as they stand there."""

import asyncio
import contextlib
import os
import re
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import pipeline
from pipeline import Fleet, SubmittedFleet, migrate
from pipeline.errors import DeadlineError, KuakaError, SpecError, UsageError
from pipeline.fleet.command import FinishedRun
from pipeline.fleet.events import Event
from pipeline.fleet.fleet_status import Accepted, FleetState, FleetStatus
from pipeline.fleet.results import MigrationResult, Status
from tests.fleet.live_pair import short_directory

ROOT = Path(__file__).parents[1]
MIB = 1 << 20
DONE = MigrationResult("i", "image", Status.COMPLETED)


def fields(directory: Path) -> dict[str, Any]:
    machine = {
        "name": "i",
        "kind": "image",
        "source": {"host": "a", "path": str(directory / "i.ram")},
        "destination": {"host": "b", "path": str(directory / "i.new")},
    }
    spec = {"hosts": [{"name": "a"}, {"name": "b"}], "virtualMachines": [machine]}
    return {"apiVersion": "kuaka/v1", "kind": "Fleet", "metadata": {"name": "drain"}, "spec": spec}


class Controller:
    """Answers in turn; an exception is raised."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[Any, ...]] = []

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any) -> Any:
            self.asked.append((name, *arguments))
            answer = self.answers.pop(0) if self.answers else None
            if isinstance(answer, Exception):
                raise answer
            return answer

        return call


def submitted(controller: Controller, monkeypatch: pytest.MonkeyPatch) -> SubmittedFleet:
    """A fleet whose controller is that one; nobody waits for real."""
    monkeypatch.setattr("pipeline.api.time.sleep", lambda seconds: None)
    fleet = SubmittedFleet("drain", "10.0.0.1:6379")
    monkeypatch.setattr(fleet, "_controller", controller)
    return fleet


def status(state: FleetState) -> list[FleetStatus]:
    return [FleetStatus("drain", state, 1, ())]


def test_importing_the_package_imports_nothing_slow() -> None:
    code = "import sys, pipeline; print([m for m in ('ray', 'pydantic', 'numpy', 'rich') if m in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, text=True).strip() == "[]"


def test_loading_and_planning_do_not_import_ray() -> None:
    code = (
        "import sys; from pipeline import Fleet; Fleet.load('examples/image-fleet.yaml').plan();"
        " print('ray' in sys.modules)"
    )
    assert subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, text=True).strip() == "False"


def test_a_name_that_there_is_not_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = pipeline.Nothing


def test_a_fleet_of_fields_is_that_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "fleet.yaml"
    path.write_text(str(fields(tmp_path)))
    assert Fleet.from_fields(fields(tmp_path)) == Fleet.load(path) == Fleet.load(str(path))
    assert Fleet.load(path).name == "drain"


def test_fields_that_are_no_spec_are_rejected_with_every_problem(tmp_path: Path) -> None:
    broken = fields(tmp_path)
    broken["spec"]["codec"] = "brotli"
    broken["spec"]["virtualMachines"][0]["source"]["host"] = "z"
    with pytest.raises(SpecError) as error:
        Fleet.from_fields(broken)
    lines = str(error.value).splitlines()
    assert [line.split(":")[1].strip() for line in lines] == ["spec.codec", "spec.virtualMachines[0].source.host"]
    assert all(line.startswith("fields: ") for line in lines)


def test_the_plan_is_that_of_the_command(tmp_path: Path) -> None:
    (tmp_path / "i.ram").write_bytes(secrets.token_bytes(3 * MIB))
    (migration,) = Fleet.from_fields(fields(tmp_path)).plan(workers=1).migrations
    assert (migration.vm, migration.memory_bytes, migration.begins_s) == ("i", 3 * MIB, 0.0)


def test_a_coroutine_is_told_how_to_migrate(tmp_path: Path) -> None:
    async def program() -> None:
        migrate(Fleet.from_fields(fields(tmp_path)))

    with pytest.raises(UsageError, match="call it from this coroutine"):
        asyncio.run(program())


@pytest.mark.parametrize(
    ("given", "environment", "used"),
    [
        (None, None, "here"),
        (None, "", "here"),
        (None, "10.0.0.1:6379", "10.0.0.1:6379"),
        ("auto", "10.0.0.1:6379", "auto"),
    ],
)
def test_the_cluster_is_that_of_the_call_or_of_the_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, given: str | None, environment: str | None, used: str
) -> None:
    asked: list[str] = []

    def run_spec(spec: Any, **others: Any) -> FinishedRun:
        asked.append("here")
        return FinishedRun([DONE], 1.0, abandoned=False)

    @contextlib.contextmanager
    def there(fleet: Fleet, address: str, **others: Any) -> Iterator[SubmittedFleet]:
        asked.append(address)
        yield submitted(Controller(status(FleetState.FINISHED), [DONE]), monkeypatch)

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if environment is not None:
        monkeypatch.setenv("RAY_ADDRESS", environment)
    monkeypatch.setattr("pipeline.api.run_spec", run_spec)
    monkeypatch.setattr("pipeline.api.Fleet.submitted", there)
    run = migrate(Fleet.from_fields(fields(tmp_path)), given)
    assert (asked, list(run), len(run)) == ([used], [DONE], 1)


def at_a_controller(controller: Controller, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every cluster has that controller; nobody waits for real."""
    monkeypatch.setattr("pipeline.api.time.sleep", lambda seconds: None)
    monkeypatch.setattr("pipeline.api.joined_cluster", lambda address: contextlib.nullcontext())
    monkeypatch.setattr("pipeline.fleet.controller_actor.ControllerHandle.find_or_start", lambda workers: controller)


def test_a_signal_cancels_the_fleet_and_its_results_are_waited_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    unknown, active = UsageError("it is not known"), status(FleetState.ACTIVE)
    answers = (unknown, Accepted("drain", new=True), active, None, active, status(FleetState.FINISHED), [DONE])
    controller = Controller(*answers)
    at_a_controller(controller, monkeypatch)
    signals = [signal.SIGTERM]

    def progress(found: Any) -> None:
        if signals:
            os.kill(os.getpid(), signals.pop())

    assert list(migrate(Fleet.from_fields(fields(tmp_path)), "auto", on_progress=progress)) == [DONE]
    asked = [words[0] for words in controller.asked]
    assert asked == ["status", "submit", "status", "cancel", "status", "status", "results"]
    assert controller.asked[3] == ("cancel", "drain", None)


@pytest.mark.parametrize(
    ("states", "name"),
    [
        ([None], "drain"),
        ([FleetState.ACTIVE], "drain"),
        ([FleetState.FINISHED, None], "drain-2"),
        ([FleetState.FINISHED, FleetState.FINISHED, FleetState.PAUSED], "drain-3"),
    ],
)
def test_a_fleet_that_has_finished_is_in_nobodys_way(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, states: list[FleetState | None], name: str
) -> None:
    unknown = UsageError("it is not known")
    known = [unknown if state is None else status(state) for state in states]
    controller = Controller(*known, Accepted(name, new=states[-1] is None))
    at_a_controller(controller, monkeypatch)
    with Fleet.from_fields(fields(tmp_path)).submitted("auto") as fleet:
        assert (fleet.id, fleet.new) == (name, states[-1] is None)
    assert [asked[1] for asked in controller.asked if asked[0] == "submit"] == [name]


def test_waiting_outlasts_a_controller_that_dies(monkeypatch: pytest.MonkeyPatch) -> None:
    died = KuakaError("the controller has died")
    controller = Controller(status(FleetState.ACTIVE), died, died, status(FleetState.FINISHED), died, [DONE])
    seen: list[FleetState] = []
    fleet = submitted(controller, monkeypatch)
    assert fleet.wait(on_status=lambda now: seen.append(now.state)) == [DONE]
    assert seen == [FleetState.ACTIVE, FleetState.FINISHED]


def test_waiting_ends_at_its_limit_and_for_a_fleet_that_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DeadlineError, match="has not finished after 0 s"):
        submitted(Controller(status(FleetState.ACTIVE)), monkeypatch).wait(timeout_s=0)
    with pytest.raises(UsageError, match="not known"):
        submitted(Controller(UsageError("fleet drain is not known")), monkeypatch).wait()


def test_what_is_asked_of_a_fleet_reaches_the_controller(monkeypatch: pytest.MonkeyPatch) -> None:
    controller = Controller()
    fleet = submitted(controller, monkeypatch)
    fleet.cancel("i")
    fleet.pause()
    fleet.resume()
    fleet.set_bandwidth(1_000_000)
    assert controller.asked == [
        ("cancel", "drain", "i"),
        ("pause", "drain", None),
        ("resume", "drain", None),
        ("set_bandwidth", "drain", 1_000_000),
    ]


def test_events_come_one_after_the_other_though_the_controller_gives_some_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first, second, third = (Event(number, number, "drain", "i", "Pending", "") for number in (4, 7, 9))
    controller = Controller([first, second], [third], [])
    assert list(submitted(controller, monkeypatch).events(3)) == [first, second, third]
    assert [asked[2] for asked in controller.asked] == [3, 7, 9]


@pytest.mark.ray
@pytest.mark.timeout(240)
def test_the_first_program_of_the_docs_runs_as_it_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    (program, *_) = re.findall(r"^```python\n(.*?)^```$", (ROOT / "docs/api.md").read_text(), re.DOTALL | re.MULTILINE)
    with short_directory() as home:
        contents = secrets.token_bytes(4 * MIB)
        (home / "guest-1.ram").write_bytes(contents)
        (home / "moved").mkdir()
        (home / "program.py").write_text(program.replace("/var/tmp", str(home)))
        monkeypatch.delenv("RAY_ADDRESS", raising=False)
        for variable, name in (("KUAKA_STATE", "state"), ("KUAKA_RUNTIME", "run"), ("HOME", "")):
            monkeypatch.setenv(variable, str(home / name))
        monkeypatch.setenv("PYTHONPATH", str(ROOT))
        ran = subprocess.run([sys.executable, home / "program.py"], capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stderr
        assert "guest-1 completed True 4194304 None" in ran.stdout.splitlines()
        assert (home / "moved/guest-1.ram").read_bytes() == contents
