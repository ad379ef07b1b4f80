"""One host's part in migrations: gateways, QMP, workers and the operator's commands. `fleet.agent` is its Ray shell.

The host does what it is told, one migration at a time per session, and decides nothing about a guest's fate but this:
a session that fails is cut at once, so the source QEMU goes on by itself; and when nobody has asked for anything for
`ORPHAN_S`, the controller is gone, every session is cut and every destination is cleaned up but those that it was told
to keep: whose guest those are, only the journal knows.
"""

import asyncio
import contextlib
import logging
import os
import socket
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.codecs.codec import CodecId
from pipeline.control import ControlChannel
from pipeline.errors import KuakaError, MigrationError, SpecError, UsageError
from pipeline.fleet.commands import run_command
from pipeline.fleet.downtime_ticket import DowntimeTicket
from pipeline.fleet.held_stop import HeldStop
from pipeline.fleet.host_accelerators import HostAccelerators
from pipeline.fleet.host_statistics import HostStatistics, SentKind, SentSession
from pipeline.fleet.image_transfers import ImageTransfers, remove_partial
from pipeline.fleet.orders import (
    Cleanup,
    DestinationOrder,
    DestinationReady,
    ImageOutcome,
    ImageSourceOrder,
    ImageTargetOrder,
    MigrationProgress,
    SourceOrder,
    TransferTerms,
)
from pipeline.fleet.session_directories import SessionDirectories, uid_of
from pipeline.fleet.session_end import session_end
from pipeline.fleet.silence import Silence
from pipeline.logs import log_about
from pipeline.memory.image_source import ImageFacts
from pipeline.offload import OffloadCounters
from pipeline.qemu.destination_gateway import DestinationGateway
from pipeline.qemu.destination_vm import DestinationVm, refuse_occupied, remove_destination
from pipeline.qemu.qmp import QemuFacts, is_there
from pipeline.qemu.recovery import recover_destination, recover_source
from pipeline.qemu.source_gateway import SourceGateway
from pipeline.qemu.source_vm import SourceOutcome, SourceSettings, SourceVm
from pipeline.qemu.switchover import SWITCHOVER_ACK, Hold, way_to_hold
from pipeline.session import Session
from pipeline.wire.handshake import Preamble, Role
from pipeline.wire.opening import LinkTerms, refuse_link
from pipeline.wire.port import LinkPort
from pipeline.wire.tls import TlsFiles, server_context
from pipeline.worker_pool import WorkerPool
from scheduler.core.units import Phase

#: A controller asks for progress several times a second; silence this long means that it has gone.
ORPHAN_S = 15.0
#: The parts of a session end this soon after it has.
_SETTLE_S = 3.0
#: A snapshot of so many takes well under a millisecond.
_SESSIONS_AT_ONCE = 20

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Source:
    name: str
    vm: SourceVm
    session: Session
    gateway: SourceGateway | None = None
    starting: "asyncio.Task[None] | None" = None
    ticket: DowntimeTicket | None = None
    ram_bytes: int = 0
    fleet: str = ""
    #: When its migration was started, seconds since 1970.
    began_s: float = 0.0

    @property
    def ticket_wait_ms(self) -> float | None:
        return None if self.ticket is None else self.ticket.wait_ms


@dataclass(slots=True)
class _Destination:
    vm: DestinationVm
    session: Session
    cleanup: Cleanup
    gateway: DestinationGateway | None = None
    preparing: "asyncio.Task[QemuFacts] | None" = None
    kept: bool = False
    #: Whether `prepare` was run: then whatever is there is this attempt's.
    prepared: bool = False
    #: Whether it was found to be a stopped QEMU that waits for a migration, so that it is ours to end.
    accepted: bool = False


class Host:
    """A host's migrations, on one asyncio loop; page bytes and streams have threads and processes of their own."""

    def __init__(
        self,
        name: str,
        address: str,
        directory: Path,
        tls: TlsFiles | None,
        accelerators: HostAccelerators | None = None,
    ) -> None:
        """`address` is where links arrive; `directory` is this host's own for sockets, 0700."""
        self.name = name
        self._address = address
        self._directories = SessionDirectories(directory)
        self._tls = tls
        self._sources: dict[str, _Source] = {}
        self._destinations: dict[str, _Destination] = {}
        self._pool = WorkerPool(())
        self._port: LinkPort | None = None
        self._silence = Silence()
        self._images = ImageTransfers(self._link_terms)
        self._accelerators = accelerators or HostAccelerators(name, directory, None)
        #: Sessions that failed here, by direction.
        self._failed: Counter[str] = Counter()

    async def start(self, worker_sockets: Sequence[str]) -> None:
        """Connect to the workers and listen for links. Raises `KuakaError`, also for TLS files that do not work."""
        if self._tls is not None:
            self._check_files(self._tls)
        controls = [await asyncio.to_thread(ControlChannel.connect, Path(path)) for path in worker_sockets]
        self._pool = WorkerPool(controls)
        self._images.use(self._pool)
        await self._accelerators.start(len(controls))
        self._port = LinkPort(self._address, 0, self._route)

    async def clock_ns(self) -> int:
        """This host's real-time clock, by which QEMU stamps its events."""
        self._silence.heard()
        return time.time_ns()

    async def prepare_destination(self, order: DestinationOrder) -> DestinationReady:
        """Start a fresh destination and let it wait for its migration. Raises `KuakaError`; clean up then."""
        self._silence.heard()
        if self._port is None:
            raise MigrationError(f"host {self.name} was not started")
        incoming = Path(order.cleanup.environment["KUAKA_INCOMING"])
        session = Session(order.terms.session, self._pool.abort)
        destination = _Destination(DestinationVm(order.vm, Path(order.qmp)), session, order.cleanup)
        self._destinations[order.terms.session] = destination
        destination.preparing = asyncio.create_task(self._prepare(order, destination, incoming))
        await asyncio.wait((destination.preparing,))
        if destination.preparing.cancelled():
            raise MigrationError(f"{order.vm}: the destination was removed while it was being prepared")
        facts = destination.preparing.result()
        self._equip(order.vm, order.terms, Phase.PRECOPY, sending=False)
        destination.gateway = DestinationGateway(
            incoming, self._link_terms(order.terms, "", 0), session, self._pool, native_zero=facts.native_zero_pages
        )
        return DestinationReady(self._address, self._port.port, facts)

    async def _prepare(self, order: DestinationOrder, destination: _Destination, incoming: Path) -> QemuFacts:
        if order.prepare is not None:
            await refuse_occupied(order.vm, Path(order.qmp))
        self._directories.make(order.terms.session, order.socket_user)
        if order.prepare is not None:
            destination.prepared = True
            await run_command(f"{order.vm}: prepare on {self.name}", order.prepare, order.cleanup.environment)
        facts = await destination.vm.connect()
        destination.accepted = True
        acknowledges = order.acknowledges and SWITCHOVER_ACK in facts.capabilities
        await destination.vm.listen(order.terms.channels, incoming, acknowledges=acknowledges)
        os.chmod(incoming, 0o600)  # noqa: PTH101 - one call on a file that exists, nothing to wait for
        return facts

    async def inspect_source(self, vm: str, qmp: str, session_id: str) -> QemuFacts:
        """Connect to a source QEMU and check it; nothing of it is changed. Raises `SpecError`."""
        self._silence.heard()
        source_vm = SourceVm(vm, Path(qmp), lambda: self._guest_stopped(session_id))
        source = _Source(vm, source_vm, Session(session_id, self._pool.abort))
        self._sources[session_id] = source
        try:
            facts = await source.vm.connect()
            source.ram_bytes = facts.ram_bytes
            return facts
        except BaseException:
            # Whoever has given it up meanwhile has forgotten it, too.
            self._sources.pop(session_id, None)
            await source.vm.disconnect()
            raise

    async def takes_tickets(self, codec: CodecId) -> bool:
        """Whether guests that leave with this codec are stopped when the scheduler has given them a ticket."""
        return self._accelerators.takes_tickets(codec)

    async def start_source(self, order: SourceOrder, facts: QemuFacts) -> None:
        """Start the migration of an inspected source. Raises `KuakaError`."""
        source = self._source(order.terms.session)
        source.fleet, source.began_s = order.terms.tenant, time.time()
        source.starting = asyncio.create_task(self._start(order, source, facts))
        # A caller that gives up does not stop it half-way; `_decided` is how it learns what QEMU was told.
        await asyncio.wait((source.starting,))
        source.starting.result()

    async def _start(self, order: SourceOrder, source: _Source, facts: QemuFacts) -> None:
        self._equip(order.vm, order.terms, Phase.PRECOPY, sending=True)
        desk = self._accelerators.ticket_desk(order.terms.session) if facts.status == "running" else None
        hold = way_to_hold(wanted=desk is not None, acknowledged=order.acknowledged)
        limit_ms = order.terms.downtime_limit_ms
        settings = SourceSettings(
            order.terms.channels, limit_ms, order.zero_page_detection, hold, order.acknowledged, order.auto_converge
        )
        await source.vm.configure(settings, facts)
        directory = self._directories.make(order.terms.session, order.socket_user)
        source.gateway = SourceGateway(
            directory / "outgoing",
            self._link_terms(order.terms, order.address, order.port),
            source.session,
            self._pool,
            uid_of(order.socket_user),
            holds_switchover=hold is Hold.ACK,
        )
        if source.session.error is not None:
            raise MigrationError(source.session.error)
        await source.vm.start(source.gateway.socket_path)
        if desk is not None:
            source.ticket = DowntimeTicket(desk, HeldStop(source.vm, source.gateway, hold), limit_ms * 10**6)
            source.ticket.start()

    def _guest_stopped(self, session_id: str) -> None:
        self._accelerators.stopped(session_id)
        if (source := self._sources.get(session_id)) is not None and source.ticket is not None:
            source.ticket.stopped()

    async def await_source(self, session_id: str) -> SourceOutcome:
        """Wait for the source's end, whatever it is. Raises `MigrationError` when QEMU goes."""
        return await self._source(session_id).vm.outcome(self._source(session_id).session)

    async def keep_destination(self, session_id: str) -> None:
        """Never clean this destination up unless told to, from now on. Before the hand-over is recorded."""
        self._destination(session_id).kept = True

    async def resume_destination(self, session_id: str) -> int:
        """Start the guest here; its time by this host's clock, ns. Only after the hand-over was recorded."""
        return await self._destination(session_id).vm.resume()

    async def progress(self, session_ids: Sequence[str]) -> dict[str, MigrationProgress]:
        """How far the sessions have come; also the controller's sign of life."""
        self._silence.heard()
        progress: dict[str, MigrationProgress] = {}
        for session_id in session_ids:
            if (source := self._sources.get(session_id)) is not None:
                progress[session_id] = MigrationProgress(
                    source.session.totals(),
                    source.session.error,
                    source.ram_bytes,
                    offload=self._accelerators.counters(session_id),
                    ticket_wait_ms=source.ticket_wait_ms,
                )
            elif (destination := self._destinations.get(session_id)) is not None:
                session = destination.session
                progress[session_id] = MigrationProgress(session.totals(), session.error, only_cut=session.only_cut)
            elif (image := self._images.session(session_id)) is not None:
                progress[session_id] = MigrationProgress(image[0].totals(), image[0].error, image[1])
        return progress

    async def statistics(self) -> HostStatistics:
        """A snapshot, taken a few sessions at a time: others have their turn in between."""
        sent: list[SentSession] = []
        for number, (session_id, source) in enumerate(list(self._sources.items())):
            if number % _SESSIONS_AT_ONCE == 0:
                await asyncio.sleep(0)
            if source.began_s:
                sent.append(self._sent(session_id, source))
        for session_id, image in self._images.sent():
            sent.append(replace(image, offload=self._accelerators.counters(session_id)))
        return HostStatistics(
            tuple(sent),
            {SentKind.QEMU: len(self._destinations), SentKind.IMAGE: self._images.received},
            *self._pool.totals(),
            dict(self._failed),
            self._accelerators.statistics(),
        )

    def _sent(self, session_id: str, source: _Source) -> SentSession:
        return SentSession(
            source.name,
            source.fleet,
            SentKind.QEMU,
            source.began_s,
            source.ram_bytes,
            source.session.totals(),
            source.vm.seen,
            self._accelerators.counters(session_id),
            source.ticket_wait_ms,
        )

    async def set_rate(self, session_id: str, rate_bytes_s: int | None) -> None:
        """Cap the wire bytes per second that a session sends from here from now on; None lifts the cap.

        Pages only: the main stream is busy when they are not, and keeps the cap that it began with. Raises
        `MigrationError`.
        """
        self._sends(session_id)
        self._pool.set_rate(session_id, rate_bytes_s)

    async def raise_weight(self, session_id: str, factor: int) -> None:
        """Multiply a session's share of the accelerators; raises `MigrationError` where it has none."""
        self._sends(session_id)
        if not self._accelerators.raise_weight(session_id, factor):
            raise MigrationError(f"host {self.name}: session {session_id[:8]} has no accelerator to get more of")

    async def auto_converge(self, session_id: str) -> None:
        """Let the source QEMU slow its guest down until it converges. Raises `MigrationError`."""
        await self._source(session_id).vm.converge()

    async def fail(self, session_id: str, reason: str) -> None:
        """Cut a session here. A source that had started is told to give up."""
        for part in (self._sources.get(session_id), self._destinations.get(session_id)):
            if part is not None:
                part.session.fail(reason)

    async def cancel_source(self, session_id: str) -> None:
        """Ask the source to give up; `await_source` then says cancelled. Raises `MigrationError`."""
        source = self._source(session_id)
        await self._decided(source)
        await source.vm.cancel()

    async def resume_source(self, session_id: str) -> str:
        """After a failure, the destination known to be gone: settings restored, the guest runs if it ran. Its state.

        "gone" for a QEMU that has ended. Raises `MigrationError` for one that cannot be told.
        """
        vm = self._source(session_id).vm
        try:
            await self._decided(self._source(session_id))
            await vm.restore()
            return await vm.resume()
        except KuakaError:
            if await asyncio.to_thread(is_there, vm.qmp_path):
                raise
            return "gone"

    async def finish_source(self, session_id: str) -> MigrationProgress:
        """Forget a source, its gateway closed; the final counters."""
        source = self._sources.pop(session_id, None)
        if source is None:
            return MigrationProgress(Session(session_id, self._pool.abort).totals(), None)
        self._failed["send"] += source.session.error is not None
        await self._decided(source)
        if source.ticket is not None:
            await source.ticket.end()
        await self._settle(source.session, source.gateway)
        await source.vm.disconnect()
        self._remove_directory(session_id)
        offload = await self._strip(session_id)
        return MigrationProgress(
            source.session.totals(), source.session.error, offload=offload, ticket_wait_ms=source.ticket_wait_ms
        )

    async def finish_destination(self, session_id: str) -> MigrationProgress:
        """Forget a destination without touching its guest; the final counters."""
        destination = self._destinations.pop(session_id, None)
        if destination is None:
            return MigrationProgress(Session(session_id, self._pool.abort).totals(), None)
        await self._settle(destination.session, destination.gateway)
        with contextlib.suppress(KuakaError):
            await destination.vm.restore()
        await destination.vm.disconnect()
        self._remove_directory(session_id)
        await self._strip(session_id)
        return MigrationProgress(destination.session.totals(), destination.session.error)

    async def cleanup_destination(self, cleanup: Cleanup) -> None:
        """Remove a destination: it is gone when this returns. Raises `MigrationError` when that is not sure.

        A QEMU that was there before and was refused as a destination is left alone, whatever it is.
        """
        destination = self._destinations.pop(cleanup.session, None)
        if destination is not None:
            self._failed["receive"] += 1
            if destination.preparing is not None:
                # What `prepare` starts must be there when it is removed, or it would appear afterwards.
                destination.preparing.cancel()
                await asyncio.wait((destination.preparing,))
            destination.session.fail("the destination is being cleaned up")
            await self._settle(destination.session, destination.gateway)
            await destination.vm.disconnect()
        await self._strip(cleanup.session)
        if destination is not None and not destination.prepared and not destination.accepted:
            self._remove_directory(cleanup.session)
            return
        try:
            if cleanup.command is not None:
                await run_command(f"{cleanup.vm}: cleanup on {self.name}", cleanup.command, cleanup.environment)
            ours = cleanup.command is None and destination is not None and destination.accepted
            await remove_destination(cleanup.vm, Path(cleanup.environment["KUAKA_QMP"]), ours=ours)
        finally:
            self._remove_directory(cleanup.session)

    async def inspect_image(self, path: str) -> ImageFacts:
        """What an image on this host is. Raises `SpecError`: nothing has moved."""
        self._silence.heard()
        try:
            return await self._images.inspect(path)
        except KuakaError as error:
            raise SpecError(f"host {self.name}: {error}: give a file of guest memory in source.path") from None

    async def prepare_image(self, order: ImageTargetOrder) -> tuple[str, int]:
        """Make ready for an image; the address and port its links go to. Raises `KuakaError`."""
        self._silence.heard()
        if self._port is None:
            raise MigrationError(f"host {self.name} was not started")
        self._equip(order.vm, order.terms, Phase.BACKGROUND, sending=False)
        await self._images.prepare(order)
        return self._address, self._port.port

    async def start_image(self, order: ImageSourceOrder) -> None:
        """Start sending an image."""
        self._equip(order.vm, order.terms, Phase.BACKGROUND, sending=True)
        await self._images.start(order)

    async def await_image(self, session_id: str) -> ImageOutcome:
        """Wait until an image was sent and acknowledged. Raises `MigrationError`."""
        outcome = await self._images.outcome(session_id)
        self._images.finish(session_id)
        return replace(outcome, offload=await self._strip(session_id))

    async def commit_image(self, session_id: str, digest: bytes, mode: int) -> None:
        """Give a received image its name. Raises `KuakaError`, and it has none."""
        await self._strip(session_id)
        await self._images.commit(session_id, digest, mode)

    async def abort_image(self, session_id: str) -> None:
        """Cut an image's session here and remove what is half-written."""
        if self._images.session(session_id) is not None:
            self._failed["send" if self._images.sends(session_id) else "receive"] += 1
        await self._images.abort(session_id)
        await self._strip(session_id)

    async def remove_partial(self, path: str, session_id: str) -> bool:
        """Remove what a dead command left of an image."""
        return await asyncio.to_thread(remove_partial, path, session_id)

    async def recover_source(self, vm: str, qmp: str, *, paused: bool) -> str:
        """See `qemu.recovery`. Only with the destination known to be gone."""
        return await recover_source(vm, Path(qmp), paused=paused)

    async def recover_destination(self, vm: str, qmp: str) -> str:
        """Let a guest run that a dead command had handed over; its state. Raises `KuakaError` if it cannot."""
        return await recover_destination(vm, Path(qmp))

    async def watch_for_orphans(self) -> None:
        """Return when the controller has gone."""
        await self._silence.lasts(ORPHAN_S)

    async def abandon(self) -> None:
        """Cut every session, cancel every source, clean up every destination that is not to be kept."""
        await self._images.abandon()
        for session_id, source in list(self._sources.items()):
            source.session.fail("the controller has gone")
            with contextlib.suppress(KuakaError):
                await self.cancel_source(session_id)
            await self.finish_source(session_id)
        for session_id, destination in list(self._destinations.items()):
            if destination.kept:
                await self.finish_destination(session_id)
                continue
            try:
                await self.cleanup_destination(destination.cleanup)
            except KuakaError as error:
                _log.error("%s", error)

    async def stop(self) -> None:
        """Leave nothing behind: sessions, port, worker connections."""
        await self.abandon()
        if self._port is not None:
            self._port.close()
        self._pool.close()
        await self._accelerators.stop()

    def _route(self, sock: socket.socket, preamble: Preamble) -> None:
        if self._images.route(sock, preamble):
            return
        destination = self._destinations.get(preamble.session.hex())
        if destination is None or destination.gateway is None:
            refuse_link(sock, self._tls, f"session {preamble.session.hex()[:8]} is not known on {self.name}")
            return
        destination.gateway.route(sock, preamble)

    async def _decided(self, source: _Source) -> None:
        """Wait until QEMU was told to migrate, or never will be: what it is told before that comes too early."""
        if source.starting is not None:
            await asyncio.wait((source.starting,))
            # Raised where it was started; here it is only seen, or asyncio would complain.
            source.starting.exception()

    async def _settle(self, session: Session, gateway: SourceGateway | DestinationGateway | None) -> None:
        if gateway is None:
            return
        await session_end(session, _SETTLE_S)
        if not session.ended:
            session.fail("the migration is over")
            await session_end(session, _SETTLE_S)
        gateway.close()

    def _check_files(self, tls: TlsFiles) -> None:
        """Raise `SpecError` before anything moves; links read them again, for they may be renewed meanwhile."""
        try:
            server_context(tls)
        except UsageError as error:
            raise SpecError(f"host {self.name}: {error}") from None

    def _link_terms(self, terms: TransferTerms, address: str, port: int) -> LinkTerms:
        return LinkTerms(
            terms.session,
            Role.MAIN,
            0,
            terms.channels,
            terms.codec,
            terms.level,
            self._tls,
            terms.stall_timeout_s,
            terms.downtime_limit_ms * 10**6,
            address,
            port,
            terms.rate_bytes_s,
        )

    def _equip(self, vm: str, terms: TransferTerms, phase: Phase, *, sending: bool) -> None:
        log_about(fleet=terms.tenant, vm=vm, migration=terms.session)
        _log.info("%s: this host %s", vm, "sends" if sending else "receives")
        if (offload := self._accelerators.open(vm, terms, phase, sending=sending)) is not None:
            self._pool.equip(terms.session, offload)

    async def _strip(self, session_id: str) -> OffloadCounters | None:
        self._pool.strip(session_id)
        return await self._accelerators.close(session_id)

    def _remove_directory(self, session_id: str) -> None:
        if session_id not in self._sources and session_id not in self._destinations:
            self._directories.remove(session_id)

    def _sends(self, session_id: str) -> None:
        if session_id not in self._sources and not self._images.sends(session_id):
            raise MigrationError(f"host {self.name} sends nothing of session {session_id[:8]}")

    def _source(self, session_id: str) -> _Source:
        try:
            return self._sources[session_id]
        except KeyError:
            raise MigrationError(f"host {self.name} has no source of session {session_id[:8]}") from None

    def _destination(self, session_id: str) -> _Destination:
        try:
            return self._destinations[session_id]
        except KeyError:
            raise MigrationError(f"host {self.name} has no destination of session {session_id[:8]}") from None
