"""What QEMU is told so that a stop waits for its ticket, and that it is told nothing where none is waited for."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from pipeline.qemu.destination_vm import DestinationVm
from pipeline.qemu.source_vm import SourceSettings, SourceVm
from pipeline.qemu.switchover import SWITCHOVER_ACK, Hold, RamProgress, way_to_hold
from tests.qemu.qmp_server import ANSWERS, QmpServer


def capabilities(acknowledgement: bool | None) -> list[dict[str, Any]]:
    """Of a QEMU whose switchover-ack is on or off, or that is older (None)."""
    more = [] if acknowledgement is None else [{"capability": SWITCHOVER_ACK, "state": acknowledgement}]
    return [*ANSWERS["query-migrate-capabilities"], *more]


def told(server: QmpServer) -> list[tuple[bool | None, int | None]]:
    """What each setting says of switchover-ack and of downtime-limit; None: nothing."""
    found: list[tuple[bool | None, int | None]] = []
    for command, arguments in zip(server.asked, server.arguments, strict=True):
        if command == "migrate-set-capabilities":
            states = {entry["capability"]: entry["state"] for entry in arguments["capabilities"]}
            found.append((states.get(SWITCHOVER_ACK), None))
        elif command == "migrate-set-parameters":
            found.append((None, arguments.get("downtime-limit")))
    return found


async def configured(folder: Path, before: bool | None, hold: Hold, *, acknowledged: bool) -> QmpServer:
    """A source that was set up, let go and put back."""
    async with QmpServer(folder / "qmp", query_migrate_capabilities=capabilities(before)) as server:
        vm = SourceVm("vm", folder / "qmp")
        facts = await vm.connect()
        await vm.configure(SourceSettings(2, 250, None, hold, acknowledged), facts)
        if hold is Hold.LIMIT:
            await vm.allow_downtime()
        await vm.restore()
        await vm.disconnect()
        return server


@pytest.mark.parametrize(
    ("before", "hold", "acknowledged", "states", "limits"),
    [
        (None, Hold.NONE, False, [None, None], [250, 300]),
        (False, Hold.NONE, False, [None, None], [250, 300]),
        (False, Hold.NONE, True, [None, None], [250, 300]),
        (False, Hold.ACK, True, [True, False], [250, 300]),
        (False, Hold.LIMIT, False, [None, None], [1, 250, 300]),
        (None, Hold.LIMIT, False, [None, None], [1, 250, 300]),
        # Its user wants it: kept where the destination can, or the guest would never be stopped.
        (True, Hold.NONE, True, [True, True], [250, 300]),
        (True, Hold.NONE, False, [False, True], [250, 300]),
        (True, Hold.LIMIT, False, [False, True], [1, 250, 300]),
    ],
)
def test_source_is_told_what_its_hold_needs_and_put_back(
    tmp_path: Path, before: bool | None, hold: Hold, acknowledged: bool, states: list[bool | None], limits: list[int]
) -> None:
    settings = told(asyncio.run(configured(tmp_path, before, hold, acknowledged=acknowledged)))
    assert [state for state, limit in settings if limit is None] == states
    assert [limit for _, limit in settings if limit is not None] == limits


@pytest.mark.parametrize(("hold", "events"), [(Hold.NONE, True), (Hold.LIMIT, True), (Hold.ACK, False)])
def test_rounds_of_a_millisecond_are_no_events(tmp_path: Path, hold: Hold, events: bool) -> None:
    server = asyncio.run(configured(tmp_path, False, hold, acknowledged=True))
    setting = next(each for each in server.arguments if "capabilities" in each)
    assert {"capability": "events", "state": events} in setting["capabilities"]


@pytest.mark.parametrize(
    ("before", "acknowledges", "states"),
    [(None, False, [None]), (False, False, [None]), (False, True, [True, False]), (True, True, [None])],
)
def test_destination_acknowledges_only_this_once(
    tmp_path: Path, before: bool | None, acknowledges: bool, states: list[bool | None]
) -> None:
    async def story() -> QmpServer:
        answers = {"query_migrate_capabilities": capabilities(before), "query_status": {"status": "inmigrate"}}
        async with QmpServer(tmp_path / "qmp", **answers) as server:
            vm = DestinationVm("vm", tmp_path / "qmp")
            # The process behind the socket is this one, which is no QEMU with -S.
            vm._qmp._arguments = tuple  # type: ignore[method-assign]
            await vm.connect()
            await vm.listen(2, tmp_path / "incoming", acknowledges=acknowledges)
            await vm.restore()
            await vm.disconnect()
            return server

    assert [state for state, limit in told(asyncio.run(story()))] == [*states[:1], None, *states[1:]]


def test_memory_is_read_as_qemu_says_it(tmp_path: Path) -> None:
    ram = {"dirty-sync-count": 3, "remaining": 4096, "mbps": 80.5, "dirty-pages-rate": 2, "page-size": 4096}

    async def story(**answers: Any) -> RamProgress:
        async with QmpServer(tmp_path / "qmp", **answers) as server:
            server.status = "none" if not answers else "active"
            vm = SourceVm("vm", tmp_path / "qmp")
            await vm._qmp.connect()
            progress = await vm.ram()
            assert vm.seen == progress
            await vm.disconnect()
            return progress

    assert asyncio.run(story()) == RamProgress("none", 0, 0, 0)
    assert asyncio.run(story(query_migrate={"ram": ram})) == RamProgress("active", 3, 4096, 10_062_500, 8192)


def test_way_to_hold_follows_from_what_both_qemus_can() -> None:
    assert way_to_hold(wanted=False, acknowledged=True) is Hold.NONE
    assert way_to_hold(wanted=True, acknowledged=True) is Hold.ACK
    assert way_to_hold(wanted=True, acknowledged=False) is Hold.LIMIT
