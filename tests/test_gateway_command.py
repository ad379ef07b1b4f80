"""`kuaka gateway` and `kuaka certs` as commands: what scripts rely on, on stderr, on stdout and in the exit code."""

import json
import os
import pwd
import re
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.demo.running_guest import wait_until
from tests.qemu.live import vms

KUAKA = str(Path(sys.executable).with_name("kuaka"))
LIMIT_S = 20.0


@pytest.fixture
def runtime() -> Iterator[Path]:
    """A runtime directory with a name that is short enough for sockets; it must be empty in the end."""
    with tempfile.TemporaryDirectory(prefix="k-", dir="/tmp") as name:
        path = Path(name).resolve()
        yield path
        assert list(path.iterdir()) == []


class Command:
    """A running `kuaka gateway`."""

    def __init__(self, runtime: Path, *arguments: object) -> None:
        self._process = subprocess.Popen(
            [KUAKA, "gateway", *map(str, arguments)],
            env=os.environ | {"KUAKA_RUNTIME": str(runtime)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def line(self) -> str:
        """The next line on stderr."""
        assert self._process.stderr is not None
        return self._process.stderr.readline()

    def listening_at(self) -> str:
        """The address of the line that says it is ready."""
        line = self.line()
        assert line.startswith("kuaka: listening at "), line
        return line.removeprefix("kuaka: listening at ").split()[0].rstrip(":")

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def end(self) -> tuple[int, str, str]:
        """Exit code, stdout and the rest of stderr."""
        out, err = self._process.communicate(timeout=LIMIT_S)
        return self._process.returncode, out, err

    def workers(self) -> list[psutil.Process]:
        return psutil.Process(self._process.pid).children()

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()


@contextmanager
def commands(
    runtime: Path, folder: Path, incoming: Path, source: tuple[object, ...] = (), destination: tuple[object, ...] = ()
) -> Iterator[tuple[Command, Command]]:
    """Both commands, listening; the source at `folder`/outgoing."""
    with ExitStack() as stack:
        second = Command(runtime, "destination", "--listen", "127.0.0.1:0", "--qemu", incoming, *destination)
        stack.callback(second.kill)
        to = second.listening_at()
        first = Command(runtime, "source", "--socket", folder / "outgoing", "--to", to, *source)
        stack.callback(first.kill)
        assert first.listening_at() == str(folder / "outgoing")
        yield first, second


def run(*arguments: object, runtime: Path | None = None) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [KUAKA, *map(str, arguments)],
        env=os.environ | ({"KUAKA_RUNTIME": str(runtime)} if runtime else {}),
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )


@pytest.mark.qemu
def test_one_migration_is_served_and_both_commands_say_so(tmp_path: Path, runtime: Path) -> None:
    made = run("certs", tmp_path / "pki", "--host", "both=127.0.0.1")
    assert made.returncode == 0
    assert made.stdout.splitlines() == [
        str(tmp_path / "pki" / name) for name in ("ca.pem", "ca.key", "both.pem", "both.key")
    ]
    tls = [
        f"--tls-{kind}={tmp_path}/pki/{name}"
        for kind, name in (("ca", "ca.pem"), ("cert", "both.pem"), ("key", "both.key"))
    ]
    options = ("--channels", 3, "-o", "json", *tls)
    with vms(tmp_path, "7.2", "10.0") as pair:
        pair.set_up(3)
        with commands(
            runtime,
            tmp_path,
            pair.incoming,
            ("--codec", "lz4", *options),
            ("--qemu-version", "10.0", *options),
        ) as both:
            pair.migrate(tmp_path / "outgoing")
            results = [command.end() for command in both]
        assert pair.status() == "completed"
        assert pair.compare_running().wrong_pages == 0
    for (code, out, err), side in zip(results, ("source", "destination"), strict=True):
        result: dict[str, Any] = json.loads(out)
        assert (code, err) == (0, "")
        assert (result["side"], result["status"], result["error"], result["channels"]) == (side, "completed", None, 3)
        assert result["pages"] > 5000
    assert json.loads(results[0][1])["codec_pages"]["lz4"] > 5000


@pytest.mark.qemu
def test_failed_migration_is_one_line_on_both_sides(tmp_path: Path, runtime: Path) -> None:
    with vms(tmp_path) as pair:
        pair.set_up(off=("return-path",))
        with commands(runtime, tmp_path, pair.incoming) as both:
            pair.migrate(tmp_path / "outgoing")
            results = [command.end() for command in both]
    for code, out, err in results:
        assert code == 1
        assert err.count("\n") == 1
        assert "set the capability return-path on both QEMUs" in err
        assert "status      failed" in out


@pytest.mark.qemu
def test_kept_gateways_serve_until_they_are_told_to_end(tmp_path: Path, runtime: Path) -> None:
    with vms(tmp_path, "7.2", "7.2") as pair:
        pair.set_up(off=("multifd",))
        with commands(runtime, tmp_path, pair.incoming, ("--keep",), ("--keep",)) as (source, destination):
            pair.migrate(tmp_path / "outgoing")
            assert pair.wait_ended() == "completed"
            for command in (source, destination):
                # A line about the single stream, then the next migration may come.
                assert "nothing was accelerated: set the capability multifd" in command.line()
                command.listening_at()
            source.signal(signal.SIGTERM)
            destination.signal(signal.SIGINT)
            assert source.end()[0] == 128 + signal.SIGTERM
            assert destination.end()[0] == 130
        assert not (tmp_path / "outgoing").exists()


@pytest.mark.qemu
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_in_the_middle_cuts_the_migration_and_the_guest_runs_on(
    tmp_path: Path, runtime: Path, number: int
) -> None:
    with vms(tmp_path) as pair:
        pair.set_up(source={"max-bandwidth": 20 << 20})
        with commands(runtime, tmp_path, pair.incoming) as (source, destination):
            pair.migrate(tmp_path / "outgoing")
            wait_until(lambda: pair.source.qmp("query-migrate").get("ram", {}).get("transferred", 0) > 1 << 20, "begun")
            source.signal(number)
            code, _out, err = source.end()
            assert code == 128 + number
            assert "the gateway was told to end" in err
            code, _out, err = destination.end()
            assert code == 1
            assert "gave up: the gateway was told to end" in err
        assert pair.wait_ended(5) == "failed"
        pair.require_source_runs()


@pytest.mark.qemu
def test_killed_gateway_leaves_no_worker_and_the_next_one_sweeps(tmp_path: Path, runtime: Path) -> None:
    with vms(tmp_path) as pair:
        pair.set_up(source={"max-bandwidth": 20 << 20})
        with commands(runtime, tmp_path, pair.incoming) as (source, destination):
            pair.migrate(tmp_path / "outgoing")
            wait_until(lambda: pair.source.qmp("query-migrate").get("ram", {}).get("transferred", 0) > 1 << 20, "begun")
            workers = destination.workers()
            assert len(workers) == 2
            destination.kill()
            assert source.end()[0] == 1
        assert pair.wait_ended(5) == "failed"
        pair.require_source_runs()
    wait_until(lambda: not any(worker.is_running() for worker in workers), "the workers have ended", 5)
    assert len(list(runtime.iterdir())) == 1
    command = Command(runtime, "destination", "--listen", "127.0.0.1:0", "--qemu", "q")
    command.listening_at()
    assert len(list(runtime.iterdir())) == 1
    command.signal(signal.SIGTERM)
    assert command.end()[0] == 128 + signal.SIGTERM


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_socket_belongs_to_the_user_that_was_named(tmp_path: Path, runtime: Path) -> None:
    with ExitStack() as stack:
        path = tmp_path / "outgoing"
        command = Command(runtime, "source", "--socket", path, "--to", "127.0.0.1:9", "--socket-user", "nobody")
        stack.callback(command.kill)
        command.listening_at()
        status = path.stat()
        assert (status.st_uid, status.st_mode & 0o777) == (pwd.getpwnam("nobody").pw_uid, 0o600)
        command.signal(signal.SIGTERM)
        assert command.end()[0] == 128 + signal.SIGTERM


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("source", "--socket", "s", "--to", "10.0.0.1:7000"), "would carry guest memory in the clear"),
        (("destination", "--listen", "0.0.0.0:0", "--qemu", "q"), "would carry guest memory in the clear"),
        (("source", "--socket", "s", "--to", "localhost"), "give HOST:PORT"),
        (("source", "--socket", "s", "--to", "localhost:0"), "give the port"),
        (("source", "--socket", "s", "--to", "localhost:70000"), "give HOST:PORT"),
        (("source", "--socket", "s", "--to", "localhost:7", "--codec", "rar"), "codec 'rar' is unknown"),
        (("source", "--socket", "s", "--to", "localhost:7", "--level", "99"), "level"),
        (("source", "--socket", "s", "--to", "localhost:7", "--channels", "0"), "give a number from 1 to 255"),
        (("source", "--socket", "s", "--to", "localhost:7", "--downtime-limit", "0"), "1 ms or more"),
        (("source", "--socket", "s", "--to", "localhost:7", "--tls-ca", "ca.pem"), "TLS takes three files"),
        (("source", "--socket", "s", "--to", "localhost:7", "--socket-user", "no such"), "there is no such user"),
        (("destination", "--listen", "localhost:0", "--qemu", "q", "--qemu-version", "new"), "such as 7.2 or 10.0"),
    ],
    ids=str,
)
def test_wrong_use_is_one_line_and_exit_code_2(runtime: Path, arguments: tuple[str, ...], words: str) -> None:
    result = run("gateway", *arguments, runtime=runtime)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.count("\n") == 1
    assert words in result.stderr


def test_ipv6_address_is_taken_and_shown_as_it_is_given(runtime: Path) -> None:
    command = Command(runtime, "destination", "--listen", "[::1]:0", "--qemu", "q")
    assert re.fullmatch(r"\[::1\]:\d+", command.listening_at())
    command.signal(signal.SIGINT)
    assert command.end()[0] == 130


def test_file_and_listener_at_the_sockets_path_are_left_alone(tmp_path: Path, runtime: Path) -> None:
    (tmp_path / "file").write_text("precious")
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(tmp_path / "other"))
        other.listen()
        for name, words in (("file", "something that is no socket"), ("other", "another process does")):
            result = run("gateway", "source", "--socket", tmp_path / name, "--to", "localhost:7", runtime=runtime)
            assert result.returncode == 1
            assert words in result.stderr
    assert (tmp_path / "file").read_text() == "precious"
