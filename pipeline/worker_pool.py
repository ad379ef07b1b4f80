"""The gateway's side of its workers: which of them takes a channel, and what became of it.

A channel goes to the worker with the fewest live channels and starts at once: there is no queue, so no channel waits
for another. A worker that dies ends all its channels with an error.
"""

import contextlib
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pipeline.control import ControlChannel
from pipeline.errors import KuakaError, LinkCut, MigrationError
from pipeline.image_channels import decode_digests
from pipeline.jobs import ImageSourceJob, Job, MultifdSourceJob, encode_job, job_key
from pipeline.memory.image_extents import ExtentDigest
from pipeline.offload import SessionOffload
from pipeline.shard import ShardCounters

#: Called once per channel, from a thread of the pool, with what it failed of; `LinkCut` where all it saw is a cut.
OnEnd = Callable[[KuakaError | None], None]
#: Called before `OnEnd` for a channel of an image.
OnDigests = Callable[[Sequence[ExtentDigest]], None]


@dataclass(slots=True)
class _Running:
    on_end: OnEnd
    on_digests: OnDigests
    counters: ShardCounters
    sends: bool


@dataclass(slots=True)
class _Member:
    index: int
    control: ControlChannel
    running: dict[str, _Running] = field(default_factory=dict)
    gone: bool = False


class WorkerPool:
    """Workers of one host, by their control connections."""

    def __init__(self, controls: Sequence[ControlChannel]) -> None:
        self._lock = threading.Lock()
        self._members = [_Member(index, control) for index, control in enumerate(controls)]
        self._offloads: dict[str, SessionOffload] = {}
        #: Of sessions whose cap was changed since they began.
        self._rates: dict[str, int | None] = {}
        #: What channels that have ended have moved: sent, and received.
        self._ended = {True: ShardCounters(), False: ShardCounters()}
        for member in self._members:
            threading.Thread(target=self._listen, args=(member,), name="worker reports", daemon=True).start()

    def equip(self, session: str, offload: SessionOffload) -> None:
        """Let the channels of a session that start from now on use accelerators."""
        with self._lock:
            self._offloads[session] = offload

    def strip(self, session: str) -> None:
        """Forget what `equip` was told; harmless when it was told nothing."""
        with self._lock:
            self._offloads.pop(session, None)
            self._rates.pop(session, None)

    def set_rate(self, session: str, rate_bytes_s: int | None) -> None:
        """Another cap on a session's wire bytes per second, or none, for its channels now and to come."""
        with self._lock:
            self._rates[session] = rate_bytes_s
            members = [member for member in self._members if not member.gone]
        for member in members:
            with contextlib.suppress(KuakaError):
                member.control.send({"rate": session, "bytes_s": rate_bytes_s})

    def submit(
        self, job: Job, descriptor: int | None, on_end: OnEnd, on_digests: OnDigests = lambda digests: None
    ) -> ShardCounters:
        """Start a channel now; the worker gets its own copy of `descriptor`, the caller's is closed here.

        Returns the counters that the worker's reports keep up to date. Raises `KuakaError` when no worker is left.
        """
        key = job_key(job)
        running = _Running(on_end, on_digests, ShardCounters(), isinstance(job, MultifdSourceJob | ImageSourceJob))
        try:
            with self._lock:
                alive = [member for member in self._members if not member.gone]
                if not alive:
                    raise KuakaError("no worker process is left on this host: run the migration again")
                member = min(alive, key=lambda member: len(member.running))
                member.running[key] = running
                if (offload := self._offloads.get(job.terms.session)) is not None:
                    job = replace(job, offload=offload.for_worker(member.index))
                if job.terms.session in self._rates:
                    rate_bytes_s = self._rates[job.terms.session]
                    job = replace(job, terms=replace(job.terms, rate_bytes_s=rate_bytes_s))
            try:
                member.control.send(encode_job(job), descriptor)
            except KuakaError:
                with self._lock:
                    member.running.pop(key, None)
                raise
        finally:
            if descriptor is not None:
                os.close(descriptor)
        return running.counters

    def abort(self, session: str) -> None:
        """Cut every channel of a session; their ends are still reported."""
        for member in self._members:
            if not member.gone:
                try:
                    member.control.send({"abort": session})
                except KuakaError:
                    # `_listen` reports the channels of a worker that has gone.
                    continue

    def totals(self) -> tuple[ShardCounters, ShardCounters]:
        """What all channels have moved since the pool is there: sent, and received."""
        sent, received = ShardCounters(), ShardCounters()
        with self._lock:
            sent.add(self._ended[True])
            received.add(self._ended[False])
            for member in self._members:
                for running in member.running.values():
                    (sent if running.sends else received).add(running.counters)
        return sent, received

    def close(self) -> None:
        """Let the workers go; what still runs is aborted by them."""
        for member in self._members:
            member.control.close()

    def _listen(self, member: _Member) -> None:
        while (message := member.control.receive()) is not None:
            fields, _descriptor = message
            if "progress" in fields:
                self._progress(member, fields["progress"])
            elif "end" in fields:
                self._end(member, fields)
        with self._lock:
            member.gone = True
            lost = list(member.running.values())
            member.running.clear()
            for running in lost:
                self._ended[running.sends].add(running.counters)
        for running in lost:
            running.on_end(MigrationError("a worker process died"))

    def _progress(self, member: _Member, progress: dict[str, dict[str, Any]]) -> None:
        with self._lock:
            for key, counters in progress.items():
                if key in member.running:
                    _update(member.running[key].counters, counters)

    def _end(self, member: _Member, fields: dict[str, Any]) -> None:
        with self._lock:
            running = member.running.pop(fields["end"], None)
            if running is not None:
                _update(running.counters, fields["counters"])
                self._ended[running.sends].add(running.counters)
        if running is not None:
            if fields["digests"]:
                running.on_digests(decode_digests(fields["digests"]))
            error = fields["error"]
            running.on_end(None if error is None else LinkCut(error) if fields["cut"] else MigrationError(error))


def _update(counters: ShardCounters, fields: dict[str, Any]) -> None:
    for name, value in fields.items():
        setattr(counters, name, value)
