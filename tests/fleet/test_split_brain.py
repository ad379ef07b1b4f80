"""One guest, never two, with real QEMUs: a lost last word, destinations that would start by themselves."""

import asyncio
import time

import pytest

from pipeline.errors import ExitCode
from pipeline.fleet.results import Status
from pipeline.qemu.destination_vm import DestinationVm
from tests.demo.running_guest import RunningGuest, wait_until
from tests.fleet.live_pair import LIMIT_S, LivePair, raw_qmp
from tests.fleet.local_hosts import Attempt, local_hosts, order_of
from tests.fleet.test_faults import migrate_again

pytestmark = pytest.mark.qemu


def test_a_source_that_never_hears_the_last_word_runs_on_and_the_destination_never_starts(pair: LivePair) -> None:
    async def story() -> None:
        async with local_hosts(pair.home) as (source, destination):
            destination.relay_wanted = destination.swallow_shut = True
            running = asyncio.create_task(Attempt(order_of(pair), pair.home, source, destination).run())
            await asyncio.to_thread(
                wait_until, lambda: destination.relay is not None and destination.relay.swallowed.is_set(), "SHUT", 60
            )
            began_s = time.monotonic()
            result = await running
            assert time.monotonic() - began_s < LIMIT_S
            assert result.status is Status.FAILED
            assert pair.source_runs_on()
            assert pair.left_behind("a", "b") == []
            assert pair.destination_steps_since_started() == 0
            await migrate_again(pair, source, destination)

    asyncio.run(story())


def test_a_destination_without_dash_s_is_refused_before_anything_moves(pair: LivePair) -> None:
    pair.write_prepare(start="-incoming defer")

    async def story() -> None:
        async with local_hosts(pair.home) as (source, destination):
            result = await Attempt(order_of(pair), pair.home, source, destination).run()
            assert (result.status, result.exit_code) == (Status.FAILED, ExitCode.SPEC_REJECTED)
            assert result.error == (
                "vm1 (destination): the destination would start by itself: start it with -S, so that never two of one"
                " guest can run"
            )
            assert pair.source.qmp("query-migrate") == {}
            assert pair.left_behind("a", "b") == []

    asyncio.run(story())


@pytest.mark.parametrize("told", [True, False])
def test_a_destination_without_dash_s_that_was_told_to_stop_does_not_start(pair: LivePair, told: bool) -> None:
    """The negative control: one that was not told starts, so the test can see a guest that does."""
    destination_home = pair.home / "own"
    with RunningGuest(destination_home, pair.parameters, options=("-incoming", "defer")) as destination:
        if told:
            destination.qmp("stop")
        pair.source.migrate_to(destination, channels=2)
        wait_until(lambda: destination.qmp("query-status")["status"] != "inmigrate", "all is loaded")
        assert destination.qmp("query-status")["running"] is not told


def test_listening_tells_a_destination_to_stop(pair: LivePair) -> None:
    pair.write_prepare(start="-incoming defer")
    pair.start_destination()

    async def listen() -> None:
        vm = DestinationVm("vm1", pair.destination_qmp)
        await vm._qmp.connect()
        await vm.listen(2, pair.home / "incoming")
        await vm.disconnect()

    asyncio.run(listen())
    names = ("multifd", "return-path")
    capabilities = [{"capability": name, "state": True} for name in names]
    pair.source.qmp("migrate-set-capabilities", capabilities=capabilities)
    pair.source.qmp("migrate-set-parameters", **{"multifd-channels": 2, "max-bandwidth": 10**10})
    pair.source.qmp("migrate", uri=f"unix:{pair.home}/incoming")
    wait_until(lambda: bool(pair.source.qmp("query-migrate").get("status") == "completed"), "completed", 60)
    with raw_qmp(pair.destination_qmp) as qmp:
        wait_until(lambda: qmp("query-status")["status"] != "inmigrate", "all is loaded")
        assert qmp("query-status")["status"] == "paused"


def test_a_paused_guest_arrives_paused(pair: LivePair) -> None:
    pair.source.qmp("stop")

    async def story() -> None:
        async with local_hosts(pair.home) as (source, destination):
            order = order_of(pair)
            result = await Attempt(order, pair.home, source, destination).run()
            assert (result.status, result.error, result.downtime_ms) == (Status.COMPLETED, None, None)

    asyncio.run(story())
    with raw_qmp(pair.destination_qmp) as qmp:
        assert qmp("query-status")["status"] == "paused"
