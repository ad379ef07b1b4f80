"""Both gateways and their workers between QEMUs that are no more than sockets; every pair leaves nothing behind."""

import socket
import struct
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.errors import LinkError
from pipeline.wire.certs import make_certificates
from pipeline.wire.handshake import Preamble, Role, encode_preamble
from pipeline.wire.opening import open_link
from pipeline.wire.tls import TlsFiles
from tests.demo.running_guest import wait_until
from tests.qemu.fake_qemu import HEAD, FakeDestination, FakeSource, connect, read_all
from tests.qemu.live import GatewayPair, Pools, held
from tests.qemu.multifd_packets import PAGE, init, packet
from tests.qemu.relays import closing_port
from tests.qemu.test_return_path import PONG, SHUT


def incoming(folder: Path) -> Path:
    return folder / "incoming"


def test_everything_arrives_where_it_belongs(tmp_path: Path, pools: Pools) -> None:
    destination = FakeDestination(incoming(tmp_path))
    with GatewayPair(pools, tmp_path, incoming(tmp_path)) as gateways:
        assert FakeSource(gateways.path, 2).migrate() == PONG + SHUT
        source_result, destination_result = gateways.results()
    destination.join()
    assert (source_result.error, destination_result.error) == (None, None)
    main, *channels = destination.received
    assert main == HEAD + b"the rest"
    for data in channels:
        number = data[24]
        assert data[:64] == init(channel=number)
        head, rest = data[64 : 64 + 1344], data[64 + 1344 :]
        (normal,) = struct.unpack_from(">16xI", head)
        assert normal == 2
        # The zero page is written out for a QEMU that knows no zero pages, behind the others.
        assert rest[: 2 * PAGE] == bytes([number + 1]) * PAGE + bytes(PAGE)
        assert struct.unpack_from(">8xI4xI", rest, 2 * PAGE) == (1, 0)
        assert len(rest) == 2 * PAGE + 1344
    assert source_result.counters.pages == destination_result.counters.pages == 4
    assert source_result.counters.syncs == 2


def test_zero_pages_stay_zero_pages_for_a_qemu_that_knows_them(tmp_path: Path, pools: Pools) -> None:
    destination = FakeDestination(incoming(tmp_path), 1)
    with GatewayPair(pools, tmp_path, incoming(tmp_path), channels=1, native_zero=True) as gateways:
        FakeSource(gateways.path, 1).migrate()
        assert gateways.errors() == ("", "")
    destination.join()
    packet_head = destination.received[1][64:]
    assert struct.unpack_from(">16xI12xI", packet_head) == (1, 1)


def test_twenty_migrations_leave_nothing_behind(tmp_path: Path, pools: Pools) -> None:
    before = held()
    for number in range(20):
        folder = tmp_path / str(number)
        folder.mkdir()
        # Every other one fails in the middle.
        confirms = number % 2 == 0
        destination = FakeDestination(incoming(folder), confirms=confirms)
        with GatewayPair(pools, folder, incoming(folder)) as gateways:
            FakeSource(gateways.path, 2).migrate()
            assert (gateways.errors() == ("", "")) is confirms
        destination.join()
    wait_until(lambda: all(now <= then for now, then in zip(held(), before, strict=True)), "nothing is left", 3)


@pytest.mark.parametrize(
    ("opening", "words"),
    [
        (init(channel=0), "opened multifd channel 0 twice"),
        (init(channel=2), "opened multifd channel 2 of 2: set multifd-channels alike"),
        (init(version=2), "magic 0x11223344 version 2"),
        (HEAD, "opened a second main channel"),
        (b"GET / HTTP/1.1", "starts with 47455420: not a QEMU migration"),
        (b"\x16\x03\x01\x02\x00", "unset tls-creds, kuaka encrypts between the hosts"),
    ],
    ids=["twice", "one too many", "version", "second main", "http", "tls"],
)
def test_connection_that_cannot_be_fails_both_sides(tmp_path: Path, pools: Pools, opening: bytes, words: str) -> None:
    destination = FakeDestination(incoming(tmp_path))
    with GatewayPair(pools, tmp_path, incoming(tmp_path)) as gateways:
        source = FakeSource(gateways.path, 1)
        with connect(gateways.path) as other:
            other.sendall(opening)
            for error in gateways.errors():
                assert words in error
            assert read_all(other) == b""
        assert read_all(source.channels[0]) == b""
        source.close()
    destination.join()


def test_packet_that_is_cut_short_is_named(tmp_path: Path, pools: Pools) -> None:
    destination = FakeDestination(incoming(tmp_path))
    with GatewayPair(pools, tmp_path, incoming(tmp_path), channels=1) as gateways:
        source = FakeSource(gateways.path, 1)
        source.channels[0].sendall(packet(normal=(0,)) + b"x")
        source.channels[0].close()
        assert "ended" in gateways.errors()[0]
        source.close()
    destination.join()


def test_missing_destination_qemu_is_named_on_both_sides(tmp_path: Path, pools: Pools) -> None:
    with GatewayPair(pools, tmp_path, incoming(tmp_path)) as gateways:
        source = FakeSource(gateways.path, 2)
        for error in gateways.errors():
            assert f"does not listen at {incoming(tmp_path)}: No such file or directory" in error
            assert "run migrate-incoming" in error
        source.close()


def test_missing_destination_gateway_is_named(tmp_path: Path, pools: Pools) -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port: int = unused.getsockname()[1]
    with GatewayPair(pools, tmp_path, incoming(tmp_path), relay=lambda _port: port) as gateways:
        source = FakeSource(gateways.path, 1)
        result = gateways.source.result(10)
        assert result is not None
        assert result.error == f"no kuaka gateway listens at 127.0.0.1:{port}: Connection refused"
        source.close()


def test_source_that_is_refused_is_cut_at_its_main_channel_and_its_channels_are_read_to_their_end(
    tmp_path: Path, pools: Pools
) -> None:
    with (
        closing_port() as port,
        GatewayPair(pools, tmp_path, incoming(tmp_path), channels=3, relay=lambda _port: port) as gateways,
    ):
        source = FakeSource(gateways.path, 2)
        assert read_all(source.main) == b""
        with connect(gateways.path) as late:
            late.sendall(init(channel=2))
            for channel in (*source.channels, late):
                # More than a socket holds: somebody takes it.
                channel.sendall(bytes(4 << 20))
            result = gateways.source.result(10)
            assert result is not None
            assert result.error
        source.close()


def test_strangers_at_the_port_keep_nobody_from_being_served(tmp_path: Path, pools: Pools) -> None:
    make_certificates(tmp_path / "pki", ["both=127.0.0.1"], 1)
    tls = TlsFiles(tmp_path / "pki/ca.pem", tmp_path / "pki/both.pem", tmp_path / "pki/both.key")
    destination = FakeDestination(incoming(tmp_path))
    with GatewayPair(pools, tmp_path, incoming(tmp_path), source_tls=tls, destination_tls=tls) as gateways:
        strangers = [socket.create_connection(("127.0.0.1", gateways.port)) for _ in range(4)]
        strangers[0].sendall(b"GET / HTTP/1.1\r\nHost: whoever-this-may-be\r\n\r\n")
        strangers[1].sendall(encode_preamble(Preamble(Role.MAIN, 0, bytes(16))))
        strangers[2].sendall(encode_preamble(Preamble(Role.MAIN, 0, bytes(16))) + bytes(500))
        FakeSource(gateways.path, 2).migrate()
        assert gateways.errors() == ("", "")
        for stranger in strangers:
            stranger.close()
    destination.join()


def test_second_migration_at_once_is_told_to_wait(tmp_path: Path, pools: Pools) -> None:
    destination = FakeDestination(incoming(tmp_path))
    with GatewayPair(pools, tmp_path, incoming(tmp_path)) as gateways:
        source = FakeSource(gateways.path, 2)
        wait_until(lambda: gateways.destination_busy, "the first is being served", 5)
        terms = replace(gateways.terms(), session="cd" * 16, address="127.0.0.1", port=gateways.port)
        with pytest.raises(LinkError, match="serves another migration, one at a time"):
            open_link(terms)
        source.migrate()
        assert gateways.errors() == ("", "")
    destination.join()


def test_link_of_a_session_that_is_over_is_refused(tmp_path: Path, pools: Pools) -> None:
    with GatewayPair(pools, tmp_path, incoming(tmp_path)) as gateways:
        terms = replace(gateways.terms(), session="cd" * 16, role=Role.CHANNEL, address="127.0.0.1", port=gateways.port)
        with pytest.raises(LinkError, match="the migration that this link belongs to has ended"):
            open_link(terms)


def test_reason_reaches_the_other_side_through_tls(tmp_path: Path, pools: Pools) -> None:
    make_certificates(tmp_path / "pki", ["both=127.0.0.1"], 1)
    tls = TlsFiles(tmp_path / "pki/ca.pem", tmp_path / "pki/both.pem", tmp_path / "pki/both.key")
    destination = FakeDestination(incoming(tmp_path))
    with GatewayPair(pools, tmp_path, incoming(tmp_path), source_tls=tls, destination_tls=tls) as gateways:
        source = FakeSource(gateways.path, 2)
        wait_until(lambda: len(destination.received) == 3, "all channels have come", 5)
        with connect(gateways.path) as other:
            other.sendall(init(channel=0))
            for error in gateways.errors():
                assert "opened multifd channel 0 twice" in error
        source.close()
    destination.join()
