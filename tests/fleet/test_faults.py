"""Faults while a real guest migrates: it fails soon, the guest runs on, nothing is left, and it can be run again."""

import asyncio
import re
import time
from collections.abc import Callable
from dataclasses import replace

import pytest

from pipeline.errors import ExitCode
from pipeline.fleet.results import MigrationResult, Status
from tests.demo.running_guest import wait_until
from tests.fleet.live_pair import LIMIT_S, LivePair
from tests.fleet.local_hosts import Attempt, LocalHost, local_hosts, order_of

pytestmark = pytest.mark.qemu

Fault = Callable[[LivePair, LocalHost, LocalHost], None]
STALL_TIMEOUT_S = 1.5


def destination_killed(pair: LivePair, source: LocalHost, destination: LocalHost) -> None:
    pair.kill_destination()


def source_worker_killed(pair: LivePair, source: LocalHost, destination: LocalHost) -> None:
    source.workers[0].kill()


def destination_worker_killed(pair: LivePair, source: LocalHost, destination: LocalHost) -> None:
    destination.workers[0].kill()


def link_cut(pair: LivePair, source: LocalHost, destination: LocalHost) -> None:
    assert destination.relay is not None
    destination.relay.cut()


def link_stalled(pair: LivePair, source: LocalHost, destination: LocalHost) -> None:
    assert destination.relay is not None
    destination.relay.stall()


def source_killed(pair: LivePair, source: LocalHost, destination: LocalHost) -> None:
    pair.source.kill()


async def hurt(pair: LivePair, source: LocalHost, destination: LocalHost, fault: Fault) -> MigrationResult:
    """A migration with a fault in its middle, which must end it in time."""
    order = order_of(pair, slow=True, stall_timeout_s=STALL_TIMEOUT_S)
    running = asyncio.create_task(Attempt(order, pair.home, source, destination).run())
    await asyncio.to_thread(pair.wait_moving)
    began_s = time.monotonic()
    fault(pair, source, destination)
    result = await running
    # A stall is noticed after its timeout; what follows has the same limit as everything else.
    assert time.monotonic() - began_s < LIMIT_S + (STALL_TIMEOUT_S if fault is link_stalled else 0)
    return result


async def migrate_again(pair: LivePair, source: LocalHost, destination: LocalHost) -> None:
    """The same migration without a fault."""
    destination.relay_wanted = destination.swallow_shut = False
    again = await Attempt(order_of(pair), pair.home, source, destination).run()
    assert (again.status, again.error) == (Status.COMPLETED, None)
    await asyncio.to_thread(check_moved, pair)


def check_moved(pair: LivePair) -> None:
    assert pair.compared().wrong_pages == 0
    assert not pair.source.qmp("query-status")["running"]


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (destination_killed, "the destination QEMU"),
        (source_worker_killed, "a worker process died"),
        (destination_worker_killed, "host b: a worker process died"),
        (link_cut, "link to .* (was closed by the other end|was cut|broke)"),
        (link_stalled, "link to .* stalled: no acknowledgement for 1.5 s"),
    ],
)
def test_a_migration_that_is_hurt_fails_soon_its_guest_runs_on_and_it_can_be_run_again(
    pair: LivePair, fault: Fault, reason: str
) -> None:
    async def story() -> None:
        async with local_hosts(pair.home, workers=2) as (source, destination):
            destination.relay_wanted = fault in (link_cut, link_stalled)
            result = await hurt(pair, source, destination, fault)
            assert result.status is Status.FAILED
            assert result.error is not None
            assert re.search(reason, result.error), result.error
            assert pair.source_runs_on()
            assert pair.left_behind("a", "b") == []
            await migrate_again(pair, source, destination)

    asyncio.run(story())


def test_a_source_that_is_killed_fails_soon_and_its_destination_never_starts(pair: LivePair) -> None:
    async def story() -> None:
        async with local_hosts(pair.home) as (source, destination):
            result = await hurt(pair, source, destination, source_killed)
            assert result.status is Status.FAILED
            assert result.error is not None
            assert "vm1 (source): QEMU has gone" in result.error
            assert pair.left_behind("a", "b") == []
            assert pair.destination_steps_since_started() == 0

    asyncio.run(story())


def test_a_destination_that_is_told_to_quit_needs_no_cleanup_command(pair: LivePair) -> None:
    async def story() -> None:
        async with local_hosts(pair.home) as (source, destination):
            order = replace(order_of(pair, slow=True), cleanup=None)
            running = asyncio.create_task(Attempt(order, pair.home, source, destination).run())
            await asyncio.to_thread(pair.wait_moving)
            running.cancel()
            result = await running
            assert (result.status, result.exit_code) == (Status.CANCELLED, ExitCode.INTERRUPTED)
            await asyncio.to_thread(wait_until, lambda: pair.destination_pid is None, "the destination has ended")
            assert pair.source_runs_on()
            assert pair.left_behind("a", "b") == []

    asyncio.run(story())


def test_a_migration_out_of_time_says_so_and_its_guest_runs_on(pair: LivePair) -> None:
    async def story() -> None:
        async with local_hosts(pair.home) as (source, destination):
            order = replace(order_of(pair, slow=True), timeout_s=1.0)
            result = await Attempt(order, pair.home, source, destination).run()
            assert (result.status, result.exit_code) == (Status.FAILED, ExitCode.DEADLINE)
            assert result.error == "not finished within 1 s"
            assert pair.source_runs_on()
            assert pair.left_behind("a", "b") == []

    asyncio.run(story())


def test_a_cleanup_that_fails_leaves_the_source_alone_and_says_so(pair: LivePair) -> None:
    pair.cleanup.write_text("#!/bin/sh\necho the disk is on fire >&2\nexit 3\n")

    async def story() -> None:
        async with local_hosts(pair.home) as (source, destination):
            result = await hurt(pair, source, destination, destination_killed)
            assert result.status is Status.FAILED
            assert result.error is not None
            assert "vm1: cleanup on b failed with exit code 3: the disk is on fire" in result.error
            assert "\n" not in result.error
            assert pair.source_runs_on()

    asyncio.run(story())


@pytest.mark.parametrize("moment", [0.0, 0.05, 0.3])
def test_a_migration_cancelled_while_its_destination_is_prepared_leaves_none(pair: LivePair, moment: float) -> None:
    script = pair.prepare.read_text()
    pair.prepare.write_text(script.replace("exec", "touch $0.begun; sleep 0.2; exec"))

    async def story() -> None:
        async with local_hosts(pair.home) as (source, destination):
            running = asyncio.create_task(Attempt(order_of(pair), pair.home, source, destination).run())
            began = pair.prepare.with_name("prepare.begun")
            await asyncio.to_thread(wait_until, began.exists, "prepare has begun")
            await asyncio.sleep(moment)
            running.cancel()
            result = await running
            assert result.status is Status.CANCELLED
            await asyncio.sleep(0.5)
            assert pair.left_behind("a", "b") == []
            assert pair.source_runs_on()
            await migrate_again(pair, source, destination)

    asyncio.run(story())
