"""A guest is slowed down only when help is called for, while its migration runs; both QEMUs take it so."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import MigrationError
from pipeline.qemu.auto_converge import AT_REST, CALLED_FOR, CAPABILITY
from pipeline.qemu.source_vm import SourceSettings, SourceVm
from tests.demo.running_guest import wait_until
from tests.qemu.live import MIB, Vms, vms
from tests.qemu.qmp_server import ANSWERS, QmpServer

PARAMETERS = ANSWERS["query-migrate-parameters"] | {"cpu-throttle-initial": 20, "max-cpu-throttle": 99}


async def told(folder: Path, *, allowed: bool) -> list[dict[str, Any]]:
    """What a source was told that was set up, helped and put back."""
    async with QmpServer(folder / "qmp", query_migrate_parameters=PARAMETERS) as server:
        vm = SourceVm("vm", folder / "qmp")
        facts = await vm.connect()
        await vm.configure(SourceSettings(2, 250, None, auto_converge=allowed), facts)
        if allowed:
            await vm.converge()
        else:
            with pytest.raises(MigrationError, match="auto-converge was not allowed"):
                await vm.converge()
        await vm.restore()
        await vm.disconnect()
        commands = zip(server.asked, server.arguments, strict=True)
        return [arguments for command, arguments in commands if command == "migrate-set-parameters"]


def test_its_ceiling_is_low_until_help_is_called_for_and_its_settings_come_back(tmp_path: Path) -> None:
    begun, helped, restored = asyncio.run(told(tmp_path, allowed=True))
    assert begun.items() >= AT_REST.items()
    assert helped == CALLED_FOR
    assert (restored["cpu-throttle-initial"], restored["max-cpu-throttle"]) == (20, 99)


def test_where_it_is_not_allowed_qemu_is_told_nothing_of_it(tmp_path: Path) -> None:
    for arguments in asyncio.run(told(tmp_path, allowed=False)):
        assert not arguments.keys() & AT_REST.keys()


def throttled_percent(pair: Vms) -> int:
    return int(pair.source.qmp("query-migrate").get("cpu-throttle-percentage", 0))


@pytest.mark.qemu
@pytest.mark.long
@pytest.mark.parametrize("version", ["7.2", "10.0"])
def test_a_guest_that_does_not_converge_is_slowed_down_when_help_is_called_for(tmp_path: Path, version: str) -> None:
    with vms(tmp_path, version, version) as pair:
        pair.set_up(on=(CAPABILITY,), source=dict(AT_REST) | {"max-bandwidth": 16 * MIB})
        pair.migrate(pair.incoming)

        def rounds() -> int:
            return int(pair.source.qmp("query-migrate").get("ram", {}).get("dirty-sync-count", 0))

        wait_until(lambda: rounds() > 3, "it does not converge", 40)
        assert throttled_percent(pair) <= 1
        pair.source.qmp("migrate-set-parameters", **CALLED_FOR)
        wait_until(lambda: throttled_percent(pair) > 1, "it is slowed down", 40)
