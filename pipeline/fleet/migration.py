"""One guest's migration, step by step, and what happens when a step fails.

The order of steps is what keeps one guest one:

    inspect source -> prepare destination (-S) -> compare both -> start -> source says completed
      -> the destination is kept -> the hand-over is RECORDED -> the destination is told to run

Before the record the source owns the guest: on any failure the destination is removed, and only when it is known to be
gone is a stopped source told to run again. After the record the destination owns it; the source may get it back only
when the destination did not start and was removed for certain. When neither is certain, neither is started, the error
says so, and the journal keeps the migration open: whoever sweeps next looks again.
"""

import asyncio
import contextlib
import time
from collections.abc import Coroutine, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

from pipeline.errors import DeadlineError, InterruptedMigration, KuakaError, MigrationError, SpecError
from pipeline.fleet.commands import Command
from pipeline.fleet.handle import HostHandle
from pipeline.fleet.orders import (
    DestinationOrder,
    MigrationProgress,
    SourceOrder,
    TransferTerms,
    cleanup_of,
)
from pipeline.fleet.recorder import Recorder
from pipeline.fleet.results import MigrationResult, Status, with_offload
from pipeline.memory.pages import PAGE_BYTES
from pipeline.qemu.compatibility import pair_problems
from pipeline.qemu.disks import refusal, unshared_disks
from pipeline.qemu.qmp import QemuFacts
from pipeline.qemu.source_vm import SourceOutcome
from pipeline.qemu.switchover import SWITCHOVER_ACK
from pipeline.shard import ShardCounters

Result = TypeVar("Result")

_CLOCK_PROBES = 3
#: A source that was told to give up has done so within this time, or its QEMU hangs.
_GIVE_UP_S = 3.0
_ASK_S = 0.5


@dataclass(frozen=True, slots=True)
class QemuMigration:
    """One guest to be migrated."""

    vm: str
    source_qmp: str
    destination_qmp: str
    prepare: Command | None
    cleanup: Command | None
    socket_user: str | None
    zero_page_detection: str | None
    terms: TransferTerms
    timeout_s: float | None = None
    #: Names of the disks that both ends reach; None: all are, or nobody wants to know.
    shared_disks: frozenset[str] | None = None
    #: QEMU may slow the guest down where it does not converge.
    auto_converge: bool = False


class GuestMigration:
    """One attempt; `run` returns its result and never raises but for cancellation."""

    def __init__(self, order: QemuMigration, source: HostHandle, destination: HostHandle, recorder: Recorder) -> None:
        self.session = order.terms.session
        self.vm = order.vm
        self.kind = "qemu"
        self.source = source
        self.destination = destination
        self._order = order
        self._recorder = recorder
        self._cleanup = cleanup_of(order.vm, self.session, order.destination_qmp, destination.directory, order.cleanup)
        self._inspected: QemuFacts | None = None
        #: Whether there may be something at the destination; a call that failed or was cancelled may have worked.
        self._asked = False
        self._started = False
        self._recorded = False
        #: Whether something may be left that nobody could put right; the journal then keeps the migration open.
        self._in_doubt = False
        self._began_s = time.monotonic()

    async def run(self) -> MigrationResult:
        """Migrate; every failure is in the result."""
        try:
            self._recorder.begun(self.session, {"host": self.destination.name, "cleanup": asdict(self._cleanup)})
        except KuakaError as error:
            return self._failed(error, Status.FAILED, (str(error),), None)
        try:
            async with asyncio.timeout(self._order.timeout_s):
                outcome = await self._until_completed()
        except TimeoutError:
            ending = self._undo(DeadlineError(f"not finished within {self._order.timeout_s:g} s"), Status.FAILED)
        except KuakaError as error:
            ending = self._undo(error, Status.FAILED)
        except asyncio.CancelledError as error:
            ending = self._undo(*cancellation(error))
        else:
            # Past this point there is no way back: neither a timeout nor a cancellation stops a hand-over half-way.
            ending = self._complete(outcome)
        result = await to_its_end(ending)
        if not self._in_doubt:
            # What cannot be recorded stays open: the next command finds nothing left to do.
            with contextlib.suppress(KuakaError):
                self._recorder.finished(result.status, result.error)
        return result

    async def _until_completed(self) -> SourceOutcome:
        await self._prepare()
        outcome = await self.source.await_source(self.session)
        if not outcome.completed:
            raise MigrationError(outcome.error or "QEMU gives no reason")
        return outcome

    async def _complete(self, outcome: SourceOutcome) -> MigrationResult:
        try:
            resumed_ns = await self._hand_over(outcome)
        except KuakaError as error:
            return await self._undo(error, Status.FAILED)
        # The guest has moved: whatever fails from here on, it costs figures and nothing else.
        final, downtime_ms = MigrationProgress(ShardCounters(), None), None
        with contextlib.suppress(KuakaError):
            if resumed_ns is not None and outcome.stopped_ns is not None:
                downtime_ms = (resumed_ns - await self._clock_skew_ns() - outcome.stopped_ns) / 1e6
        with contextlib.suppress(KuakaError):
            final = await self.source.finish_source(self.session)
        with contextlib.suppress(KuakaError):
            await self.destination.finish_destination(self.session)
        return with_offload(self._completed(outcome, final, downtime_ms), final.offload, self._order.terms.weight)

    async def _prepare(self) -> None:
        order = self._order
        self._inspected = await self.source.inspect_source(order.vm, order.source_qmp, self.session)
        self._refuse_own_disks(self._inspected)
        if self._inspected.status == "paused":
            self._recorder.paused()
        acknowledges = await self._wants_acknowledgement(self._inspected)
        self._asked = True
        ready = await self.destination.prepare_destination(
            DestinationOrder(
                order.vm,
                order.destination_qmp,
                order.prepare,
                self._cleanup,
                order.socket_user,
                order.terms,
                acknowledges,
            )
        )
        if problems := pair_problems(self._inspected, ready.facts):
            raise SpecError("; ".join(problems))
        self._started = True
        source_order = SourceOrder(
            order.vm,
            order.source_qmp,
            order.socket_user,
            order.zero_page_detection,
            order.terms,
            ready.address,
            ready.port,
            acknowledges and SWITCHOVER_ACK in ready.facts.capabilities,
            order.auto_converge,
        )
        await self.source.start_source(source_order, self._inspected)

    def _refuse_own_disks(self, source: QemuFacts) -> None:
        shared = self._order.shared_disks
        if shared is not None and (unshared := unshared_disks(source.writable_disks, shared)):
            raise SpecError(f"{self._order.vm}: {refusal(unshared)}")

    async def _wants_acknowledgement(self, source: QemuFacts) -> bool:
        """Whether the source is to wait for a SWITCHOVER_ACK: its user wants it to, or its downtime ticket does."""
        if SWITCHOVER_ACK not in source.capabilities:
            return False
        return source.capabilities[SWITCHOVER_ACK] or await self.source.takes_tickets(self._order.terms.codec)

    async def _hand_over(self, outcome: SourceOutcome) -> int | None:
        """Give the guest to the destination; when it runs there by its host's clock, None for one that was paused."""
        await self.destination.keep_destination(self.session)
        # A record that failed may be on disk nevertheless.
        self._recorded = True
        self._recorder.handed_over()
        if not outcome.was_running:
            # A guest that was paused before arrives paused: nobody asked for it to run.
            return None
        return await self.destination.resume_destination(self.session)

    async def _undo(self, error: KuakaError, status: Status) -> MigrationResult:
        """Put things back: the guest runs where it ran, the destination is gone."""
        reasons = [str(error)]
        progress: MigrationProgress | None = None
        with contextlib.suppress(KuakaError, TimeoutError):
            if self._started and type(error) is MigrationError:
                reasons += await self._destination_reason()
        with contextlib.suppress(KuakaError, TimeoutError):
            if self._started and not self._recorded:
                async with asyncio.timeout(_GIVE_UP_S):
                    await self.source.fail(self.session, str(error))
                    await self.source.cancel_source(self.session)
                    await self.source.await_source(self.session)
        if await self._remove_destination(reasons) and self._inspected is not None:
            await self._give_back(reasons)
        with contextlib.suppress(KuakaError):
            progress = await self.source.finish_source(self.session)
        return self._failed(error, status, reasons, progress)

    async def _destination_reason(self) -> list[str]:
        """What went wrong at the destination, where all that the source may know is that it was cut off."""
        async with asyncio.timeout(_ASK_S):
            progress = (await self.destination.progress((self.session,))).get(self.session)
        if progress is None or progress.error is None or progress.only_cut:
            return []
        return [f"host {self.destination.name}: {progress.error}"]

    async def _give_back(self, reasons: list[str]) -> None:
        """The destination is gone for certain: the source owns the guest again."""
        try:
            if self._recorded:
                self._recorder.taken_back()
        except KuakaError as failure:
            # The guest is not left stopped for that; a sweep will find no destination and start nothing.
            reasons.append(str(failure))
            self._in_doubt = True
        try:
            await self.source.resume_source(self.session)
        except KuakaError as failure:
            reasons.append(str(failure))
            self._in_doubt = True

    async def _remove_destination(self, reasons: list[str]) -> bool:
        """Whether there is certainly no destination guest left; what went wrong is added to `reasons`."""
        if not self._asked:
            return True
        try:
            await self.destination.cleanup_destination(self._cleanup)
        except KuakaError as failure:
            reasons.append(str(failure))
            self._in_doubt = True
            if self._recorded:
                reasons.append(
                    "the hand-over was recorded and the destination may run: look there before starting the source"
                )
            return False
        return True

    def _failed(
        self, error: KuakaError, status: Status, reasons: Sequence[str], progress: MigrationProgress | None
    ) -> MigrationResult:
        counters = progress.counters if progress is not None else ShardCounters()
        return MigrationResult(
            self._order.vm,
            self.kind,
            status,
            total_ms=self._elapsed_ms(),
            ticket_wait_ms=progress.ticket_wait_ms if progress is not None else None,
            pages=counters.pages,
            raw_bytes=counters.raw_bytes,
            wire_bytes=counters.wire_bytes,
            error="; ".join(dict.fromkeys(reasons)),
            exit_code=error.exit_code,
        )

    def _completed(
        self, outcome: SourceOutcome, final: MigrationProgress, downtime_ms: float | None
    ) -> MigrationResult:
        counters = final.counters
        ram = outcome.statistics.get("ram", {})
        duplicates = int(ram.get("duplicate", 0))
        pages = counters.pages - counters.announced_zero_pages + duplicates
        return MigrationResult(
            self._order.vm,
            self.kind,
            Status.COMPLETED,
            total_ms=self._elapsed_ms(),
            downtime_ms=downtime_ms,
            ticket_wait_ms=final.ticket_wait_ms,
            qemu_downtime_ms=outcome.statistics.get("downtime"),
            rounds=ram.get("dirty-sync-count"),
            pages=pages,
            zero_pages=counters.zero_pages + duplicates,
            raw_bytes=pages * PAGE_BYTES,
            wire_bytes=counters.wire_bytes,
            codec_pages=counters.codec_pages,
        )

    async def _clock_skew_ns(self) -> int:
        """How far the destination's clock is ahead of the source's, by the quickest of a few probes."""
        probes = []
        for _ in range(_CLOCK_PROBES):
            start = time.monotonic_ns()
            source_ns = await self.source.clock_ns()
            destination_ns = await self.destination.clock_ns()
            end = time.monotonic_ns()
            # Each answer is taken to be half a call old.
            ahead_ns = (destination_ns - source_ns) - (end - start) // 2
            probes.append((end - start, ahead_ns))
        return min(probes)[1]

    def _elapsed_ms(self) -> float:
        return round((time.monotonic() - self._began_s) * 1e3, 1)


def cancellation(error: asyncio.CancelledError) -> tuple[KuakaError, Status]:
    """What a cancelled task reports: the user's wish, or a failure whose reason came with the cancellation."""
    if error.args and error.args[0]:
        return MigrationError(str(error.args[0])), Status.FAILED
    return InterruptedMigration("cancelled"), Status.CANCELLED


async def to_its_end(work: Coroutine[Any, Any, Result]) -> Result:
    """Await `work` whatever cancellation arrives meanwhile."""
    task = asyncio.ensure_future(work)
    while not task.done():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait((task,))
    return task.result()
