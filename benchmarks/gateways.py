"""kuaka's side of a live migration: both gateways with warm workers, between the two QEMUs of a pair."""

import os
import secrets
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.measure import Run
from benchmarks.namespaces import LOOPBACK, Place
from benchmarks.pair import Pair
from benchmarks.workers import Workers, workers
from pipeline.codecs.codec import CodecId
from pipeline.control import ControlChannel
from pipeline.fleet.command import DEFAULT_WORKERS
from pipeline.memory.pages import PAGE_BYTES
from pipeline.qemu.destination_gateway import DestinationGateway
from pipeline.qemu.source_gateway import SourceGateway
from pipeline.session import Session
from pipeline.shard import ShardCounters
from pipeline.wire.handshake import Role
from pipeline.wire.opening import LinkTerms
from pipeline.wire.port import LinkPort
from pipeline.worker_pool import WorkerPool

_END_TIMEOUT_S = 10.0
_STALL_TIMEOUT_S = 15.0


@dataclass(frozen=True, slots=True)
class GatewayHosts:
    """The two hosts, without their gateways: those are per migration."""

    folder: Path
    places: tuple[Place, Place]
    source: Workers
    destination: Workers
    source_pool: WorkerPool
    destination_pool: WorkerPool

    def run(self, pair: Pair, codec: CodecId, level: int | None = None) -> Run:
        """Migrate a pair through fresh gateways. The gateways' own threads are in this process: both sides pay half."""
        session_id = secrets.token_bytes(16).hex()
        terms = LinkTerms(
            session_id, Role.MAIN, 0, pair.settings.channels, codec, level, None, _STALL_TIMEOUT_S,
            pair.settings.downtime_limit_ms * 10**6,
        )  # fmt: skip
        incoming, outgoing = self.folder / "incoming", self.folder / "outgoing"
        pair.destination.execute("migrate-incoming", uri=f"unix:{incoming}")
        arrived, sent = Session(session_id, self.destination_pool.abort), Session(session_id, self.source_pool.abort)
        with ExitStack() as stack:
            with self.places[1].entered():
                gateway = DestinationGateway(incoming, terms, arrived, self.destination_pool, native_zero=False)
                port = stack.enter_context(closing(LinkPort(self.places[1].address, 0, gateway.route)))
            stack.callback(gateway.close)
            with self.places[0].entered():
                remote = replace(terms, address=port.address, port=port.port)
                stack.callback(SourceGateway(outgoing, remote, sent, self.source_pool).close)
            own = _own_cpu_s()
            run = pair.run(f"unix:{outgoing}", (self.source.pids, self.destination.pids))
            own = (_own_cpu_s() - own) / 2
            for session in (sent, arrived):
                if not session.wait(_END_TIMEOUT_S) or session.error is not None:
                    raise RuntimeError(f"kuaka's migration failed: {session.error or 'it does not end'}")
        return replace(
            run,
            source_cpu_s=run.source_cpu_s + own,
            destination_cpu_s=run.destination_cpu_s + own,
            overhead_bytes=overhead_bytes(sent.totals()) if codec is CodecId.NONE else None,
        )


@contextmanager
def gateway_hosts(
    folder: Path, places: tuple[Place, Place] = (LOOPBACK, LOOPBACK), count: int = DEFAULT_WORKERS
) -> Iterator[GatewayHosts]:
    """Two hosts with `count` warm workers each."""
    with ExitStack() as stack:
        pools = []
        sides = []
        for name, place in zip(("source", "destination"), places, strict=True):
            home = folder / name
            home.mkdir()
            stack.callback(home.rmdir)
            side = stack.enter_context(workers(count, home, place))
            pool = WorkerPool([ControlChannel.connect(path) for path in side.sockets])
            stack.callback(pool.close)
            sides.append(side)
            pools.append(pool)
        yield GatewayHosts(folder, places, sides[0], sides[1], pools[0], pools[1])


def overhead_bytes(counters: ShardCounters) -> int:
    """What frames without compression are larger than the normal pages in them."""
    return counters.wire_bytes - sum(counters.codec_pages.values()) * PAGE_BYTES


def _own_cpu_s() -> float:
    times = os.times()
    return times.user + times.system
