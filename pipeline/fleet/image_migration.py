"""One image's migration: look at it, make room, send, and give it its name once every extent was compared."""

import asyncio
import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from pipeline.errors import DeadlineError, KuakaError
from pipeline.fleet.handle import HostHandle
from pipeline.fleet.migration import cancellation, to_its_end
from pipeline.fleet.orders import ImageOutcome, ImageSourceOrder, ImageTargetOrder, TransferTerms
from pipeline.fleet.recorder import Recorder
from pipeline.fleet.results import MigrationResult, Status, with_offload
from pipeline.image_channels import extent_bytes_of
from pipeline.memory.image_source import ImageFacts
from pipeline.memory.pages import PAGE_BYTES


@dataclass(frozen=True, slots=True)
class ImageOrder:
    """One image to be migrated."""

    vm: str
    source_path: str
    destination_path: str
    reuse: str | None
    overwrite: bool
    terms: TransferTerms
    timeout_s: float | None = None


class ImageMigration:
    """One attempt; `run` returns its result and never raises."""

    kind = "image"

    def __init__(self, order: ImageOrder, source: HostHandle, destination: HostHandle, recorder: Recorder) -> None:
        self.vm = order.vm
        self.session = order.terms.session
        self.source = source
        self.destination = destination
        self._order = order
        self._recorder = recorder
        self._asked = False
        #: Whether something may be left that nobody could remove; the journal then keeps the migration open.
        self._in_doubt = False
        self._began_s = time.monotonic()

    async def run(self) -> MigrationResult:
        """Migrate; every failure is in the result."""
        place = {"host": self.destination.name, "path": self._order.destination_path}
        try:
            self._recorder.begun(self.session, place)
        except KuakaError as error:
            return self._failed(error, Status.FAILED, (str(error),))
        try:
            async with asyncio.timeout(self._order.timeout_s):
                facts, outcome = await self._send()
        except TimeoutError:
            ending = self._undo(DeadlineError(f"not finished within {self._order.timeout_s:g} s"), Status.FAILED)
        except KuakaError as error:
            ending = self._undo(error, Status.FAILED)
        except asyncio.CancelledError as error:
            ending = self._undo(*cancellation(error))
        else:
            # Giving it its name is one step: it is done or not, never stopped half-way.
            ending = self._commit(facts, outcome)
        result = await to_its_end(ending)
        if not self._in_doubt:
            # What cannot be recorded stays open: the next command finds nothing left to do.
            with contextlib.suppress(KuakaError):
                self._recorder.finished(result.status, result.error)
        return result

    async def _send(self) -> tuple[ImageFacts, ImageOutcome]:
        order = self._order
        facts = await self.source.inspect_image(order.source_path)
        terms = self._terms(facts)
        target = ImageTargetOrder(order.vm, order.destination_path, order.reuse, order.overwrite, facts, terms)
        self._asked = True
        address, port = await self.destination.prepare_image(target)
        await self.source.start_image(ImageSourceOrder(order.vm, order.source_path, facts, terms, address, port))
        return facts, await self.source.await_image(self.session)

    async def _commit(self, facts: ImageFacts, outcome: ImageOutcome) -> MigrationResult:
        try:
            await self.destination.commit_image(self.session, outcome.digest, facts.mode)
        except KuakaError as error:
            return await self._undo(error, Status.FAILED)
        counters = outcome.counters
        result = MigrationResult(
            self.vm,
            self.kind,
            Status.COMPLETED,
            verified=True,
            wrong_pages=0,
            total_ms=self._elapsed_ms(),
            pages=counters.pages,
            zero_pages=counters.zero_pages,
            raw_bytes=counters.pages * PAGE_BYTES,
            wire_bytes=counters.wire_bytes,
            codec_pages=counters.codec_pages,
        )
        return with_offload(result, outcome.offload, self._order.terms.weight)

    async def _undo(self, error: KuakaError, status: Status) -> MigrationResult:
        reasons = [str(error)]
        # A source that has died sends nothing any more.
        with contextlib.suppress(KuakaError):
            await self.source.abort_image(self.session)
        try:
            if self._asked:
                await self.destination.abort_image(self.session)
        except KuakaError as failure:
            # Something half-written may be left there.
            reasons.append(str(failure))
            self._in_doubt = True
        return self._failed(error, status, reasons)

    def _failed(self, error: KuakaError, status: Status, reasons: Sequence[str]) -> MigrationResult:
        return MigrationResult(
            self.vm,
            self.kind,
            status,
            total_ms=self._elapsed_ms(),
            error="; ".join(dict.fromkeys(reasons)),
            exit_code=error.exit_code,
        )

    def _terms(self, facts: ImageFacts) -> TransferTerms:
        """No more channels than there are extents."""
        extents = -(-facts.size_bytes // extent_bytes_of(facts.size_bytes))
        return replace(self._order.terms, channels=max(1, min(self._order.terms.channels, extents)))

    def _elapsed_ms(self) -> float:
        return round((time.monotonic() - self._began_s) * 1e3, 1)
