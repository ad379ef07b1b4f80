"""What breaks in the middle of a live migration: it fails within seconds, says why, and the guest runs on.

`GatewayPair` checks that nothing is left behind.
"""

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from pipeline.worker_process import local_workers
from tests.demo.running_guest import wait_until
from tests.qemu.live import MIB, GatewayPair, Pools, Vms, vms
from tests.qemu.relays import LinkRelay

pytestmark = pytest.mark.qemu

#: From a fault to the end of the migration.
LIMIT_S = 5.0
#: Slow enough for a fault in the middle: 64 MiB take some three seconds.
SLOW = {"max-bandwidth": 20 * MIB}


@contextmanager
def under_way(
    folder: Path, pools: Pools, versions: tuple[str, str] = ("7.2", "7.2"), relay: LinkRelay | None = None
) -> Iterator[tuple[Vms, GatewayPair]]:
    """A migration in its first round."""
    with vms(folder, *versions) as pair:
        pair.set_up(source=SLOW)
        gateways = GatewayPair(
            pools, folder, pair.incoming, native_zero=pair.native_zero, relay=relay or (lambda port: port)
        )
        with gateways:
            pair.migrate(gateways.path)
            wait_until(lambda: transferred(pair) > 4 * MIB, "the migration is under way")
            yield pair, gateways


def transferred(pair: Vms) -> int:
    return int(pair.source.qmp("query-migrate").get("ram", {}).get("transferred", 0))


def require_failed(pair: Vms, gateways: GatewayPair, since: float) -> tuple[str, str]:
    """Both gateways failed within the limit, the guest runs on, nothing is left; returns both reasons."""
    errors = gateways.errors(LIMIT_S)
    assert pair.wait_ended(LIMIT_S) == "failed"
    assert time.monotonic() - since < LIMIT_S
    assert "" not in errors
    pair.require_source_runs()
    return errors


@pytest.mark.parametrize("version", ["7.2", "10.0"])
def test_destination_qemu_is_killed(tmp_path: Path, pools: Pools, version: str) -> None:
    with under_way(tmp_path, pools, (version, version)) as (pair, gateways):
        since = time.monotonic()
        pair.destination.kill()
        source, destination = require_failed(pair, gateways, since)
    assert "the destination QEMU closed" in destination or "the destination QEMU ended" in destination
    assert "the destination QEMU" in source


@pytest.mark.parametrize("side", ["source", "destination"])
def test_worker_is_killed(tmp_path: Path, pools: Pools, side: str) -> None:
    (tmp_path / "workers").mkdir()
    with local_workers(1, tmp_path / "workers") as mine:
        (worker,) = (
            child for child in psutil.Process().children() if str(tmp_path / "workers/worker-0") in child.cmdline()
        )
        pools = Pools(mine, pools.destination) if side == "source" else Pools(pools.source, mine)
        with under_way(tmp_path, pools) as (pair, gateways):
            since = time.monotonic()
            worker.kill()
            for error in require_failed(pair, gateways, since):
                assert "a worker process died" in error


def test_links_are_cut(tmp_path: Path, pools: Pools) -> None:
    relay = LinkRelay()
    with under_way(tmp_path, pools, relay=relay) as (pair, gateways):
        since = time.monotonic()
        relay.cut()
        source, destination = require_failed(pair, gateways, since)
    assert "link to 127.0.0.1" in source
    assert "link to the source gateway" in destination or "link from the source gateway" in destination


def test_links_stall(tmp_path: Path, pools: Pools) -> None:
    relay = LinkRelay()
    with vms(tmp_path) as pair:
        pair.set_up(source=SLOW)
        with GatewayPair(pools, tmp_path, pair.incoming, relay=relay, stall_timeout_s=1.0) as gateways:
            pair.migrate(gateways.path)
            wait_until(lambda: transferred(pair) > 4 * MIB, "the migration is under way")
            relay.stall()
            source = gateways.source.result(1.0 + LIMIT_S)
            assert source is not None
            assert "stalled" in (source.error or "")
            assert pair.wait_ended(LIMIT_S) == "failed"
            pair.require_source_runs()
            # What has left the source arrives, and then its end.
            relay.cut()
            assert gateways.destination.result(LIMIT_S)


def test_source_qemu_is_killed(tmp_path: Path, pools: Pools) -> None:
    with under_way(tmp_path, pools) as (pair, gateways):
        since = time.monotonic()
        pair.source.kill()
        for error in gateways.errors(LIMIT_S):
            assert "the source QEMU" in error
        assert time.monotonic() - since < LIMIT_S
        before = pair.destination.steps
        time.sleep(0.1)
        assert pair.destination.steps == before


def test_cancelled_migration_fails(tmp_path: Path, pools: Pools) -> None:
    with under_way(tmp_path, pools) as (pair, gateways):
        pair.source.qmp("migrate_cancel")
        for error in gateways.errors(LIMIT_S):
            assert "the source QEMU ended its migration before the destination had confirmed it" in error
        pair.require_source_runs()


@pytest.mark.parametrize("version", ["7.2", "10.0"])
def test_last_word_lost_on_the_return_path_never_leaves_two_guests(tmp_path: Path, pools: Pools, version: str) -> None:
    relay = LinkRelay(swallow_shut=True)
    with vms(tmp_path, version, version) as pair:
        pair.set_up()
        with GatewayPair(pools, tmp_path, pair.incoming, native_zero=pair.native_zero, relay=relay) as gateways:
            pair.migrate(gateways.path)
            since = time.monotonic()
            assert relay.swallowed.wait(20)
            require_failed(pair, gateways, since)
        assert pair.destination.qmp("query-status")["running"] is False


@pytest.mark.parametrize(
    ("silent", "first_bytes"), [("says nothing", b""), ("stops inside its magic", b"\x11\x22")], ids=str
)
def test_connection_that_stays_silent_disturbs_nobody(
    tmp_path: Path, pools: Pools, silent: str, first_bytes: bytes
) -> None:
    with vms(tmp_path) as pair:
        pair.set_up()
        with GatewayPair(pools, tmp_path, pair.incoming) as gateways, socket.socket(socket.AF_UNIX) as stranger:
            stranger.connect(str(gateways.path))
            stranger.send(first_bytes)
            pair.migrate(gateways.path)
            assert pair.wait_ended() == "completed"
            assert gateways.errors() == ("", "")
            stranger.settimeout(3)
            assert closed(stranger.recv), silent
        assert pair.compare_running().wrong_pages == 0


def closed(receive: Callable[[int], bytes]) -> bool:
    try:
        return receive(1) == b""
    except ConnectionResetError:
        return True
