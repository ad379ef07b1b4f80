"""A run: results in order whatever happens, progress, and an end when the cluster has gone or the user gives up."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, cast

import pytest

from pipeline.errors import ExitCode, KuakaError, MigrationError
from pipeline.fleet.handle import HostHandle
from pipeline.fleet.orders import MigrationProgress
from pipeline.fleet.results import MigrationResult, Status
from pipeline.fleet.run import FleetRun
from pipeline.fleet.timeouts import Timeouts
from pipeline.shard import ShardCounters


class Host:
    """Answers progress, or does not."""

    def __init__(self, name: str, answer: Callable[[], Awaitable[None]]) -> None:
        self.name = name
        self._answer = answer

    async def progress(self, session_ids: Sequence[str]) -> dict[str, MigrationProgress]:
        await self._answer()
        return {session: MigrationProgress(ShardCounters(pages=1), None) for session in session_ids}


async def at_once() -> None:
    return


async def never() -> None:
    await asyncio.Event().wait()


async def dead() -> None:
    raise MigrationError("has died")


class Migration:
    """Lasts so long, and longer where it does not listen to cancellation."""

    kind = "qemu"

    def __init__(self, vm: str, lasts_s: float, host: Host | None = None, *, deaf: bool = False) -> None:
        self.vm = vm
        self.session = f"session of {vm}"
        self.source = self.destination = cast(HostHandle, host or Host("a", at_once))
        self._lasts_s = lasts_s
        self._deaf = deaf

    async def run(self) -> MigrationResult:
        end_s = time.monotonic() + self._lasts_s
        while time.monotonic() < end_s:
            try:
                await asyncio.sleep(end_s - time.monotonic())
            except asyncio.CancelledError as cancelled:
                if not self._deaf:
                    reason = str(cancelled.args[0]) if cancelled.args else "cancelled"
                    return MigrationResult(self.vm, self.kind, Status.CANCELLED, error=reason)
        return MigrationResult(self.vm, self.kind, Status.COMPLETED)


async def lose_cluster() -> None:
    await asyncio.sleep(0.05)
    raise KuakaError("the head of the Ray cluster has gone")


def fleet_run(
    migrations: list[Migration],
    watch: Callable[[], Any] = never,
    on_progress: Callable[[Mapping[str, MigrationProgress]], None] = lambda progress: None,
) -> FleetRun:
    return FleetRun(migrations, on_progress, watch, give_up_s=0.2)


def test_results_come_in_the_order_of_the_spec() -> None:
    run = fleet_run([Migration("slow", 0.1), Migration("quick", 0.0), Migration("middle", 0.05)])
    results = asyncio.run(run.run())
    assert [result.vm for result in results] == ["slow", "quick", "middle"]
    assert (run.abandoned, run.cluster_lost) == (False, False)


def two_at_a_time(waiting: Sequence[str], running: Sequence[str]) -> Sequence[str]:
    return waiting[: 2 - len(running)]


def test_migrations_begin_when_the_limits_let_them_and_all_of_them_do() -> None:
    most = 0

    def counted(waiting: Sequence[str], running: Sequence[str]) -> Sequence[str]:
        nonlocal most
        admitted = two_at_a_time(waiting, running)
        most = max(most, len(running) + len(admitted))
        return admitted

    migrations = [Migration(f"vm{number}", 0.01 * number) for number in range(7)]
    run = FleetRun(migrations, lambda progress: None, never, counted)
    results = asyncio.run(_bounded(run))
    assert [result.status for result in results] == [Status.COMPLETED] * 7
    assert most == 2


def test_what_waits_when_a_run_is_cancelled_never_begins() -> None:
    async def cancel() -> list[MigrationResult]:
        migrations = [Migration(f"vm{number}", 60) for number in range(3)]
        running = asyncio.create_task(FleetRun(migrations, lambda progress: None, never, two_at_a_time).run())
        await asyncio.sleep(0.02)
        running.cancel()
        return await running

    assert [result.status for result in asyncio.run(cancel())] == [Status.CANCELLED] * 3


def test_what_waits_when_the_cluster_is_lost_has_not_begun() -> None:
    run = FleetRun([Migration("one", 60), Migration("two", 60)], lambda progress: None, lose_cluster, one_at_a_time)
    _, two = asyncio.run(_bounded(run))
    assert (two.status, two.exit_code) == (Status.FAILED, ExitCode.FAILED)
    assert two.error == "it has not begun: the head of the Ray cluster has gone"


def one_at_a_time(waiting: Sequence[str], running: Sequence[str]) -> Sequence[str]:
    return waiting[: 1 - len(running)]


def test_what_there_is_never_room_for_fails_by_name() -> None:
    run = FleetRun([Migration("one", 0)], lambda progress: None, never, lambda waiting, running: ())
    (one,) = asyncio.run(_bounded(run))
    assert (one.status, one.error) == (
        Status.FAILED,
        "it has not begun: the limits leave no room for it, see kuaka plan",
    )


def test_a_migration_that_takes_too_long_is_given_up_and_no_other() -> None:
    timeouts = {"slow": Timeouts(completion_ns_per_gib=10**8, progress_ns=None)}
    migrations = [Migration("slow", 60), Migration("also slow", 0.8)]
    run = FleetRun(migrations, lambda progress: None, never, timeouts=timeouts)
    slow, other = asyncio.run(_bounded(run))
    assert (slow.error or "").startswith("not completed in 0 s (completionTimeoutPerGiB")
    assert other.status is Status.COMPLETED


def test_cancelling_a_run_cancels_every_migration_and_returns_its_results() -> None:
    async def cancel() -> list[MigrationResult]:
        running = asyncio.create_task(fleet_run([Migration("one", 60), Migration("two", 60)]).run())
        for _ in range(2):
            await asyncio.sleep(0.02)
            running.cancel()
        return await running

    assert [(result.vm, result.status) for result in asyncio.run(cancel())] == [
        ("one", Status.CANCELLED),
        ("two", Status.CANCELLED),
    ]


def test_a_lost_cluster_cancels_with_its_reason_and_waits_for_nobody() -> None:
    began_s = time.monotonic()
    run = fleet_run([Migration("hears", 60), Migration("deaf", 1, deaf=True)], lose_cluster)
    hears, deaf = asyncio.run(_bounded(run))
    assert time.monotonic() - began_s < 3
    assert hears.error == "the head of the Ray cluster has gone"
    assert (deaf.status, deaf.exit_code) == (Status.FAILED, ExitCode.FAILED)
    assert deaf.error == (
        "the head of the Ray cluster has gone; its hosts do not answer any more: the next kuaka command here cleans up"
    )
    assert (run.abandoned, run.cluster_lost) == (True, True)


async def _bounded(run: FleetRun) -> list[MigrationResult]:
    return await asyncio.wait_for(run.run(), 5)


def test_many_migrations_share_one_time_to_give_up() -> None:
    migrations = [Migration(f"vm{number}", 0.15 * number, deaf=True) for number in range(1, 8)]
    run = fleet_run(migrations, lose_cluster)

    async def measured() -> float:
        began_s = time.monotonic()
        await run.run()
        return time.monotonic() - began_s

    assert asyncio.run(measured()) < 0.8
    assert run.abandoned


@pytest.mark.parametrize("silent", [dead, never])
def test_a_host_that_says_nothing_keeps_nobody_from_showing_progress(silent: Callable[[], Awaitable[None]]) -> None:
    seen: list[Mapping[str, MigrationProgress]] = []
    migrations = [Migration("of b", 1.6, Host("b", silent)), Migration("of a", 1.6)]
    asyncio.run(fleet_run(migrations, on_progress=seen.append).run())
    assert any("of a" in progress for progress in seen)
    assert not any("of b" in progress for progress in seen)
