"""A live migration between two real QEMUs through a pair of stand-alone gateways, in this process, with real workers.

The rule: what a test starts ends with its `with` statement, and every wait has a limit.
"""

import contextlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil

from pipeline.codecs.codec import parse_codec
from pipeline.demo.guest import ODD_MEMORY_BYTES, GuestParameters
from pipeline.demo.ram_check import RamComparison, compare
from pipeline.qemu.standalone import GatewayResult, StandaloneDestination, StandaloneSource
from pipeline.wire.handshake import Role
from pipeline.wire.links import STALL_TIMEOUT_S
from pipeline.wire.opening import LinkTerms
from pipeline.wire.tls import TlsFiles
from pipeline.worker_pool import WorkerPool
from tests.demo.running_guest import QEMU_7_2, QEMU_10_0, RunningGuest, wait_until

MIB = 1 << 20
QEMUS = {"7.2": QEMU_7_2, "10.0": QEMU_10_0}
GUEST = GuestParameters(64 * MIB + ODD_MEMORY_BYTES, dirty_rate_bytes_s=32 * MIB)
_UNLIMITED_BYTES_S = 10**11
_GATEWAY_THREADS = ("return path", "source connection", "source gateway", "link arriving", "link port")
_ENDED = ("completed", "failed", "cancelled")


def held() -> tuple[int, int, int]:
    """Threads of gateways, sockets of this process, and descriptors of its workers."""
    threads = sum(thread.name in _GATEWAY_THREADS for thread in threading.enumerate())
    sockets = 0
    for descriptor in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            sockets += str(descriptor.readlink()).startswith("socket:")
    in_workers = 0
    for child in psutil.Process().children():
        # One that has ended holds nothing.
        with contextlib.suppress(psutil.Error):
            in_workers += child.num_fds() if "pipeline.worker_process" in child.cmdline() else 0
    return threads, sockets, in_workers


@dataclass(frozen=True)
class Pools:
    """Workers of the two sides."""

    source: WorkerPool
    destination: WorkerPool


@dataclass
class Vms:
    """A running source and a destination that waits."""

    source: RunningGuest
    destination: RunningGuest

    @property
    def incoming(self) -> Path:
        return self.destination.folder / "incoming"

    @property
    def native_zero(self) -> bool:
        version = self.destination.qmp("query-version")["qemu"]
        return bool(version["major"] >= 9)

    def set_up(
        self,
        channels: int = 2,
        *,
        destination_channels: int | None = None,
        off: tuple[str, ...] = (),
        on: tuple[str, ...] = (),
        source: dict[str, Any] | None = None,
    ) -> None:
        """Capabilities and parameters: multifd and return-path but for `off`; `source` is for the source alone."""
        capabilities = {name: name not in off for name in ("multifd", "return-path")} | dict.fromkeys(on, True)
        for guest, count in ((self.source, channels), (self.destination, destination_channels or channels)):
            guest.qmp(
                "migrate-set-capabilities",
                capabilities=[{"capability": name, "state": state} for name, state in capabilities.items()],
            )
            parameters = {"multifd-channels": count, "max-bandwidth": _UNLIMITED_BYTES_S}
            guest.qmp("migrate-set-parameters", **parameters)
        self.source.qmp("migrate-set-parameters", **{"downtime-limit": 300} | (source or {}))
        self.destination.qmp("migrate-incoming", uri=f"unix:{self.incoming}")

    def migrate(self, path: Path) -> None:
        self.source.qmp("migrate", uri=f"unix:{path}")

    def status(self) -> str:
        return str(self.source.qmp("query-migrate").get("status", "none"))

    def wait_ended(self, timeout_s: float = 20) -> str:
        """Wait for the source to say how it ended."""
        wait_until(lambda: self.status() in _ENDED, "the migration has ended", timeout_s)
        return self.status()

    def compare_running(self) -> RamComparison:
        """Let the destination go on for a moment, stop it and compare all RAM."""
        self.destination.qmp("cont")
        wait_until(lambda: self.destination.steps > self.source.steps + 200, "the destination goes on")
        self.destination.qmp("stop")
        return compare(self.source.ram, self.destination.ram, self.source.parameters)

    def require_source_runs(self) -> None:
        """The guest is where it was, and only there."""
        wait_until(lambda: self.source.qmp("query-status")["status"] == "running", "the source runs again", 5)
        self.source.wait_steps(100)
        # Not by QMP: after a cut a destination QEMU of 7.2 may hang.
        before = self.destination.steps
        self.source.wait_steps(100)
        assert self.destination.steps == before


@contextmanager
def vms(
    folder: Path,
    source: str = "7.2",
    destination: str = "7.2",
    parameters: GuestParameters = GUEST,
    options: tuple[str, ...] = (),
    destination_options: tuple[str, ...] = (),
) -> Iterator[Vms]:
    """Both QEMUs by version, the source's guest ready."""
    machine = "pc-i440fx-7.2" if "7.2" in (source, destination) else "pc-i440fx-10.0"
    with (
        RunningGuest(folder / "s", parameters, QEMUS[source], machine, options=options) as first,
        RunningGuest(
            folder / "d", parameters, QEMUS[destination], machine, incoming=True, options=destination_options
        ) as second,
    ):
        first.wait_ready()
        yield Vms(first, second)


@dataclass
class GatewayPair:
    """Both gateways, each serving one migration. `relay` gets the destination's port and returns the one to go to."""

    pools: Pools
    folder: Path
    incoming: Path
    channels: int = 2
    destination_channels: int | None = None
    codec: str = "zstd"
    level: int | None = None
    native_zero: bool = False
    downtime_limit_ms: int = 300
    stall_timeout_s: float = STALL_TIMEOUT_S
    source_tls: TlsFiles | None = None
    destination_tls: TlsFiles | None = None
    relay: Callable[[int], int] = lambda port: port
    stop: threading.Event = field(default_factory=threading.Event)
    said: list[str] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._before = held()
        self.path = self.folder / "outgoing"
        self._threads = ThreadPoolExecutor(2)
        terms = self._terms(self.destination_channels or self.channels, self.destination_tls, 0)
        self._destination = StandaloneDestination(
            "127.0.0.1", 0, self.incoming, terms, self.pools.destination, native_zero=self.native_zero
        )
        self.port = self.relay(int(self._destination.address.rpartition(":")[2]))
        terms = self._terms(self.channels, self.source_tls, self.port)
        self._source = StandaloneSource(self.path, terms, self.pools.source)
        self.destination: Future[GatewayResult | None] = self._threads.submit(
            self._destination.serve_one, self.stop, self.said.append
        )
        self.source: Future[GatewayResult | None] = self._threads.submit(
            self._source.serve_one, self.stop, self.said.append
        )
        wait_until(self.path.exists, "the source gateway listens", 5)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop.set()
        self._threads.shutdown()
        self._destination.close()
        self._source.close()
        if error is None:
            assert not self.path.exists()
            wait_until(
                lambda: all(now <= before for now, before in zip(held(), self._before, strict=True)), "let go", 15
            )

    def results(self, timeout_s: float = 10) -> tuple[GatewayResult, GatewayResult]:
        """How source and destination say it went."""
        results = self.source.result(timeout_s), self.destination.result(timeout_s)
        assert results[0] is not None
        assert results[1] is not None
        return results

    def errors(self, timeout_s: float = 10) -> tuple[str, str]:
        """Why source and destination say it failed."""
        source, destination = self.results(timeout_s)
        return source.error or "", destination.error or ""

    @property
    def destination_busy(self) -> bool:
        """Whether the destination serves a migration now."""
        return self._destination._current is not None

    def terms(self) -> LinkTerms:
        """What the source's links would agree on."""
        return self._terms(self.channels, self.source_tls, self.port)

    def _terms(self, channels: int, tls: TlsFiles | None, port: int) -> LinkTerms:
        return LinkTerms(
            session="",
            role=Role.MAIN,
            channel=0,
            channels=channels,
            codec=parse_codec(self.codec),
            level=self.level,
            tls=tls,
            stall_timeout_s=self.stall_timeout_s,
            downtime_limit_ns=self.downtime_limit_ms * 10**6,
            address="127.0.0.1" if port else "",
            port=port,
        )
