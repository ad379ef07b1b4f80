"""Workers and their pool: channels run at once, their ends are told whatever happens, and nothing of a job stays."""

import os
import signal
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from pipeline.codecs.codec import CodecId
from pipeline.control import ControlChannel
from pipeline.errors import KuakaError, LinkCut
from pipeline.jobs import MultifdSinkJob, MultifdSourceJob, decode_job, encode_job, job_key
from pipeline.offload import Offload, OffloadDevice, SessionDevice, SessionOffload
from pipeline.wire.handshake import Role
from pipeline.wire.opening import LinkTerms
from pipeline.wire.tls import TlsFiles
from pipeline.worker import Worker
from pipeline.worker_pool import WorkerPool
from pipeline.worker_process import local_workers
from scheduler.devices.address import DeviceAddress
from tests.demo.running_guest import wait_until

IAA = DeviceAddress("iaa", ("/run/iaa",), 64, emulated=True, stand_in="/run/libqpl.so")
SESSION = "ab" * 16
LIMIT_S = 10.0


def terms(port: int, channel: int = 0, session: str = SESSION) -> LinkTerms:
    return LinkTerms(
        session=session,
        role=Role.CHANNEL,
        channel=channel,
        channels=4,
        codec=CodecId.NONE,
        level=None,
        tls=None,
        stall_timeout_s=5.0,
        downtime_limit_ns=300_000_000,
        address="127.0.0.1",
        port=port,
    )


class Ends:
    """What became of channels, in order."""

    def __init__(self) -> None:
        self.errors: list[KuakaError | None] = []

    def __call__(self, error: KuakaError | None) -> None:
        self.errors.append(error)

    def wait(self, count: int) -> list[KuakaError | None]:
        wait_until(lambda: len(self.errors) >= count, f"{count} channels have ended", LIMIT_S)
        return self.errors


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[WorkerPool]:
    """A pool of one worker in this process."""
    worker = Worker(tmp_path / "w")
    serving = threading.Thread(target=worker.serve)
    serving.start()
    made = WorkerPool([ControlChannel.connect(tmp_path / "w")])
    yield made
    made.close()
    worker.stop()
    serving.join(LIMIT_S)
    assert not serving.is_alive()


@pytest.fixture
def silent() -> Iterator[socket.socket]:
    """A listener that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


def start(pool: WorkerPool, listener: socket.socket, ends: Ends, channel: int = 0) -> socket.socket:
    """A source channel whose link opens and never gets its answer; returns QEMU's end."""
    here, there = socket.socketpair()
    here.settimeout(LIMIT_S)
    pool.submit(MultifdSourceJob(terms(listener.getsockname()[1], channel), bytes(64).hex()), there.detach(), ends)
    return here


def told_offload(worker: ControlChannel) -> Offload | None:
    message = worker.receive()
    assert message is not None
    fields, descriptor = message
    assert descriptor is not None
    os.close(descriptor)
    return decode_job(fields).offload


@pytest.mark.parametrize("tls", [None, TlsFiles(Path("a"), Path("b"), Path("c"))])
def test_jobs_survive_the_way_to_the_worker(tls: TlsFiles | None) -> None:
    offload = Offload("/run/credit", (OffloadDevice(IAA, 3),))
    job = MultifdSinkJob(replace(terms(1), tls=tls), "/run/incoming", native_zero=True, offload=offload)
    assert decode_job(encode_job(job)) == job
    assert decode_job(encode_job(replace(job, offload=None))).offload is None
    assert job_key(job).startswith(SESSION)


def test_each_worker_is_told_its_own_row_and_only_of_sessions_that_may_offload() -> None:
    pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(2)]
    workers = [ControlChannel(far) for _, far in pairs]
    pool = WorkerPool([ControlChannel(near) for near, _ in pairs])
    pool.equip(SESSION, SessionOffload("/run/credit", (SessionDevice(IAA, (7, 9)),)))
    for session in (SESSION, SESSION, "cd" * 16):
        near, far = socket.socketpair()
        pool.submit(MultifdSourceJob(terms(1, session=session), bytes(64).hex()), near.detach(), Ends())
        far.close()
    told = [told_offload(worker) for worker in workers]
    assert told == [Offload("/run/credit", (OffloadDevice(IAA, row),)) for row in (7, 9)]
    assert told_offload(workers[0]) is None
    pool.close()


def test_another_rate_is_told_to_every_worker_and_holds_for_channels_that_begin_later() -> None:
    pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(2)]
    workers = [ControlChannel(far) for _, far in pairs]
    pool = WorkerPool([ControlChannel(near) for near, _ in pairs])
    pool.set_rate(SESSION, 5_000_000)
    assert [worker.receive() for worker in workers] == [({"rate": SESSION, "bytes_s": 5_000_000}, None)] * 2
    rates = []
    for session in (SESSION, "cd" * 16):
        near, far = socket.socketpair()
        pool.submit(MultifdSourceJob(terms(1, session=session), bytes(64).hex()), near.detach(), Ends())
        far.close()
        message = workers[len(rates)].receive()
        assert message is not None
        assert message[1] is not None
        os.close(message[1])
        rates.append(decode_job(message[0]).terms.rate_bytes_s)
    assert rates == [5_000_000, terms(1).rate_bytes_s]
    pool.close()


@pytest.mark.parametrize("fields", [{}, {"job": "NoSuchJob"}, {"job": "MultifdSinkJob", "terms": {}}])
def test_what_is_no_job_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises((KeyError, TypeError, ValueError)):
        decode_job(fields)


def test_what_channels_moved_counts_on_when_they_have_ended() -> None:
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pool, worker, ends = WorkerPool([ControlChannel(near)]), ControlChannel(far), Ends()
    source, sink = MultifdSourceJob(terms(1), ""), MultifdSinkJob(terms(1), "qemu", native_zero=False)
    for job in (source, sink):
        pool.submit(job, None, ends)
    counted = {"pages": 3, "wire_bytes": 20, "codec_wire_bytes": {"zstd": 20}}
    worker.send({"progress": {job_key(source): counted, job_key(sink): {"wire_bytes": 7}}})
    wait_until(lambda: pool.totals()[1].wire_bytes == 7, "progress is known", LIMIT_S)
    final = {"pages": 4, "wire_bytes": 30, "codec_wire_bytes": {"zstd": 30}}
    worker.send({"end": job_key(source), "error": None, "cut": False, "counters": final, "digests": []})
    ends.wait(1)
    worker.close()
    ends.wait(2)
    sent, received = pool.totals()
    assert (sent.pages, sent.wire_bytes, sent.codec_wire_bytes) == (4, 30, {"zstd": 30})
    assert (received.wire_bytes, received.pages) == (7, 0)
    pool.close()


def test_abort_ends_the_channels_of_its_session_only(pool: WorkerPool, silent: socket.socket) -> None:
    ends, others = Ends(), Ends()
    qemus = [start(pool, silent, ends, channel) for channel in range(3)]
    links = [silent.accept()[0] for _ in range(3)]
    here, there = socket.socketpair()
    other = MultifdSourceJob(terms(silent.getsockname()[1], session="cd" * 16), bytes(64).hex())
    pool.submit(other, there.detach(), others)
    links.append(silent.accept()[0])
    pool.abort(SESSION)
    # QEMU notices at once; a link that is still being opened is bounded by its own limit.
    assert [qemu.recv(1) for qemu in qemus] == [b""] * 3
    for link in links[:3]:
        link.close()
    assert all(ends.wait(3))
    assert others.errors == []
    links[3].close()
    (error,) = others.wait(1)
    assert "during the handshake" in str(error)
    for sock in (*qemus, here):
        sock.close()


def test_descriptor_is_closed_here_even_if_nobody_takes_the_job() -> None:
    near, far = socket.socketpair()
    with pytest.raises(KuakaError, match="no worker process is left"):
        WorkerPool(()).submit(MultifdSinkJob(terms(1), "q", native_zero=False), near.detach(), Ends())
    assert far.recv(1) == b""
    far.close()


def test_cut_is_told_from_other_failures(pool: WorkerPool) -> None:
    ends = Ends()
    near, far = socket.socketpair()
    pool.submit(MultifdSinkJob(terms(0), "q", native_zero=False), near.detach(), ends)
    far.close()
    assert isinstance(ends.wait(1)[0], LinkCut)
    near, far = socket.socketpair()
    pool.submit(MultifdSinkJob(terms(0), "q", native_zero=False), near.detach(), ends)
    far.sendall(b"\xff" * 100)
    assert not isinstance(ends.wait(2)[1], LinkCut)
    far.close()


def test_channels_are_aborted_when_their_gateway_goes(tmp_path: Path, silent: socket.socket) -> None:
    worker = Worker(tmp_path / "w")
    threading.Thread(target=worker.serve, daemon=True).start()
    pool = WorkerPool([ControlChannel.connect(tmp_path / "w")])
    qemu = start(pool, silent, Ends())
    link = silent.accept()[0]
    pool.close()
    assert qemu.recv(1) == b""
    worker.stop()
    for sock in (qemu, link):
        sock.close()


def worker_processes(folder: Path) -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if any(str(folder) in word for word in child.cmdline())]


def test_worker_process_that_is_killed_fails_its_channels_and_no_others(tmp_path: Path, silent: socket.socket) -> None:
    with local_workers(2, tmp_path) as pool:
        first, second = worker_processes(tmp_path)
        ends = [Ends(), Ends()]
        qemus = [start(pool, silent, end, channel) for channel, end in enumerate(ends)]
        links = [silent.accept()[0] for _ in qemus]
        first.kill()
        wait_until(lambda: any(end.errors for end in ends), "the dead worker's channel has ended", LIMIT_S)
        dead, alive = sorted(ends, key=lambda end: not end.errors)
        assert str(dead.errors[0]) == "a worker process died"
        assert alive.errors == []
        # The next channel goes to the one that is left.
        qemus.append(start(pool, silent, alive, 2))
        links.append(silent.accept()[0])
        second.kill()
        assert [str(error) for error in alive.wait(2)] == ["a worker process died"] * 2
        with pytest.raises(KuakaError, match="no worker process is left"):
            start(pool, silent, alive, 3)
        for sock in (*qemus, *links):
            sock.close()
    assert worker_processes(tmp_path) == []


def test_worker_processes_end_with_their_context_and_outlive_ctrl_c(tmp_path: Path, silent: socket.socket) -> None:
    with local_workers(1, tmp_path) as pool:
        (process,) = worker_processes(tmp_path)
        assert list(tmp_path.iterdir()) == [], "the control socket is gone once it was used"
        os.kill(process.pid, signal.SIGINT)
        ends = Ends()
        qemu = start(pool, silent, ends)
        link = silent.accept()[0]
        link.close()
        assert "during the handshake" in str(ends.wait(1)[0])
        qemu.close()
    assert not process.is_running()
