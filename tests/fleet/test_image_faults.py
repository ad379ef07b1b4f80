"""Faults while an image is migrated: it fails soon, the destination has neither the image nor a part of it."""

import asyncio
import contextlib
import os
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.codecs.codec import CodecId
from pipeline.errors import ExitCode
from pipeline.fleet.image_migration import ImageMigration, ImageOrder
from pipeline.fleet.journal import Journal
from pipeline.fleet.orders import TransferTerms, new_session
from pipeline.fleet.owner import this_process
from pipeline.fleet.recorder import Recorder
from pipeline.fleet.results import MigrationResult, Status
from tests.demo.running_guest import wait_until
from tests.fleet.live_pair import LIMIT_S, MIB
from tests.fleet.local_hosts import LocalHost, local_hosts

SIZE_BYTES = 32 * MIB


@pytest.fixture
def order(home: Path) -> ImageOrder:
    """An image of random pages, to be migrated into a directory of its own."""
    source = home / "source.ram"
    source.write_bytes(os.urandom(SIZE_BYTES))
    (home / "target").mkdir()
    return ImageOrder(
        vm="vm1",
        source_path=str(source),
        destination_path=str(home / "target" / "moved.ram"),
        reuse=None,
        overwrite=False,
        terms=TransferTerms(new_session(), 2, CodecId.NONE, None, 300, 1.5),
    )


@pytest.fixture
def small_disk(home: Path) -> Iterator[Path]:
    """A file system that has room for little more than the image."""
    path = home / "small"
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE_BYTES + MIB}", "tmpfs", str(path)]
    if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs to mount a small file system, which takes root")
    yield path
    subprocess.run(["umount", str(path)], check=True)


async def migrate(order: ImageOrder, home: Path, source: LocalHost, destination: LocalHost) -> MigrationResult:
    with Journal.open(home / "state", this_process()) as journal:
        place = {"host": "a", "path": order.source_path}
        recorder = Recorder(journal, journal.begin_run(), "vm1", "image", place)
        order = replace(order, terms=order.terms.again())
        result = await ImageMigration(order, source, destination, recorder).run()
        assert not journal.unfinished(lambda owner: False)[0].migrations
        return result


def at_rate(order: ImageOrder, rate_bytes_s: int) -> ImageOrder:
    return replace(order, terms=replace(order.terms, rate_bytes_s=rate_bytes_s))


def check_moved(order: ImageOrder) -> None:
    assert Path(order.destination_path).read_bytes() == Path(order.source_path).read_bytes()


def fill(path: Path) -> None:
    """Take all room that is left on a file system."""
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(MIB // 4)):
            continue


def names(path: Path) -> list[str]:
    return [entry.name for entry in path.iterdir()]


def test_an_image_that_is_not_there_is_rejected_before_anything_moves(order: ImageOrder, home: Path) -> None:
    async def story() -> None:
        async with local_hosts(home) as hosts:
            missing = replace(order, source_path="/nowhere/guest.ram")
            result = await migrate(missing, home, *hosts)
            assert (result.status, result.exit_code) == (Status.FAILED, ExitCode.SPEC_REJECTED)
            assert result.error == (
                "host a: /nowhere/guest.ram cannot be opened: No such file or directory:"
                " give a file of guest memory in source.path"
            )
            assert names(home / "target") == []

    asyncio.run(story())


def test_a_disk_without_room_is_refused_before_anything_is_sent(
    order: ImageOrder, home: Path, small_disk: Path
) -> None:
    fill(small_disk / "other")

    async def story() -> None:
        async with local_hosts(home) as hosts:
            path = str(small_disk / "moved.ram")
            result = await migrate(replace(order, destination_path=path), home, *hosts)
            assert result.status is Status.FAILED
            assert result.error == f"{path}: {SIZE_BYTES} bytes needed, 0 free on its file system: make room"
            assert names(small_disk) == ["other"]

    asyncio.run(story())


def test_a_disk_that_fills_up_under_way_fails_the_image_and_leaves_nothing_on_it(
    order: ImageOrder, home: Path, small_disk: Path
) -> None:
    async def story() -> None:
        async with local_hosts(home) as hosts:
            fresh = replace(order, destination_path=str(small_disk / "moved.ram"))
            small = at_rate(fresh, 8 * MIB)
            running = asyncio.create_task(migrate(small, home, *hosts))
            await asyncio.to_thread(wait_until, lambda: bool(names(small_disk)), "the image is arriving")
            began_s = time.monotonic()
            await asyncio.to_thread(fill, small_disk / "other")
            result = await running
            assert time.monotonic() - began_s < LIMIT_S
            assert result.status is Status.FAILED
            assert result.error is not None
            assert "No space left on device" in result.error
            assert names(small_disk) == ["other"]
            (small_disk / "other").unlink()
            again = await migrate(fresh, home, *hosts)
            assert (again.status, again.verified) == (Status.COMPLETED, True)
            check_moved(small)

    asyncio.run(story())


@pytest.mark.parametrize("side", [0, 1])
def test_a_worker_that_is_killed_fails_the_image_and_it_can_be_migrated_again(
    order: ImageOrder, home: Path, side: int
) -> None:
    async def story() -> None:
        async with local_hosts(home, workers=2) as hosts:
            slow = at_rate(order, 2 * MIB)
            running = asyncio.create_task(migrate(slow, home, *hosts))
            target = home / "target"
            await asyncio.to_thread(wait_until, lambda: any(target.iterdir()), "the image is arriving")
            await asyncio.sleep(0.3)
            began_s = time.monotonic()
            hosts[side].workers[0].kill()
            result = await running
            assert time.monotonic() - began_s < LIMIT_S
            assert result.status is Status.FAILED
            assert names(target) == []
            assert (await migrate(order, home, *hosts)).status is Status.COMPLETED
        check_moved(order)

    asyncio.run(story())


def test_a_cancelled_image_leaves_nothing(order: ImageOrder, home: Path) -> None:
    async def story() -> None:
        async with local_hosts(home) as hosts:
            running = asyncio.create_task(migrate(at_rate(order, 2 * MIB), home, *hosts))
            target = home / "target"
            await asyncio.to_thread(wait_until, lambda: any(target.iterdir()), "the image is arriving")
            running.cancel()
            result = await running
            assert (result.status, result.error) == (Status.CANCELLED, "cancelled")
            assert names(target) == []

    asyncio.run(story())
