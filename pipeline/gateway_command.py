"""`kuaka gateway source|destination`: gateways that stand alone, with workers of their own, until told to end."""

import json
import os
import pwd
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Protocol

from pipeline.codecs.codec import CodecId, parse_codec
from pipeline.codecs.table import codec_for
from pipeline.errors import ExitCode, KuakaError, UsageError
from pipeline.fleet.directories import runtime_directory
from pipeline.qemu.standalone import GatewayResult, Say, StandaloneDestination, StandaloneSource
from pipeline.say import say
from pipeline.wire.handshake import MAX_CHANNELS, Role
from pipeline.wire.links import STALL_TIMEOUT_S
from pipeline.wire.opening import LinkTerms
from pipeline.wire.tls import TlsFiles, client_context, require_tls_or_loopback, server_context
from pipeline.worker_pool import WorkerPool
from pipeline.worker_process import local_workers

_DIRECTORY_PREFIX = "gateway-"
_SIGNALLED = 128
#: A destination's return path carries a few messages: whatever the source's limit is, they fit.
_RETURN_DOWNTIME_LIMIT_MS = 300


class _Service(Protocol):
    def serve_one(self, stop: threading.Event, say: Say) -> GatewayResult | None:
        """Serve one migration."""

    def close(self) -> None:
        """Let go."""


@dataclass(frozen=True, slots=True)
class GatewayOptions:
    """What both sides are told. Errors: `UsageError`."""

    channels: int
    tls_ca: Path | None
    tls_certificate: Path | None
    tls_key: Path | None
    plain: bool
    workers: int
    keep: bool
    as_json: bool

    def __post_init__(self) -> None:
        if not 1 <= self.channels <= MAX_CHANNELS:
            raise UsageError(f"--channels {self.channels}: give a number from 1 to {MAX_CHANNELS}")

    def tls(self) -> TlsFiles | None:
        """The TLS files; None without any."""
        if self.tls_ca and self.tls_certificate and self.tls_key:
            return TlsFiles(self.tls_ca, self.tls_certificate, self.tls_key)
        if self.tls_ca or self.tls_certificate or self.tls_key:
            raise UsageError("TLS takes three files: give --tls-ca, --tls-cert and --tls-key, or none of them")
        return None


def run_source(
    options: GatewayOptions,
    *,
    socket_path: Path,
    to: str,
    codec: str,
    level: int | None,
    downtime_limit_ms: int,
    socket_user: str | None,
) -> int:
    """Serve source QEMUs at `socket_path`; returns the exit code. Raises `KuakaError`."""
    address, port = _parse_address("--to", to)
    if port == 0:
        raise UsageError(f"--to {to}: give the port that the destination's gateway listens at")
    if downtime_limit_ms < 1:
        raise UsageError(f"--downtime-limit {downtime_limit_ms}: give the source QEMU's own, 1 ms or more")
    codec_id = parse_codec(codec)
    codec_for(codec_id, level)
    tls = options.tls()
    require_tls_or_loopback(address, tls, options.plain)
    if tls is not None:
        client_context(tls)
    uid = _socket_uid(socket_user)
    terms = _terms(options, tls, codec_id, level, downtime_limit_ms, address, port)
    return _run(options, lambda pool: StandaloneSource(socket_path.absolute(), terms, pool, uid))


def run_destination(options: GatewayOptions, *, listen: str, qemu: Path, qemu_version: str) -> int:
    """Serve source gateways at `listen`, into the QEMU at `qemu`; returns the exit code. Raises `KuakaError`."""
    address, port = _parse_address("--listen", listen)
    native_zero = _parse_version(qemu_version) >= (9, 0)
    tls = options.tls()
    require_tls_or_loopback(address, tls, options.plain)
    if tls is not None:
        server_context(tls)
    terms = _terms(options, tls, CodecId.NONE, None, _RETURN_DOWNTIME_LIMIT_MS)
    return _run(
        options,
        lambda pool: StandaloneDestination(address, port, qemu.absolute(), terms, pool, native_zero=native_zero),
    )


def _run(options: GatewayOptions, make: Callable[[WorkerPool], _Service]) -> int:
    stop = _Stop()
    with _private_directory(runtime_directory()) as directory, local_workers(options.workers, directory) as pool:
        service = make(pool)
        try:
            return _serve(options, service, stop)
        finally:
            service.close()


def _serve(options: GatewayOptions, service: _Service, stop: "_Stop") -> int:
    while True:
        result = service.serve_one(stop.event, say)
        if result is not None:
            _show(result, options.channels, options.as_json)
        if stop.event.is_set():
            return _SIGNALLED + stop.signal
        if not options.keep:
            return ExitCode.OK if result is not None and result.completed else ExitCode.FAILED


class _Stop:
    """Set by SIGINT and SIGTERM: nothing is torn down inside a handler."""

    def __init__(self) -> None:
        self.event = threading.Event()
        self.signal = 0
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._received)

    def _received(self, number: int, frame: FrameType | None) -> None:
        self.signal = number
        self.event.set()


@contextmanager
def _private_directory(parent: Path) -> Iterator[Path]:
    """A directory of this process for its workers' sockets; what dead gateways left beside it is removed."""
    for left in parent.glob(f"{_DIRECTORY_PREFIX}*"):
        pid = left.name.removeprefix(_DIRECTORY_PREFIX)
        if pid.isdigit() and not Path(f"/proc/{pid}").exists():
            shutil.rmtree(left, ignore_errors=True)
    directory = parent / f"{_DIRECTORY_PREFIX}{os.getpid()}"
    try:
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(mode=0o700)
    except OSError as error:
        raise KuakaError(f"cannot make {directory}: {error.strerror}") from None
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _terms(
    options: GatewayOptions,
    tls: TlsFiles | None,
    codec: CodecId,
    level: int | None,
    downtime_limit_ms: int,
    address: str = "",
    port: int = 0,
) -> LinkTerms:
    return LinkTerms(
        session="",
        role=Role.MAIN,
        channel=0,
        channels=options.channels,
        codec=codec,
        level=level,
        tls=tls,
        stall_timeout_s=STALL_TIMEOUT_S,
        downtime_limit_ns=downtime_limit_ms * 10**6,
        address=address,
        port=port,
    )


def _parse_address(option: str, text: str) -> tuple[str, int]:
    address, colon, port = text.rpartition(":")
    address = address.removeprefix("[").removesuffix("]")
    # isdecimal alone takes digits of other scripts, too.
    if not colon or not address or not (port.isascii() and port.isdecimal()) or int(port) > 65535:
        raise UsageError(f"{option} {text}: give HOST:PORT, for an IPv6 address [ADDRESS]:PORT")
    return address, int(port)


def _parse_version(text: str) -> tuple[int, int]:
    major, _dot, rest = text.partition(".")
    minor = rest.partition(".")[0] or "0"
    if not (major.isascii() and major.isdecimal() and minor.isascii() and minor.isdecimal()):
        raise UsageError(f"--qemu-version {text}: give a version such as 7.2 or 10.0")
    return int(major), int(minor)


def _socket_uid(user: str | None) -> int | None:
    if user is None:
        return None
    try:
        uid = int(user) if user.isascii() and user.isdecimal() else pwd.getpwnam(user).pw_uid
    except KeyError:
        raise UsageError(f"--socket-user {user}: there is no such user on this host") from None
    if uid != os.geteuid() and os.geteuid() != 0:
        raise UsageError(f"--socket-user {user}: only root can give the socket to another user")
    return uid


def _show(result: GatewayResult, channels: int, as_json: bool) -> None:
    if result.error is not None:
        say(f"the migration failed: {result.error}")
    elif not result.channels:
        say("QEMU used its main channel alone, so nothing was accelerated: set the capability multifd on both QEMUs")
    elif result.channels < channels:
        say(f"QEMU used {result.channels} multifd channels of {channels}: set multifd-channels on both QEMUs for more")
    fields = result.to_json()
    if as_json:
        sys.stdout.write(json.dumps(fields) + "\n")
    else:
        for name, value in fields.items():
            shown = " ".join(f"{key} {count}" for key, count in value.items()) if isinstance(value, dict) else value
            sys.stdout.write(f"{name.replace('_', ' '):<12}{'-' if shown in (None, '') else shown}\n")
    sys.stdout.flush()
