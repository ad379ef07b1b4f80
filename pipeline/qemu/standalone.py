"""Gateways that stand alone: no Ray, no QMP, one migration at a time behind any `migrate unix:PATH`.

The source side names the session, the destination takes the first main link that agrees with it. Whether a migration
went well is what the destination QEMU says on the return path, which both sides read along; who drives the QEMUs
decides what to do with the guests.
"""

import secrets
import socket
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pipeline.codecs.table import codec_for
from pipeline.errors import KuakaError, LinkRefused
from pipeline.qemu.destination_gateway import DestinationGateway
from pipeline.qemu.source_gateway import SourceGateway
from pipeline.session import DESTINATION_GRACE_S, Session
from pipeline.shard import ShardCounters
from pipeline.wire.handshake import SESSION_BYTES, Preamble, Role
from pipeline.wire.links import LinkReceiver
from pipeline.wire.opening import OPENING_TIMEOUT_S, LinkTerms, accept_link, refuse_link
from pipeline.wire.port import LinkPort
from pipeline.worker_pool import WorkerPool

#: How often a wait looks whether the gateway was told to end.
_STOP_CHECK_S = 0.1
#: The parts of a session that failed end this soon after it has.
_SETTLE_S = 3.0
#: QEMU opens its channels one right after the other.
_CHANNELS_COME_S = 1.0
_BUSY = "this gateway serves another migration, one at a time: run it again later"

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class GatewayResult:
    """How one migration went, seen from one side."""

    side: str
    error: str | None
    #: Multifd channels; 0 where QEMU used its main channel alone.
    channels: int
    total_ms: float
    counters: ShardCounters

    @property
    def completed(self) -> bool:
        """Whether the destination QEMU has confirmed that it has everything."""
        return self.error is None

    def to_json(self) -> dict[str, Any]:
        """Fields for `-o json`."""
        counters = asdict(self.counters)
        zero_pages = counters.pop("zero_pages") + counters.pop("announced_zero_pages")
        return {
            "side": self.side,
            "status": "completed" if self.completed else "failed",
            "error": self.error,
            "channels": self.channels,
            "total_ms": round(self.total_ms, 1),
            "zero_pages": zero_pages,
            **counters,
        }


class StandaloneSource:
    """A source gateway at `socket_path`, made anew for each migration."""

    def __init__(self, socket_path: Path, terms: LinkTerms, pool: WorkerPool, socket_uid: int | None = None) -> None:
        """`terms` are those of every link; their session is replaced."""
        self._socket_path = socket_path
        self._terms = terms
        self._pool = pool
        self._socket_uid = socket_uid

    def serve_one(self, stop: threading.Event, say: Say) -> GatewayResult | None:
        """Wait for a source QEMU and serve it; None when told to stop before one came. Raises `KuakaError`."""
        session = Session(secrets.token_bytes(SESSION_BYTES).hex(), self._pool.abort)
        terms = replace(self._terms, session=session.session_id)
        gateway = SourceGateway(self._socket_path, terms, session, self._pool, self._socket_uid)
        say(f"listening at {self._socket_path}: migrate unix:{self._socket_path}")
        try:
            began = _await_end(session, stop)
            if session.error is not None:
                gateway.await_channels(_CHANNELS_COME_S)
        finally:
            gateway.close()
        return _result("source", session, gateway.channels_seen) if began else None

    def close(self) -> None:
        """Nothing outlives a migration here."""


class StandaloneDestination:
    """A destination gateway at one TCP port."""

    def __init__(
        self, address: str, port: int, qemu_socket: Path, terms: LinkTerms, pool: WorkerPool, *, native_zero: bool
    ) -> None:
        """Listen; `terms` are those of every link, their session is replaced. Raises `UsageError`."""
        self._qemu_socket = qemu_socket
        self._terms = terms
        self._pool = pool
        self._native_zero = native_zero
        self._changed = threading.Condition()
        self._current: DestinationGateway | None = None
        self._refused: str | None = None
        #: Sessions whose main link is agreeing; their other links may be faster than we are.
        self._agreeing: set[str] = set()
        self._say: Say = lambda text: None
        self._port = LinkPort(address, port, self._route)
        self.address = f"{f'[{address}]' if ':' in address else address}:{self._port.port}"

    def serve_one(self, stop: threading.Event, say: Say) -> GatewayResult | None:
        """Wait for a source gateway and serve its migration; None when told to stop before one came."""
        self._say = say
        say(f"listening at {self.address} for kuaka gateway source")
        with self._changed:
            while self._current is None and self._refused is None:
                if stop.is_set():
                    return None
                self._changed.wait(_STOP_CHECK_S)
            gateway, refused, self._refused = self._current, self._refused, None
        if gateway is None:
            return GatewayResult("destination", refused, 0, 0.0, ShardCounters())
        try:
            _await_end(gateway.session, stop)
        finally:
            gateway.close()
            with self._changed:
                self._current = None
        return _result("destination", gateway.session, gateway.channels_seen)

    def close(self) -> None:
        """Stop listening."""
        self._port.close()

    def _route(self, sock: socket.socket, preamble: Preamble) -> None:
        session_id = preamble.session.hex()
        with self._changed:
            self._changed.wait_for(lambda: session_id not in self._agreeing, OPENING_TIMEOUT_S)
            gateway = self._current
        if gateway is not None and gateway.session.session_id == session_id:
            gateway.route(sock, preamble)
        elif gateway is not None:
            refuse_link(sock, self._terms.tls, _BUSY)
        elif preamble.role is Role.MAIN:
            self._take(sock, preamble)
        else:
            refuse_link(sock, self._terms.tls, "the migration that this link belongs to has ended")

    def _take(self, sock: socket.socket, preamble: Preamble) -> None:
        """Agree with a main link, and only then make its session the one that is served: before, it may be anyone's."""
        terms = replace(self._terms, session=preamble.session.hex(), role=Role.MAIN, channel=0)
        with self._changed:
            self._agreeing.add(terms.session)
        gateway: DestinationGateway | None = None
        try:
            transport, hello = accept_link(sock, preamble, terms)
            gateway = self._make_current(terms)
        except LinkRefused as error:
            with self._changed:
                self._refused = str(error)
            return
        except KuakaError as error:
            self._say(str(error))
            return
        finally:
            with self._changed:
                self._agreeing.discard(terms.session)
                self._changed.notify_all()
        if gateway is None:
            LinkReceiver(transport, codec_for(terms.codec), terms.peer).reject(_BUSY)
            transport.close()
        else:
            gateway.serve_accepted_main(transport, hello)

    def _make_current(self, terms: LinkTerms) -> DestinationGateway | None:
        """The gateway that serves this session; None while there is another."""
        with self._changed:
            if self._current is not None:
                return None
            session = Session(terms.session, self._pool.abort, DESTINATION_GRACE_S)
            self._current = DestinationGateway(
                self._qemu_socket, terms, session, self._pool, native_zero=self._native_zero
            )
            return self._current


def _await_end(session: Session, stop: threading.Event) -> bool:
    """Wait until the session has ended; False when told to stop before it had begun."""
    while not session.wait(_STOP_CHECK_S):
        if stop.is_set():
            idle = session.age_s == 0
            session.fail("the gateway was told to end")
            session.wait(_SETTLE_S)
            return not idle
        if session.error is not None:
            session.wait(_SETTLE_S)
    return True


def _result(side: str, session: Session, channels: int) -> GatewayResult:
    return GatewayResult(side, session.error, channels, session.age_s * 1000, session.totals())
