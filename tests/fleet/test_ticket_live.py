"""Real guests whose stop waits for a downtime ticket: they run meanwhile, stand still shortly, and arrive whole."""

import asyncio
import contextlib
import re
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.demo.guest import ODD_MEMORY_BYTES, GuestParameters
from pipeline.fleet.results import MigrationResult, Status
from pipeline.qemu.switchover import HELD_LIMIT_MS, SWITCHOVER_ACK
from scheduler.core.effects import Reason
from scheduler.ticks import TicketAnswer
from tests.demo.running_guest import QEMU_7_2, QEMU_10_0, wait_until
from tests.fleet.live_pair import LIMIT_S, MIB, LivePair, raw_qmp
from tests.fleet.local_hosts import Attempt, LocalHost, local_hosts, order_of
from tests.fleet.ticket_desks import FakeDesk, OnlyTickets

pytestmark = pytest.mark.qemu

QEMUS = {"7.2": QEMU_7_2, "10.0": QEMU_10_0}
#: Dirties its 4 MiB faster than the link carries them, so that there is a rest of 100 ms whenever it is stopped.
BUSY = GuestParameters(
    32 * MIB + ODD_MEMORY_BYTES, dirty_rate_bytes_s=64 * MIB, working_set_bytes=4 * MIB, normal_page_ratio=100
)
RATE_BYTES_S = 40 * MIB
DENIED = TicketAnswer(granted=False, reason=Reason.NO_CAPACITY, retry_ns=200_000_000)

NEW, OLD = ("10.0", "10.0"), ("7.2", "7.2")
EITHER_WAY = [pytest.param(NEW, id="ack"), pytest.param(OLD, id="limit")]


@contextlib.contextmanager
def pair_of(home: Path, versions: tuple[str, str]) -> Iterator[LivePair]:
    machine = "pc-i440fx-7.2" if "7.2" in versions else "pc-i440fx-10.0"
    pair = LivePair(home, BUSY, QEMUS[versions[1]], QEMUS[versions[0]], machine)
    try:
        yield pair
    finally:
        pair.close()


@dataclass
class Held:
    """A migration whose ticket has been asked for and not been given."""

    pair: LivePair
    desk: FakeDesk
    source: LocalHost
    destination: LocalHost
    running: "asyncio.Task[MigrationResult]"

    async def until(self, condition: Callable[[], bool], what: str) -> None:
        await asyncio.to_thread(wait_until, condition, what)

    def settings(self) -> tuple[Any, Any]:
        """The source's switchover-ack (None where it has none) and downtime-limit."""
        capabilities = self.pair.source.qmp("query-migrate-capabilities")
        state = {entry["capability"]: entry["state"] for entry in capabilities}.get(SWITCHOVER_ACK)
        return state, self.pair.source.qmp("query-migrate-parameters")["downtime-limit"]


@contextlib.asynccontextmanager
async def held(pair: LivePair, *answers: TicketAnswer | None, relay: bool = False) -> AsyncIterator[Held]:
    desk = FakeDesk((*answers, None))
    async with local_hosts(pair.home, accelerators=OnlyTickets(desk)) as (source, destination):
        destination.relay_wanted = relay
        order = order_of(pair, stall_timeout_s=LIMIT_S)
        order = replace(order, terms=replace(order.terms, rate_bytes_s=RATE_BYTES_S))
        running = asyncio.create_task(Attempt(order, pair.home, source, destination).run())
        story = Held(pair, desk, source, destination, running)
        await story.until(lambda: running.done() or len(desk.asked) > len(answers), "the ticket was asked for")
        assert not running.done(), running.result()
        yield story


def wait_steps_and_rounds(pair: LivePair) -> None:
    """The guest runs and is copied on."""

    def rounds() -> int:
        return int(pair.source.qmp("query-migrate")["ram"]["dirty-sync-count"])

    before = rounds()
    pair.source.wait_steps(2000)
    wait_until(lambda: rounds() > before + 2, "round after round")
    assert pair.source.qmp("query-status")["status"] == "running"


def acknowledges(pair: LivePair) -> bool | None:
    with raw_qmp(pair.destination_qmp) as qmp:
        return {entry["capability"]: entry["state"] for entry in qmp("query-migrate-capabilities")}.get(SWITCHOVER_ACK)


@pytest.mark.parametrize(
    "versions", [*EITHER_WAY, pytest.param(("10.0", "7.2"), marks=pytest.mark.matrix, id="new to old")]
)
def test_guest_runs_until_its_ticket_is_there_stands_still_shortly_and_arrives_whole(
    home: Path, versions: tuple[str, str]
) -> None:
    async def story(pair: LivePair) -> None:
        before_ms = pair.source.qmp("query-migrate-parameters")["downtime-limit"]
        async with held(pair, *[DENIED] * 4) as migration:
            assert migration.settings() == {
                NEW: (True, before_ms), OLD: (None, HELD_LIMIT_MS), ("10.0", "7.2"): (False, HELD_LIMIT_MS)
            }[versions]  # fmt: skip
            await asyncio.to_thread(wait_steps_and_rounds, pair)
            migration.desk.answering.set()
            result = await migration.running
            assert (result.status, result.error) == (Status.COMPLETED, None)
            assert result.ticket_wait_ms is not None
            assert result.downtime_ms is not None
            # Denied four times; the guest stood still for none of it.
            assert result.ticket_wait_ms > 800
            assert result.downtime_ms < result.ticket_wait_ms
            assert len(migration.desk.asked) >= 5
            # Never for all of its memory, always for the terms' downtime limit.
            assert all(0 < pages < 32 * MIB // 4096 for pages, _ in migration.desk.asked)
            assert {within_ns for _, within_ns in migration.desk.asked} == {300_000_000}
            accelerators = migration.source._accelerators
            assert isinstance(accelerators, OnlyTickets)
            assert len(accelerators.stopped_sessions) == 1
            assert migration.desk.given_back == 0
            assert not await asyncio.to_thread(acknowledges, pair)
            assert (await asyncio.to_thread(pair.compared)).wrong_pages == 0

    with pair_of(home, versions) as pair:
        asyncio.run(story(pair))


def destination_killed(migration: Held) -> None:
    migration.pair.kill_destination()


def link_cut(migration: Held) -> None:
    assert migration.destination.relay is not None
    migration.destination.relay.cut()


def given_up(migration: Held) -> None:
    migration.running.cancel()


def cancelled_by_hand(migration: Held) -> None:
    migration.pair.source.qmp("migrate_cancel")


@pytest.mark.parametrize(
    ("versions", "fault", "reason"),
    [
        pytest.param(
            versions,
            fault,
            reason,
            marks=() if versions == NEW and fault in (destination_killed, given_up) else pytest.mark.matrix,
            id=f"{fault.__name__} {versions[0]}",
        )
        for versions in (NEW, OLD)
        for fault, reason in (
            (destination_killed, "the destination QEMU"),
            (link_cut, "link to .* (was closed by the other end|was cut|broke)"),
            (given_up, "cancelled"),
            (cancelled_by_hand, "cancelled|ended its migration"),
        )
    ],
)
def test_fault_while_the_ticket_is_waited_for_ends_it_soon_and_the_guest_runs_on(
    home: Path, versions: tuple[str, str], fault: Callable[[Held], None], reason: str
) -> None:
    async def story(pair: LivePair) -> None:
        before = pair.source.qmp("query-migrate-parameters")["downtime-limit"]
        async with held(pair, relay=fault is link_cut) as migration:
            began_s = time.monotonic()
            fault(migration)
            result = await migration.running
            assert time.monotonic() - began_s < LIMIT_S
            assert result.status is (Status.CANCELLED if fault is given_up else Status.FAILED)
            assert re.search(reason, result.error or ""), result.error
            assert result.ticket_wait_ms is not None
            assert migration.desk.given_back == 1
            assert migration.settings() == (False if versions == NEW else None, before)
            assert await asyncio.to_thread(pair.source_runs_on)
            assert pair.left_behind("a", "b") == []

    with pair_of(home, versions) as pair:
        asyncio.run(story(pair))
