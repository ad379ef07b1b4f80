"""What a sweep does besides guests (those are in `test_migration`): images, hosts that are not there, other owners."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.errors import KuakaError
from pipeline.fleet.journal import Journal
from pipeline.fleet.orders import Cleanup
from pipeline.fleet.owner import Owner
from pipeline.fleet.sweep import sweep

DEAD = Owner(1, 1, "boot")
ME = Owner(2, 2, "boot")


class Host:
    """Notes what it is asked for."""

    def __init__(self, error: str | None = None, *, committed: bool = False) -> None:
        self.asked: list[str] = []
        self._error = error
        self._committed = committed

    async def cleanup_destination(self, cleanup: Cleanup) -> None:
        self._note(f"clean up {cleanup.session}")

    async def recover_source(self, vm: str, qmp: str, *, paused: bool) -> str:
        self._note(f"recover {vm} at {qmp}")
        return "running"

    async def recover_destination(self, vm: str, qmp: str) -> str:
        self._note(f"run {vm} at {qmp}")
        return "running"

    async def remove_partial(self, path: str, session: str) -> bool:
        self._note(f"remove {path} of {session}")
        return self._committed

    def _note(self, what: str) -> None:
        if self._error is not None:
            raise KuakaError(self._error)
        self.asked.append(what)


@pytest.fixture
def dead(tmp_path: Path) -> Iterator[Journal]:
    with Journal.open(tmp_path, DEAD) as journal:
        yield journal


@pytest.fixture
def mine(tmp_path: Path) -> Iterator[Journal]:
    with Journal.open(tmp_path, ME) as journal:
        yield journal


def add_image(journal: Journal, run: int, session: str = "s1") -> int:
    return journal.add_migration(
        run,
        vm=f"image of {session}",
        session=session,
        kind="image",
        source={"host": "a", "path": "/a.ram"},
        destination={"host": "b", "path": "/b.ram"},
        state="begun",
    )


def swept(journal: Journal, **hosts: Host) -> list[str]:
    said: list[str] = []
    asyncio.run(sweep(journal, hosts, lambda owner: owner == ME, said.append))
    return said


def unfinished(journal: Journal) -> int:
    return sum(len(run.migrations) for run in journal.unfinished(lambda owner: False))


def test_what_was_half_written_of_an_image_is_removed(dead: Journal, mine: Journal) -> None:
    add_image(dead, dead.begin_run())
    a, b = Host(), Host()
    assert swept(mine, a=a, b=b) == [
        "image of s1: a migration that was not brought to its end: the half-written image was removed"
    ]
    assert (a.asked, b.asked) == ([], ["remove /b.ram of s1"])
    assert unfinished(mine) == 0
    assert swept(mine, a=a, b=b) == []


def test_an_image_that_has_its_name_has_moved(dead: Journal, mine: Journal) -> None:
    number = add_image(dead, dead.begin_run())
    assert swept(mine, a=Host(), b=Host(committed=True)) == [
        "image of s1: a migration that was not brought to its end: the image was complete and has its name"
    ]
    assert (mine.migration(number).state, mine.migration(number).finished) == ("completed", True)


def test_what_was_finished_is_left_alone(dead: Journal, mine: Journal) -> None:
    dead.finish_migration(add_image(dead, dead.begin_run()), "completed")
    b = Host()
    assert swept(mine, a=Host(), b=b) == []
    assert b.asked == []
    assert mine.unfinished(lambda owner: False) == []


def test_a_live_command_is_left_alone(mine: Journal) -> None:
    add_image(mine, mine.begin_run())
    assert swept(mine, a=Host(), b=Host()) == []
    assert unfinished(mine) == 1


def test_what_cannot_be_put_right_stays_and_keeps_the_rest_from_nothing(
    dead: Journal, mine: Journal, tmp_path: Path
) -> None:
    run = dead.begin_run()
    add_image(dead, run, "s1")
    assert swept(mine, a=Host()) == [
        "image of s1: a migration that was not brought to its end is in doubt: host b is not part of this command"
    ]
    with Journal.open(tmp_path, Owner(3, 3, "boot")) as third:
        add_image(third, third.begin_run(), "s2")
    with Journal.open(tmp_path, Owner(4, 4, "boot")) as later:
        broken = Host("the disk is on fire")
        said: list[str] = []
        asyncio.run(sweep(later, {"a": Host(), "b": broken}, lambda owner: False, said.append))
        assert len(said) == 2
        assert all(line.endswith("is in doubt: the disk is on fire") for line in said)
        assert unfinished(later) == 2
        b = Host()
        asyncio.run(sweep(later, {"a": Host(), "b": b}, lambda owner: False, said.append))
        assert b.asked == ["remove /b.ram of s1", "remove /b.ram of s2"]
        assert unfinished(later) == 0
