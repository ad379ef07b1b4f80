"""A fleet as a Ray job: `kuaka migrate` runs inside the cluster, started and followed over the job server's HTTP.

The rules: nothing of the submitter's file system is assumed on the cluster, so the spec travels with the job. A job
id is used once: the same fleet under the same id is not begun again but found, another one is refused. The job ends
as its driver does; one that was stopped was sent SIGTERM, which cancels the migrations.
"""

import hashlib
import json
import re
import shlex
import socket
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar
from urllib.parse import urlsplit

from pipeline.api import Fleet
from pipeline.errors import ExitCode, KuakaError, UsageError, one_line
from pipeline.fleet.read_fleet import fields_of
from pipeline.output import Output

_SPEC_FILE = "fleet.yaml"
_DIGEST = "kuaka-spec-sha256"
_LOOK_S = 1.0
_REACH_TIMEOUT_S = 5.0
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_ENDED = frozenset(("STOPPED", "SUCCEEDED", "FAILED"))
#: Ray's first line in a job's log; what comes before it is Ray's, too.
_BEGINS = re.compile(r"^Running entrypoint for job .*\n", re.MULTILINE)
#: A job server that does not answer is asked again for so long.
_PATIENCE_S = 60.0
#: What a job server says whose node has not told it yet that it is there.
_NOT_YET = "No available agent to submit job"
#: What a shell says of a command that is not there.
_NOT_FOUND = 127

Answer = TypeVar("Answer")


class JobInfo(Protocol):
    """What `ray.job_submission.JobDetails` has of a job."""

    #: PENDING, RUNNING, STOPPED, SUCCEEDED or FAILED.
    status: Any
    message: str | None
    metadata: Mapping[str, str] | None
    driver_exit_code: int | None


class JobClient(Protocol):
    """What is used of `ray.job_submission.JobSubmissionClient`; its calls raise `RuntimeError`."""

    def submit_job(
        self, *, entrypoint: str, submission_id: str, runtime_env: dict[str, Any], metadata: dict[str, str]
    ) -> str:
        """Start a job; raises for an id that was used before."""

    def get_job_info(self, job_id: str) -> JobInfo:
        """A job; raises where there is none."""

    def get_job_logs(self, job_id: str) -> str:
        """All that its driver has printed so far."""


@dataclass(frozen=True, slots=True)
class SubmittedJob:
    """A job that the cluster knows; `new` is False for one that was there before."""

    id: str
    new: bool


@dataclass(frozen=True, slots=True)
class JobEnd:
    """What a job came to; `reason` is a line for what its log does not tell, None where that says all."""

    exit_code: ExitCode
    reason: str | None


def submit_fleet(
    client: JobClient,
    fleet: Fleet,
    job_id: str | None = None,
    *,
    workers: int,
    output: Output = Output.TABLE,
    sleep: Callable[[float], None] = time.sleep,
) -> SubmittedJob:
    """Start `kuaka migrate` on the cluster for a fleet, as the job `job_id`, by default the fleet's name.

    A head that has just started is given time.

    Raises `UsageError` for an id that cannot be or that another fleet has, `KuakaError` where the server refuses.
    """
    job_id = fleet.name if job_id is None else job_id
    if not _ID.fullmatch(job_id):
        raise UsageError(f"--id {one_line(job_id, 80)}: use at most 128 letters, digits, '.', '_' and '-'")
    text = json.dumps(fields_of(fleet.spec), indent=1, sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()
    if _is_there(client, job_id, digest):
        return SubmittedJob(job_id, new=False)
    words = [
        "kuaka",
        "migrate",
        _SPEC_FILE,
        "--workers",
        str(workers),
        *(("-o", output.value) if output is not Output.TABLE else ()),
    ]
    with tempfile.TemporaryDirectory(prefix="kuaka-job-") as directory:
        # JSON is YAML.
        Path(directory, _SPEC_FILE).write_text(text)
        for patience in range(int(_PATIENCE_S / _LOOK_S), -1, -1):
            try:
                client.submit_job(
                    entrypoint=shlex.join(words),
                    submission_id=job_id,
                    runtime_env={"working_dir": directory},
                    metadata={_DIGEST: digest},
                )
                break
            except RuntimeError as error:
                # Another submitter may have been faster.
                if _is_there(client, job_id, digest):
                    return SubmittedJob(job_id, new=False)
                if not patience or _NOT_YET not in str(error):
                    raise KuakaError(f"job {job_id} was not accepted: {_said(error)}") from None
            sleep(_LOOK_S)
    return SubmittedJob(job_id, new=True)


def follow(
    client: JobClient, job_id: str, show: Callable[[str], None], sleep: Callable[[float], None] = time.sleep
) -> JobEnd:
    """Give `show` the lines of the job's driver as they come, until it ends; raises `KuakaError` if it is not known.

    `show` gets whole lines, with their ends.
    """
    shown = 0
    while True:
        # Looked at before the log is read: after its end nothing is added.
        info = _patiently(lambda: client.get_job_info(job_id), sleep)
        ended = str(info.status) in _ENDED
        text = _of_driver(_patiently(lambda: client.get_job_logs(job_id), sleep))
        whole = text if ended else text[: text.rfind("\n") + 1]
        for line in whole[shown:].splitlines(keepends=True):
            show(line)
        shown = max(shown, len(whole))
        if ended:
            return end_of(job_id, info)
        sleep(_LOOK_S)


def end_of(job_id: str, info: JobInfo) -> JobEnd:
    """What a command that waited for a job ends with: as the driver did, where that was one of our exit codes."""
    code = info.driver_exit_code
    match str(info.status):
        case "SUCCEEDED":
            return JobEnd(ExitCode.OK, None)
        case "STOPPED":
            return JobEnd(ExitCode.INTERRUPTED, f"job {job_id} was stopped: guests that were not handed over stay")
        case _ if code is None:
            return JobEnd(ExitCode.FAILED, f"job {job_id} did not run: {_said(info.message or 'Ray does not say why')}")
        case _ if code == _NOT_FOUND:
            return JobEnd(ExitCode.FAILED, f"job {job_id}: there is no kuaka on the cluster's head: install it there")
        case _ if code in tuple(ExitCode) and code != ExitCode.OK:
            return JobEnd(ExitCode(code), None)
    killed = f"was killed by signal {-code}" if code < 0 else f"ended with {code}"
    return JobEnd(ExitCode.FAILED, f"job {job_id}: its driver {killed}; guests are put back by their hosts")


def job_client(address: str) -> JobClient:
    """Ray's client for the job server at http://HOST:PORT, with the token of the environment.

    Raises `UsageError` in one line where the address is none, nobody listens or the token is wrong.
    """
    where = urlsplit(address)
    if where.scheme not in ("http", "https") or not where.hostname:
        raise UsageError(f"--address {address}: give the job server's address: http://HOST:8265")
    try:
        port = where.port or (443 if where.scheme == "https" else 80)
        socket.create_connection((where.hostname, port), _REACH_TIMEOUT_S).close()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(
            f"no job server answers at {address}: {reason}: correct it, or give Ray's head its dashboard: pip install"
            " 'kuaka[jobs]' there"
        ) from None
    from pipeline.ray_jobs import connect

    return connect(address)


def _patiently(call: Callable[[], Answer], sleep: Callable[[float], None]) -> Answer:
    """What a job server answers that may be out of reach for a while; a cluster that is new does not know the job."""
    for _ in range(int(_PATIENCE_S / _LOOK_S)):
        try:
            return call()
        except OSError:
            sleep(_LOOK_S)
        except RuntimeError as error:
            raise KuakaError(f"the job cannot be followed any more: {_said(error)}") from None
    raise KuakaError("the job server does not answer any more: the job may go on without it")


def _of_driver(log: str) -> str:
    begins = _BEGINS.search(log)
    return log[begins.end() :] if begins else ""


def _said(error: object) -> str:
    """The first line of what Ray says that says something."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return one_line(lines[0] if lines else type(error).__name__, 300)


def _is_there(client: JobClient, job_id: str, digest: str) -> bool:
    try:
        info = client.get_job_info(job_id)
    except RuntimeError as error:
        if "404" in str(error):
            return False
        raise KuakaError(f"job {job_id} cannot be looked up: {_said(error)}") from None
    if (info.metadata or {}).get(_DIGEST) != digest:
        raise UsageError(f"job {job_id} is known with another spec: submit this one under another --id")
    return True
