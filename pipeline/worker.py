"""A worker: the process whose threads move page bytes, one thread per channel and direction, however many channels.

It listens on a control socket, takes jobs with their descriptors, and reports each job's progress and end to whoever
sent it. A channel never waits for a free thread, because the destination QEMU parks channels at SYNC until all others
arrive. When the control connection that brought a job goes, its jobs are aborted: nobody is left who could want them.

Messages to the worker: {"job": ...} with a descriptor, {"abort": SESSION}, {"rate": SESSION, "bytes_s": NUMBER or
null}. Messages from it: {"progress": {KEY: counters}}, {"end": KEY, "error": TEXT or null, "cut": whether the error is
no more than a cut connection, "counters": {...}, "digests": [...]}.
"""

import os
import socket
import threading
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipeline.channels import Channel, make_channel
from pipeline.control import ControlChannel, listen_unix, peer_uid
from pipeline.errors import KuakaError, LinkCut
from pipeline.image_channels import encode_digests
from pipeline.jobs import decode_job, job_key

#: How often running channels report.
PROGRESS_PERIOD_S = 0.2
#: The counters of so many fit into one message.
_CHANNELS_PER_REPORT = 200
_BACKLOG = 16


class Worker:
    """Serves jobs from control connections; `serve` returns when `stop` is called."""

    def __init__(self, control_path: Path) -> None:
        self._path = control_path
        self._listener = listen_unix(control_path, socket.SOCK_SEQPACKET, _BACKLOG)
        self._stopped = threading.Event()

    def serve(self) -> None:
        """Accept control connections for ever; each has a thread."""
        while not self._stopped.is_set():
            try:
                sock, _address = self._listener.accept()
            except OSError:
                return
            if peer_uid(sock) != os.getuid():
                sock.close()
                continue
            threading.Thread(target=_Client(ControlChannel(sock)).run, name="control", daemon=True).start()

    def serve_one(self) -> None:
        """Serve the first control connection until it goes."""
        sock, _address = self._listener.accept()
        self.stop()
        if peer_uid(sock) == os.getuid():
            _Client(ControlChannel(sock)).run()

    def stop(self) -> None:
        """Stop accepting and remove the control socket."""
        self._stopped.set()
        self._path.unlink(missing_ok=True)
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


class _Client:
    """One control connection and the channels it asked for."""

    def __init__(self, control: ControlChannel) -> None:
        self._control = control
        self._lock = threading.Lock()
        self._channels: dict[str, Channel] = {}
        self._gone = threading.Event()

    def run(self) -> None:
        threading.Thread(target=self._report, name="progress", daemon=True).start()
        try:
            while (message := self._control.receive()) is not None:
                fields, descriptor = message
                if "abort" in fields:
                    self._abort(fields["abort"])
                elif "rate" in fields:
                    for channel in self._of(fields["rate"]):
                        channel.set_rate(fields["bytes_s"])
                else:
                    self._start(fields, descriptor)
        finally:
            self._gone.set()
            self._abort("")
            self._control.close()

    def _start(self, fields: dict[str, Any], descriptor: int | None) -> None:
        job = decode_job(fields)
        key = job_key(job)
        channel = make_channel(job, descriptor)
        with self._lock:
            self._channels[key] = channel
        threading.Thread(target=self._run, args=(key, channel), name=f"channel {key[-12:]}", daemon=True).start()

    def _run(self, key: str, channel: Channel) -> None:
        error: str | None = "a worker's thread ended unexpectedly: its traceback is on the worker's stderr"
        cut = False
        try:
            channel.run()
            error = None
        except KuakaError as failure:
            error, cut = str(failure), isinstance(failure, LinkCut)
        finally:
            with self._lock:
                del self._channels[key]
            counters, digests = asdict(channel.counters), encode_digests(channel.digests)
            self._send({"end": key, "error": error, "cut": cut, "counters": counters, "digests": digests})
            # Not before it was told: a source QEMU ends its channel when it is known here that it is to.
            channel.close()

    def _abort(self, session: str) -> None:
        for channel in self._of(session):
            channel.abort()

    def _of(self, session: str) -> list[Channel]:
        with self._lock:
            return [channel for key, channel in self._channels.items() if key.startswith(session)]

    def _report(self) -> None:
        while not self._gone.wait(PROGRESS_PERIOD_S):
            with self._lock:
                progress = [(key, asdict(channel.counters)) for key, channel in self._channels.items()]
            for first in range(0, len(progress), _CHANNELS_PER_REPORT):
                self._send({"progress": dict(progress[first : first + _CHANNELS_PER_REPORT])})

    def _send(self, fields: dict[str, Any]) -> None:
        try:
            self._control.send(fields)
        except KuakaError:
            # The other end has gone; `run` sees that too and aborts what it asked for.
            return
