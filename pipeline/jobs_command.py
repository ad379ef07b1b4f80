"""`kuaka submit`: a fleet as a Ray job, followed or not. The driver's lines are shown as those of a command here."""

import sys
from pathlib import Path

from pipeline.api import Fleet
from pipeline.errors import ExitCode, InterruptedMigration
from pipeline.output import Output
from pipeline.say import say
from pipeline.submission import follow, job_client, submit_fleet

_OURS = "kuaka: "


def run_submit(
    path: Path, address: str, job_id: str | None, *, workers: int, follow_it: bool, output: Output
) -> ExitCode:
    """Submit the spec in the file as a job; what the command ends with. Raises `KuakaError`."""
    fleet = Fleet.load(path)
    client = job_client(address)
    job = submit_fleet(client, fleet, job_id, workers=workers, output=output)
    come_back = f"kuaka submit {path} --id {job.id} --address {address} --follow"
    stop = f"ray job stop {job.id} --address {address}"
    known = "is submitted" if job.new else "was submitted before and is not begun again"
    if not follow_it:
        say(f"job {job.id} {known}: {come_back} follows it, {stop} cancels it")
        return ExitCode.OK
    say(f"job {job.id} {known}")
    try:
        end = follow(client, job.id, _show)
    except KeyboardInterrupt:
        say(f"job {job.id} goes on: {come_back} comes back to it, {stop} cancels it")
        raise InterruptedMigration(f"no longer following job {job.id}") from None
    if end.reason is not None:
        say(end.reason)
    return end.exit_code


def _show(line: str) -> None:
    """The job's log has both of its streams in it."""
    stream = sys.stderr if line.startswith(_OURS) else sys.stdout
    stream.write(line)
    stream.flush()
