"""A fleet as a Ray job: begun once, followed, and ended with as its driver ended; a server pretends."""

import json
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline import Fleet
from pipeline.errors import ExitCode, KuakaError, UsageError
from pipeline.fleet.spec_file import load_spec
from pipeline.output import Output
from pipeline.submission import JobEnd, end_of, follow, job_client, submit_fleet
from tests.conftest import ROOT

FIELDS: dict[str, Any] = {
    "apiVersion": "kuaka/v1",
    "kind": "Fleet",
    "metadata": {"name": "drain"},
    "spec": {
        "hosts": [{"name": "a"}, {"name": "b"}],
        "virtualMachines": [
            {
                "name": "i",
                "kind": "image",
                "source": {"host": "a", "path": "/a"},
                "destination": {"host": "b", "path": "/b"},
            }
        ],
    },
}
FLEET = Fleet.from_fields(FIELDS)
OTHER = Fleet.from_fields({**FIELDS, "spec": {**FIELDS["spec"], "codec": "lz4"}})
BEGIN = "2026-01-01 00:00:00 INFO runtime env is setting up\nRunning entrypoint for job drain: kuaka migrate\n"


@dataclass
class Job:
    """What the server knows of a job."""

    entrypoint: str = ""
    status: str = "RUNNING"
    message: str | None = None
    metadata: Mapping[str, str] | None = None
    driver_exit_code: int | None = None
    log: str = BEGIN


@dataclass
class JobServer:
    """Jobs by id; `looks` runs at each look at one."""

    jobs: dict[str, Job] = field(default_factory=dict)
    looks: list[Callable[[Job], None]] = field(default_factory=list)
    shipped: list[Path] = field(default_factory=list)
    on_submit: Callable[[], None] = lambda: None

    def submit_job(
        self, *, entrypoint: str, submission_id: str, runtime_env: dict[str, Any], metadata: dict[str, str]
    ) -> str:
        self.on_submit()
        if submission_id in self.jobs:
            raise RuntimeError("Request failed with status code 500: ValueError: Job already exists.")
        directory = Path(runtime_env["working_dir"])
        assert load_spec(directory / "fleet.yaml") == FLEET.spec
        self.shipped.append(directory)
        self.jobs[submission_id] = Job(entrypoint, metadata=metadata)
        return submission_id

    def get_job_info(self, job_id: str) -> Job:
        if job_id not in self.jobs:
            raise RuntimeError(f"Request failed with status code 404: Job {job_id} does not exist.")
        if self.looks:
            self.looks.pop(0)(self.jobs[job_id])
        return self.jobs[job_id]

    def get_job_logs(self, job_id: str) -> str:
        return self.jobs[job_id].log


def log(text: str, status: str = "RUNNING", code: int | None = None) -> Callable[[Job], None]:
    """The driver prints, and may end."""

    def happen(job: Job) -> None:
        job.log += text
        job.status, job.driver_exit_code = status, code

    return happen


def out_of_reach(job: Job) -> None:
    raise ConnectionError("refused")


def test_the_spec_travels_with_the_job_and_nothing_of_it_stays_here() -> None:
    server = JobServer()
    job = submit_fleet(server, FLEET, workers=3, output=Output.JSON)
    assert (job.id, job.new) == ("drain", True)
    assert server.jobs["drain"].entrypoint == "kuaka migrate fleet.yaml --workers 3 -o json"
    assert not server.shipped[0].exists()


def test_the_same_fleet_under_the_same_id_is_not_begun_again() -> None:
    server = JobServer()
    submit_fleet(server, FLEET, "x", workers=2)
    again = submit_fleet(server, Fleet.from_fields(json.loads(json.dumps(FIELDS))), "x", workers=2)
    assert (again.id, again.new) == ("x", False)
    assert len(server.shipped) == 1


def test_another_fleet_under_the_same_id_is_refused() -> None:
    server = JobServer()
    submit_fleet(server, FLEET, workers=2)
    with pytest.raises(UsageError, match="drain is known with another spec"):
        submit_fleet(server, OTHER, workers=2)


def test_a_head_that_has_just_started_is_given_time() -> None:
    server, slept = JobServer(), []

    def not_yet() -> None:
        if len(slept) < 3:
            raise RuntimeError(
                "Request failed with status code 500: No available agent to submit job, please try again"
            )

    server.on_submit = not_yet
    assert submit_fleet(server, FLEET, workers=2, sleep=slept.append).new
    assert len(slept) == 3


def test_a_head_that_never_comes_up_is_named() -> None:
    server, slept = JobServer(), []

    def never() -> None:
        raise RuntimeError("Request failed with status code 500: No available agent to submit job, please try again")

    server.on_submit = never
    with pytest.raises(KuakaError, match=r"drain was not accepted: .*No available agent"):
        submit_fleet(server, FLEET, workers=2, sleep=slept.append)
    assert sum(slept) == 60


def test_of_two_that_submit_at_once_the_slower_one_finds_the_job() -> None:
    server = JobServer()

    def faster() -> None:
        server.on_submit = lambda: None
        submit_fleet(server, FLEET, workers=2)

    server.on_submit = faster
    assert not submit_fleet(server, FLEET, workers=2).new


def test_a_server_that_refuses_is_a_line() -> None:
    def refuse() -> None:
        raise RuntimeError("Request failed with status code 500: No head node.\nTraceback ...")

    with pytest.raises(KuakaError) as error:
        submit_fleet(JobServer(on_submit=refuse), FLEET, workers=2)
    assert str(error.value) == "job drain was not accepted: Request failed with status code 500: No head node."


@pytest.mark.parametrize("job_id", ["", "a/b", "../x", "-x", "x" * 129])
def test_an_id_that_cannot_be_is_refused(job_id: str) -> None:
    with pytest.raises(UsageError, match="--id"):
        submit_fleet(JobServer(), FLEET, job_id, workers=2)


def test_following_shows_each_line_of_the_driver_once_and_ends_as_it_does() -> None:
    server = JobServer({"drain": Job()})
    server.looks = [
        log("kuaka: starting\nhal"),
        out_of_reach,
        log("f a line\n"),
        log("the last, without an end", "FAILED", ExitCode.PARTIAL),
    ]
    shown: list[str] = []
    end = follow(server, "drain", shown.append, sleep=lambda seconds: None)
    assert shown == ["kuaka: starting\n", "half a line\n", "the last, without an end"]
    assert end == JobEnd(ExitCode.PARTIAL, None)


def test_following_a_server_that_never_comes_back_ends() -> None:
    server = JobServer({"drain": Job()}, [out_of_reach] * 1000)
    with pytest.raises(KuakaError, match="does not answer any more"):
        follow(server, "drain", lambda line: None, sleep=lambda seconds: None)


@pytest.mark.parametrize(
    ("job", "code", "reason"),
    [
        (Job(status="SUCCEEDED", driver_exit_code=0), ExitCode.OK, None),
        (Job(status="FAILED", driver_exit_code=4), ExitCode.SPEC_REJECTED, None),
        (Job(status="FAILED", driver_exit_code=130), ExitCode.INTERRUPTED, None),
        (Job(status="STOPPED"), ExitCode.INTERRUPTED, "job j was stopped"),
        (Job(status="FAILED", driver_exit_code=127), ExitCode.FAILED, "there is no kuaka on the cluster's head"),
        (Job(status="FAILED", driver_exit_code=-9), ExitCode.FAILED, "its driver was killed by signal 9"),
        (Job(status="FAILED", driver_exit_code=137), ExitCode.FAILED, "its driver ended with 137"),
        (Job(status="FAILED", message="no runtime env\nmore"), ExitCode.FAILED, "did not run: no runtime env"),
    ],
)
def test_a_job_ends_as_its_driver_does(job: Job, code: ExitCode, reason: str | None) -> None:
    end = end_of("j", job)
    assert end.exit_code == code
    assert (reason is None) == (end.reason is None)
    assert (reason or "") in (end.reason or "")
    assert "\n" not in (end.reason or "")


@pytest.mark.parametrize(
    ("address", "problem"),
    [
        ("10.0.0.1:8265", "give the job server's address: http://HOST:8265"),
        ("http://", "give the job server's address"),
        ("http://127.0.0.1:1", "no job server answers at http://127.0.0.1:1: Connection refused"),
        ("http://127.0.0.1:x", "no job server answers"),
    ],
)
def test_an_address_without_a_job_server_is_one_line(address: str, problem: str) -> None:
    with pytest.raises(UsageError) as error:
        job_client(address)
    assert problem in str(error.value)
    assert "\n" not in str(error.value)


def test_the_example_manifest_hands_kuaka_a_spec_that_plans(tmp_path: Path) -> None:
    manifest = yaml.safe_load((ROOT / "examples/rayjob.yaml").read_text())
    assert (manifest["kind"], manifest["spec"]["backoffLimit"]) == ("RayJob", 0)
    kuaka = tmp_path / "kuaka"
    kuaka.write_text(f'#!/bin/sh\necho "$1 $3 $4"\ncp "$2" {tmp_path}/fleet.yaml\n')
    kuaka.chmod(0o700)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "TMPDIR": str(tmp_path)}
    said = subprocess.check_output(["/bin/sh", "-c", manifest["spec"]["entrypoint"]], env=environment, text=True)
    assert said == "migrate -o json\n"
    assert not Fleet.load(tmp_path / "fleet.yaml").plan().cannot_go
