"""`kuaka submit` and `ray job submit` on a real head with its job server and a token: images, a guest, a stop."""

import importlib.util
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from pipeline.errors import ExitCode
from tests.conftest import ROOT
from tests.demo.running_guest import wait_until
from tests.fleet.kuaka_command import KuakaCommand, processes
from tests.fleet.live_pair import MIB, LivePair
from tests.fleet.ray_head import free_port, ray_head
from tests.needs import missing

pytestmark = [pytest.mark.ray, pytest.mark.long, pytest.mark.timeout(300)]


@dataclass(frozen=True)
class JobServer:
    """A head that takes jobs."""

    url: str
    home: Path

    def image_fleet(self, **settings: object) -> Path:
        """A spec of one image, in a directory of its own."""
        name = f"f{secrets.token_hex(3)}"
        folder = self.home / name
        folder.mkdir()
        (folder / "i.ram").write_bytes(secrets.token_bytes(16 * MIB))
        ends = [{"host": host, "path": str(folder / file)} for host, file in (("a", "i.ram"), ("b", "i.new"))]
        machine = {"name": "i", "kind": "image", "source": ends[0], "destination": ends[1]}
        spec = {"codec": "none", "hosts": [{"name": "a"}, {"name": "b"}], "virtualMachines": [machine], **settings}
        document = {"apiVersion": "kuaka/v1", "kind": "Fleet", "metadata": {"name": name}, "spec": spec}
        (folder / "fleet.yaml").write_text(yaml.safe_dump(document))
        return folder / "fleet.yaml"

    def submit(self, spec: Path, *words: str) -> KuakaCommand:
        """`kuaka submit`."""
        return KuakaCommand(self.home, "submit", str(spec), "--address", self.url, *words)

    def ray(self, *words: str) -> str:
        """`ray job ...`; what it says."""
        command = [sys.executable, "-m", "ray.scripts.scripts", "job", *words, "--address", self.url]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    def stop(self, job: str) -> None:
        """Stop a job that runs, and wait until Ray has seen its end."""
        assert "was stopped" in self.ray("stop", job)
        logs = self.home / "ray/session_latest/logs/jobs" / f"supervisor-{job}.log"
        assert "terminated gracefully with SIGTERM" in logs.read_text()


@pytest.fixture(scope="module")
def server() -> Iterator[JobServer]:
    if importlib.util.find_spec("aiohttp_cors") is None:
        missing("Ray's dashboard, which make test-long installs")
    port = free_port()
    with pytest.MonkeyPatch.context() as set_:
        # `kuaka` of this environment, for the head; seconds until a job that was stopped is killed, on a slow machine.
        set_.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
        set_.setenv("RAY_JOB_STOP_WAIT_TIME_S", "30")
        set_.delenv("RAY_ADDRESS", raising=False)
        with ray_head(jobs=port) as (_, home):
            yield JobServer(f"http://127.0.0.1:{port}", home)


def arrived(spec: Path) -> bool:
    return (spec.parent / "i.new").exists() and (spec.parent / "i.new").read_bytes() == (
        spec.parent / "i.ram"
    ).read_bytes()


def moves(spec: Path) -> bool:
    return any(path.name.endswith(".partial") for path in spec.parent.iterdir())


def no_agents(server: JobServer) -> bool:
    return not processes(server.home, "ray::AgentShell", "ray::WorkerShell")


def test_a_fleet_goes_once_and_the_submitter_ends_as_its_driver_did(server: JobServer) -> None:
    spec = server.image_fleet()
    first = server.submit(spec, "--follow", "-o", "json")
    assert first.end(120) == ExitCode.OK, first.stderr
    assert [each["status"] for each in first.migrations] == ["completed"]
    assert arrived(spec)
    again = server.submit(spec, "--follow", "-o", "json")
    assert again.end() == ExitCode.OK
    assert "was submitted before and is not begun again" in again.said[0]
    assert again.stdout == first.stdout
    other = server.submit(server.image_fleet(), "--id", spec.parent.name)
    assert other.end() == ExitCode.USAGE
    assert "is known with another spec" in other.said[0]


def test_a_spec_that_its_hosts_reject_is_rejected_for_the_submitter(server: JobServer) -> None:
    spec = server.image_fleet()
    (spec.parent / "i.ram").unlink()
    command = server.submit(spec, "--follow")
    assert command.end(120) == ExitCode.SPEC_REJECTED, command.stderr
    assert any("i.ram" in line for line in command.said)


def test_the_example_script_submits_by_ray_alone(server: JobServer) -> None:
    spec = server.image_fleet()
    subprocess.run([ROOT / "examples/submit-job.sh", server.url, spec], check=True, capture_output=True, timeout=120)
    assert arrived(spec)


def test_who_follows_may_leave_and_a_stop_cancels(server: JobServer) -> None:
    spec = server.image_fleet(bandwidthPerMigration="500kB")
    job = spec.parent.name
    command = server.submit(spec, "--follow")
    wait_until(lambda: moves(spec), "it moves", 60)
    os.kill(command.pid, signal.SIGINT)
    assert command.end() == ExitCode.INTERRUPTED
    assert f"job {job} goes on" in command.said[-2]
    assert moves(spec)
    server.stop(job)
    assert not moves(spec)
    assert not arrived(spec)
    wait_until(lambda: no_agents(server), "no agent is left", 45)
    late = server.submit(spec, "--follow")
    assert late.end() == ExitCode.INTERRUPTED
    assert f"job {job} was stopped" in late.said[-1]


@pytest.mark.qemu
def test_a_guest_whose_job_is_stopped_runs_on_at_its_source(server: JobServer) -> None:
    home = server.home / "guest"
    home.mkdir()
    pair = LivePair(home)
    try:
        spec = pair.spec(bandwidthPerMigration="4MB")
        submitted = server.submit(spec, "--id", "guest")
        assert submitted.end() == ExitCode.OK, submitted.stderr
        pair.wait_moving(MIB)
        server.stop("guest")
        assert pair.source_runs_on()
        assert pair.destination_pid is None
    finally:
        pair.close()


def test_a_wrong_token_is_one_line(server: JobServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "0" * 32)
    command = server.submit(server.image_fleet())
    assert command.end() == ExitCode.USAGE
    (line,) = command.said
    assert "wants a token" in line
