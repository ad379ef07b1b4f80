"""Images at one host: what `fleet.host` does for them, source or target, over the same workers, links and sessions."""

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from pipeline.errors import KuakaError, LinkError, MigrationError
from pipeline.fleet.host_statistics import SentKind, SentSession
from pipeline.fleet.orders import ImageOutcome, ImageSourceOrder, ImageTargetOrder, TransferTerms
from pipeline.fleet.session_end import session_end
from pipeline.image_channels import extent_bytes_of
from pipeline.jobs import ImageSinkJob, ImageSourceJob
from pipeline.memory.image_extents import ExtentDigest, image_digest
from pipeline.memory.image_source import ImageFacts, inspect_image
from pipeline.memory.image_target import TargetImage, is_committed, partial_path
from pipeline.session import Session
from pipeline.wire.handshake import Preamble, Role
from pipeline.wire.opening import LinkTerms
from pipeline.worker_pool import WorkerPool

MakeTerms = Callable[[TransferTerms, str, int], LinkTerms]
#: A target whose channels have all been acknowledged has their reports within this time.
_REPORT_TIMEOUT_S = 5.0


@dataclass(slots=True)
class _Transfer:
    session: Session
    size_bytes: int
    vm: str
    fleet: str
    began_s: float = field(default_factory=time.time)
    digests: list[ExtentDigest] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def collect(self, digests: Sequence[ExtentDigest]) -> None:
        with self.lock:
            self.digests.extend(digests)


@dataclass(slots=True)
class _Target:
    transfer: _Transfer
    image: TargetImage
    terms: LinkTerms
    arrived: set[int] = field(default_factory=set)

    def close(self) -> None:
        """Wait for no channel that has not arrived yet, and take none any more."""
        with self.transfer.lock:
            missing = set(range(self.terms.channels)) - self.arrived
            self.arrived |= missing
        for channel in missing:
            self.transfer.session.end_part(f"channel {channel}", None)


class ImageTransfers:
    """The images that one host sends and receives."""

    def __init__(self, make_terms: MakeTerms) -> None:
        self._make_terms = make_terms
        self._pool = WorkerPool(())
        self._sources: dict[str, _Transfer] = {}
        self._targets: dict[str, _Target] = {}

    def use(self, pool: WorkerPool) -> None:
        """Take these workers from now on."""
        self._pool = pool

    async def inspect(self, path: str) -> ImageFacts:
        """What an image is; raises `KuakaError` for what is none."""
        return await asyncio.to_thread(inspect_image, Path(path))

    async def prepare(self, order: ImageTargetOrder) -> None:
        """Make the partial image and wait for its channels. Raises `KuakaError`."""
        terms = order.terms
        image = await asyncio.to_thread(
            lambda: TargetImage.create(
                Path(order.path),
                order.facts.size_bytes,
                terms.session,
                data_bytes=order.facts.allocated_bytes,
                reuse=Path(order.reuse) if order.reuse else None,
                overwrite=order.overwrite,
            )
        )
        transfer = _Transfer(self._session(terms), order.facts.size_bytes, order.vm, terms.tenant)
        self._targets[terms.session] = _Target(transfer, image, self._image_terms(terms, "", 0))

    async def start(self, order: ImageSourceOrder) -> None:
        """Start sending over every channel."""
        terms = order.terms
        transfer = _Transfer(self._session(terms), order.facts.size_bytes, order.vm, terms.tenant)
        self._sources[terms.session] = transfer
        link_terms = self._image_terms(terms, order.address, order.port)
        for channel in range(terms.channels):
            job = ImageSourceJob(
                replace(link_terms, channel=channel),
                order.path,
                order.facts.size_bytes,
                order.facts.modified_ns,
                extent_bytes_of(order.facts.size_bytes),
            )
            self._run(job, None, transfer)

    async def outcome(self, session_id: str) -> ImageOutcome:
        """Wait until everything was sent and acknowledged. Raises `MigrationError`."""
        transfer = self._source(session_id)
        await session_end(transfer.session)
        if transfer.session.error is not None:
            raise MigrationError(transfer.session.error)
        digest = image_digest(transfer.digests, transfer.size_bytes)
        return ImageOutcome(digest, transfer.session.totals())

    async def commit(self, session_id: str, digest: bytes, mode: int) -> None:
        """Give the image its name, if it is the one that was sent. Raises `KuakaError`, and it has no name."""
        target = self._target(session_id)
        session = target.transfer.session
        if not await session_end(session, _REPORT_TIMEOUT_S) or session.error is not None:
            raise MigrationError(session.error or "the destination's channels did not end")
        await asyncio.to_thread(lambda: target.image.commit(target.transfer.digests, digest, mode=mode))
        del self._targets[session_id]

    async def abort(self, session_id: str) -> None:
        """Cut an image's session at this host; what was half-written is removed. Harmless for one that is not known."""
        transfer = self._sources.pop(session_id, None)
        if transfer is not None:
            transfer.session.fail("the migration was given up")
        target = self._targets.pop(session_id, None)
        if target is not None:
            target.transfer.session.fail("the migration was given up")
            target.close()
            await session_end(target.transfer.session, _REPORT_TIMEOUT_S)
            await asyncio.to_thread(target.image.abort)

    async def abandon(self) -> None:
        """Abort everything."""
        for session_id in {*self._sources, *self._targets}:
            await self.abort(session_id)

    def finish(self, session_id: str) -> None:
        """Forget a source."""
        self._sources.pop(session_id, None)

    def sends(self, session_id: str) -> bool:
        """Whether an image of this session is sent from here."""
        return session_id in self._sources

    def sent(self) -> list[tuple[str, SentSession]]:
        """Images that are being sent from here, by session."""
        return [
            (
                session_id,
                SentSession(
                    transfer.vm,
                    transfer.fleet,
                    SentKind.IMAGE,
                    transfer.began_s,
                    transfer.size_bytes,
                    transfer.session.totals(),
                ),
            )
            for session_id, transfer in list(self._sources.items())
        ]

    @property
    def received(self) -> int:
        """How many images are being received."""
        return len(self._targets)

    def session(self, session_id: str) -> tuple[Session, int] | None:
        """A session of this host's and its image's size."""
        target = self._targets.get(session_id)
        transfer = self._sources.get(session_id) or (target.transfer if target else None)
        return (transfer.session, transfer.size_bytes) if transfer else None

    def route(self, sock: socket.socket, preamble: Preamble) -> bool:
        """Serve a link if it is an image's; whether it was. Raises `KuakaError` for one that cannot be taken."""
        target = self._targets.get(preamble.session.hex())
        if target is None:
            return False
        if preamble.role is not Role.IMAGE or preamble.channel >= target.terms.channels:
            raise LinkError(f"link {preamble.role.name} {preamble.channel} does not belong to this image")
        with target.transfer.lock:
            if preamble.channel in target.arrived:
                raise LinkError(f"channel {preamble.channel} of this image arrived twice")
            target.arrived.add(preamble.channel)
        image = target.image
        job = ImageSinkJob(
            replace(target.terms, channel=preamble.channel),
            str(image.path),
            image.size_bytes,
            extent_bytes_of(image.size_bytes),
            image.reused,
        )
        self._run(job, sock.detach(), target.transfer)
        return True

    def _session(self, terms: TransferTerms) -> Session:
        """A session whose parts are its channels, all known beforehand."""
        session = Session(terms.session, self._pool.abort)
        for channel in range(terms.channels):
            session.start_part(f"channel {channel}")
        session.complete()
        return session

    def _image_terms(self, terms: TransferTerms, address: str, port: int) -> LinkTerms:
        return replace(self._make_terms(terms, address, port), role=Role.IMAGE)

    def _run(self, job: ImageSourceJob | ImageSinkJob, descriptor: int | None, transfer: _Transfer) -> None:
        part = f"channel {job.terms.channel}"
        try:
            counters = self._pool.submit(
                job, descriptor, lambda error: transfer.session.end_part(part, error), transfer.collect
            )
            transfer.session.count(counters)
        except KuakaError as error:
            transfer.session.end_part(part, str(error))

    def _source(self, session_id: str) -> _Transfer:
        try:
            return self._sources[session_id]
        except KeyError:
            raise MigrationError(f"no image is sent in session {session_id[:8]} here") from None

    def _target(self, session_id: str) -> _Target:
        try:
            return self._targets[session_id]
        except KeyError:
            raise MigrationError(f"no image arrives in session {session_id[:8]} here") from None


def remove_partial(path: str, session_id: str) -> bool:
    """Remove what a dead command's migration left half-written; whether the image had its name already."""
    with contextlib.suppress(FileNotFoundError):
        partial_path(Path(path), session_id).unlink()
    return is_committed(Path(path), session_id)
