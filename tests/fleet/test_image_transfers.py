"""Many images at one host at the same time: none waits for another to end, and none keeps a thread while it runs."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from pipeline.codecs.codec import CodecId
from pipeline.fleet.image_transfers import ImageTransfers
from pipeline.fleet.orders import ImageOutcome, ImageSourceOrder, ImageTargetOrder, TransferTerms
from pipeline.jobs import Job
from pipeline.memory.image_extents import ExtentDigest
from pipeline.memory.image_source import ImageFacts
from pipeline.shard import ShardCounters
from pipeline.wire.handshake import Role
from pipeline.wire.opening import LinkTerms
from pipeline.worker_pool import OnDigests, OnEnd, WorkerPool

IMAGES = 200
SIZE_BYTES = 1 << 20
FACTS = ImageFacts(SIZE_BYTES, 0, 0, 0o600)


def terms(number: int) -> TransferTerms:
    return TransferTerms(f"{number:032x}", 1, CodecId.NONE, None, 300, 15.0)


def link_terms(order: TransferTerms, address: str, port: int) -> LinkTerms:
    return LinkTerms(order.session, Role.MAIN, 0, 1, order.codec, None, None, 15.0, 10**8, address, port)


@dataclass
class Workers:
    """A pool whose channels end when the test says so."""

    running: dict[str, tuple[OnEnd, OnDigests]] = field(default_factory=dict)

    def submit(self, job: Job, descriptor: int | None, on_end: OnEnd, on_digests: OnDigests) -> ShardCounters:
        self.running[job.terms.session] = (on_end, on_digests)
        return ShardCounters(pages=1)

    def abort(self, session: str) -> None:
        if session in self.running:
            self.running.pop(session)[0](None)

    def end_all(self) -> None:
        """As the pool does: from a thread of its own."""
        for on_end, on_digests in self.running.values():
            on_digests([ExtentDigest(0, SIZE_BYTES, bytes(16))])
            on_end(None)


class NoThreads(ThreadPoolExecutor):
    """An executor that nobody may use."""

    def submit(self, *arguments: Any, **named: Any) -> Any:
        raise AssertionError("a thread was asked for")


def transfers() -> tuple[ImageTransfers, Workers]:
    workers = Workers()
    images = ImageTransfers(link_terms)
    images.use(cast(WorkerPool, workers))
    return images, workers


async def sending(images: ImageTransfers) -> "list[asyncio.Task[ImageOutcome]]":
    """All images under way, each waited for."""
    for number in range(IMAGES):
        order = ImageSourceOrder(f"vm{number}", "/image", FACTS, terms(number), "127.0.0.1", 1)
        await images.start(order)
    waiting = [asyncio.create_task(images.outcome(terms(number).session)) for number in range(IMAGES)]
    await asyncio.sleep(0)
    return waiting


def test_no_image_that_is_sent_keeps_a_thread() -> None:
    async def story() -> None:
        asyncio.get_running_loop().set_default_executor(NoThreads())
        images, workers = transfers()
        waiting = await sending(images)
        threading.Thread(target=workers.end_all).start()
        outcomes = await asyncio.gather(*waiting)
        assert len(outcomes) == IMAGES
        assert len({outcome.digest for outcome in outcomes}) == 1

    asyncio.run(story())


def test_an_image_can_be_prepared_and_removed_while_as_many_as_you_like_are_sent(tmp_path: Path) -> None:
    def there() -> list[Path]:
        return list(tmp_path.iterdir())

    async def story() -> None:
        images, workers = transfers()
        waiting = await sending(images)
        target = ImageTargetOrder("more", str(tmp_path / "moved"), None, False, FACTS, terms(IMAGES))
        await asyncio.wait_for(images.prepare(target), 30)
        assert there()
        await asyncio.wait_for(images.abort(target.terms.session), 30)
        assert not there()
        assert not any(task.done() for task in waiting)
        workers.end_all()
        await asyncio.gather(*waiting)

    asyncio.run(story())
