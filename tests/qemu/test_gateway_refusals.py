"""What stand-alone gateways refuse, with real QEMUs: both sides say what to set, and the guest stays where it was."""

import re
import time
from pathlib import Path

import pytest

from pipeline.qemu.stream_checks import SEE_DESTINATION
from pipeline.wire.certs import make_certificates
from pipeline.wire.tls import TlsFiles
from tests.demo.running_guest import wait_until
from tests.qemu.live import GatewayPair, Pools, Vms, vms
from tests.qemu.relays import closing_port

pytestmark = pytest.mark.qemu

UUIDS = ("-uuid", "00000000-0000-0000-0000-000000000001"), ("-uuid", "00000000-0000-0000-0000-000000000002")


def refused(pair: Vms, pools: Pools, folder: Path, channels: int = 2, destination_channels: int | None = None) -> str:
    """Migrate, expect a refusal that both sides know of, return the source's words."""
    with GatewayPair(
        pools, folder, pair.incoming, channels=channels, destination_channels=destination_channels
    ) as gateways:
        pair.migrate(gateways.path)
        source, destination = gateways.errors()
        assert pair.wait_ended(5) == "failed"
    reason = source.removeprefix(f"127.0.0.1:{gateways.port} gave up: ")
    # A QEMU that closes everything is noticed in more than one place.
    assert reason in destination or all(SEE_DESTINATION in text for text in (source, destination)), (
        source,
        destination,
    )
    pair.require_source_runs()
    return source


def test_return_path_is_required(tmp_path: Path, pools: Pools) -> None:
    with vms(tmp_path) as pair:
        pair.set_up(off=("return-path",))
        assert "set the capability return-path on both QEMUs" in refused(pair, pools, tmp_path)


@pytest.mark.parametrize("version", ["7.2", "10.0"])
def test_compressed_multifd_is_refused(tmp_path: Path, pools: Pools, version: str) -> None:
    with vms(tmp_path, version, version) as pair:
        pair.set_up(source={"multifd-compression": "zlib"})
        assert "set multifd-compression=none on both QEMUs" in refused(pair, pools, tmp_path)


def test_tls_of_qemu_is_refused(tmp_path: Path, pools: Pools) -> None:
    with vms(tmp_path) as pair:
        pair.set_up()
        pair.source.qmp("object-add", **{"qom-type": "tls-creds-anon", "id": "tls", "endpoint": "client"})
        pair.source.qmp("migrate-set-parameters", **{"tls-creds": "tls", "tls-hostname": "d"})
        assert "unset tls-creds, kuaka encrypts between the hosts" in refused(pair, pools, tmp_path)


def test_postcopy_together_with_multifd_is_refused(tmp_path: Path, pools: Pools) -> None:
    with vms(tmp_path) as pair:
        pair.set_up()
        capabilities = [{"capability": "postcopy-ram", "state": True}]
        pair.source.qmp("migrate-set-capabilities", capabilities=capabilities)
        assert "postcopy-ram and multifd on together: unset one" in refused(pair, pools, tmp_path)


def test_qemu_with_more_channels_than_the_gateway_is_refused(tmp_path: Path, pools: Pools) -> None:
    with vms(tmp_path) as pair:
        pair.set_up(4)
        # Whichever notices first: the source's gateway a channel too many, or the destination's a QEMU that waits.
        assert re.search("set .*multifd-channels alike on both", refused(pair, pools, tmp_path, channels=2))


def test_destination_qemu_that_waits_for_more_channels_is_noticed(tmp_path: Path, pools: Pools) -> None:
    with vms(tmp_path) as pair:
        pair.set_up(2, destination_channels=3)
        reason = refused(pair, pools, tmp_path)
    assert "has the main channel and 2 multifd channels and does not begin: set the capability multifd" in reason


def test_destination_qemu_that_takes_fewer_channels_is_noticed(tmp_path: Path, pools: Pools) -> None:
    with vms(tmp_path, "10.0", "10.0") as pair:
        pair.set_up(4, destination_channels=2)
        reason = refused(pair, pools, tmp_path, channels=4)
    assert "multifd setting that differs" in reason


def test_gateways_with_different_channel_counts_refuse_each_other(tmp_path: Path, pools: Pools) -> None:
    with vms(tmp_path) as pair:
        pair.set_up(2)
        with GatewayPair(pools, tmp_path, pair.incoming, channels=2, destination_channels=3) as gateways:
            pair.migrate(gateways.path)
            for error in gateways.errors():
                assert "channel count 2 differs from 3 here: set multifd-channels alike on both sides" in error
        assert pair.wait_ended(5) == "failed"
        pair.require_source_runs()


@pytest.mark.parametrize("version", ["7.2", "10.0"])
def test_uuid_that_differs_is_hinted_at(tmp_path: Path, pools: Pools, version: str) -> None:
    with vms(tmp_path, version, version, options=UUIDS[0], destination_options=UUIDS[1]) as pair:
        pair.set_up()
        assert "see its log; a -uuid, machine type, RAM size or multifd" in refused(pair, pools, tmp_path)


@pytest.mark.parametrize("side", ["source", "destination"])
def test_tls_on_one_side_only_is_named_on_both(tmp_path: Path, pools: Pools, side: str) -> None:
    make_certificates(tmp_path / "pki", ["both=127.0.0.1"], 1)
    tls = TlsFiles(tmp_path / "pki/ca.pem", tmp_path / "pki/both.pem", tmp_path / "pki/both.key")
    tls_of = {"source": None, "destination": None, side: tls}
    with vms(tmp_path) as pair:
        pair.set_up()
        with GatewayPair(
            pools, tmp_path, pair.incoming, source_tls=tls_of["source"], destination_tls=tls_of["destination"]
        ) as gateways:
            pair.migrate(gateways.path)
            source = gateways.source.result(10)
            assert source is not None
            # It may be a stranger's attempt, so the destination says it and goes on waiting.
            wait_until(lambda: len(gateways.said) > 2, "the destination says it", 5)
            assert not gateways.destination.done()
        assert "same tls settings" in gateways.said[2]
        assert "tls settings" in (source.error or "")
        assert pair.wait_ended(5) == "failed"
        pair.require_source_runs()


@pytest.mark.parametrize("version", ["7.2", "10.0"])
def test_qemu_that_is_refused_while_it_opens_its_channels_ends_its_migration_by_itself(
    tmp_path: Path, pools: Pools, version: str
) -> None:
    with vms(tmp_path, version, version) as pair, closing_port() as port:
        pair.set_up(4)
        for _ in range(10):
            with GatewayPair(pools, tmp_path, pair.incoming, channels=4, relay=lambda _port: port) as gateways:
                pair.migrate(gateways.path)
                assert pair.wait_ended(5) == "failed"
            # QEMU says so a moment before it takes another.
            time.sleep(0.25)
        pair.require_source_runs()


def test_single_stream_is_forwarded_and_not_called_accelerated(tmp_path: Path, pools: Pools) -> None:
    with vms(tmp_path, "7.2", "10.0") as pair:
        pair.set_up(off=("multifd",))
        with GatewayPair(pools, tmp_path, pair.incoming) as gateways:
            pair.migrate(gateways.path)
            assert pair.wait_ended() == "completed", gateways.errors()
            source, destination = gateways.results()
        assert (source.error, destination.error) == (None, None)
        assert source.channels == destination.channels == 0
        result = pair.compare_running()
    assert (result.wrong_pages, result.first_wrong) == (0, ())
