"""A source that is given up: its migration has ended in QEMU before the attempt is over, so that the next can begin."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from pipeline.codecs.codec import CodecId
from pipeline.errors import SpecError
from pipeline.fleet.host import Host
from pipeline.fleet.orders import SourceOrder, TransferTerms
from tests.qemu.qmp_server import QmpServer

SESSION = "ab" * 16


class Story:
    """One host with one source behind a QMP server."""

    def __init__(self, home: Path) -> None:
        self.qmp = home / "qmp"
        self.host = Host("a", "127.0.0.1", home / "run", None)
        self.qemu = QmpServer(self.qmp)

    async def inspect(self) -> None:
        self.facts = await self.host.inspect_source("vm1", str(self.qmp), SESSION)

    async def start(self) -> None:
        terms = TransferTerms(SESSION, 2, CodecId.NONE, None, 300, 15.0)
        await self.host.start_source(SourceOrder("vm1", str(self.qmp), None, None, terms, "127.0.0.1", 1), self.facts)

    async def give_up(self) -> None:
        await self.host.fail(SESSION, "cancelled")
        await self.host.cancel_source(SESSION)


def told(home: Path, tell: Callable[[Story], Awaitable[None]]) -> list[str]:
    """What the QEMU was asked in a story, which ends with its source forgotten."""

    async def run() -> list[str]:
        story = Story(home)
        async with story.qemu:
            await tell(story)
            await story.host.finish_source(SESSION)
        return story.qemu.asked

    return asyncio.run(run())


def test_settings_come_back_only_when_qemu_has_given_up(home: Path) -> None:
    async def story(story: Story) -> None:
        async def cancelled_after_some_looks() -> None:
            looks = story.qemu.asked[story.qemu.asked.index("migrate_cancel") :].count("query-migrate")
            if looks == 2:
                story.qemu.status = "cancelled"

        await story.inspect()
        await story.start()
        await story.give_up()
        story.qemu.before["query-migrate"] = cancelled_after_some_looks
        assert await story.host.resume_source(SESSION) == "running"

    asked = told(home, story)
    given_up = asked.index("migrate_cancel")
    assert asked[given_up:].count("query-migrate") >= 3
    assert asked.index("migrate-set-capabilities", given_up) > given_up + 3


def test_a_start_under_way_when_it_is_given_up_never_reaches_migrate(home: Path) -> None:
    async def story(story: Story) -> None:
        begun = asyncio.Event()

        async def slow() -> None:
            begun.set()
            await asyncio.sleep(0.2)

        await story.inspect()
        story.qemu.before["migrate-set-capabilities"] = slow
        starting = asyncio.create_task(story.start())
        await begun.wait()
        # As the controller's cancellation does where the host is an object; an actor's call just goes on.
        starting.cancel()
        await story.give_up()
        assert await story.host.resume_source(SESSION) == "running"

    asked = told(home, story)
    assert "migrate" not in asked
    # Set, and then put back; nothing overtakes.
    assert asked.count("migrate-set-capabilities") == 2
    assert asked.index("migrate_cancel") > asked.index("migrate-set-parameters")


def test_giving_up_comes_after_a_migrate_that_is_under_way(home: Path) -> None:
    async def story(story: Story) -> None:
        begun = asyncio.Event()

        async def slow() -> None:
            begun.set()
            await asyncio.sleep(0.2)

        async def cancelled() -> None:
            if story.qemu.status == "cancelling":
                story.qemu.status = "cancelled"

        await story.inspect()
        story.qemu.before["migrate"] = slow
        story.qemu.before["query-migrate"] = cancelled
        starting = asyncio.create_task(story.start())
        await begun.wait()
        starting.cancel()
        await story.give_up()
        assert await story.host.resume_source(SESSION) == "running"
        assert story.qemu.status == "cancelled"

    asked = told(home, story)
    assert asked.index("migrate_cancel") > asked.index("migrate")


def test_a_qemu_that_is_giving_up_another_migration_is_waited_for(home: Path) -> None:
    async def story(story: Story) -> None:
        async def cancelled_at_the_second_look() -> None:
            if "query-migrate" in story.qemu.asked:
                story.qemu.status = "cancelled"

        story.qemu.status = "cancelling"
        story.qemu.before["query-migrate"] = cancelled_at_the_second_look
        await story.inspect()
        await story.start()

    assert "migrate" in told(home, story)


def test_a_qemu_that_somebody_migrates_is_refused(home: Path) -> None:
    async def story(story: Story) -> None:
        story.qemu.status = "active"
        with pytest.raises(SpecError) as refused:
            await story.inspect()
        assert str(refused.value) == ("vm1 (source): a migration is under way (active): wait for its end, or cancel it")

    assert "migrate-set-capabilities" not in told(home, story)
