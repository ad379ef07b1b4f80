"""Live migrations of real QEMUs through stand-alone gateways: all RAM is compared, page by page."""

from pathlib import Path

import pytest

from pipeline.wire.certs import make_certificates
from pipeline.wire.tls import TlsFiles
from tests.qemu.live import GatewayPair, Pools, vms

pytestmark = pytest.mark.qemu

VERSIONS = [("7.2", "7.2"), ("7.2", "10.0"), ("10.0", "10.0")]
CODECS = ["none", "lz4", "zstd", "deflate", "qat", "qat-raw"]


def migrate_and_compare(
    folder: Path,
    pools: Pools,
    versions: tuple[str, str],
    channels: int,
    codec: str,
    detection: str | None = None,
    tls: TlsFiles | None = None,
    hidden_limit_ms: int = 300,
) -> None:
    with vms(folder, *versions) as pair:
        pair.set_up(channels, source={"zero-page-detection": detection} if detection else {})
        with GatewayPair(
            pools,
            folder,
            pair.incoming,
            channels=channels,
            codec=codec,
            native_zero=pair.native_zero,
            source_tls=tls,
            destination_tls=tls,
            downtime_limit_ms=hidden_limit_ms,
        ) as gateways:
            pair.migrate(gateways.path)
            assert pair.wait_ended(30) == "completed", gateways.errors()
            assert gateways.errors() == ("", "")
            source, destination = gateways.results()
        result = pair.compare_running()
    assert (result.wrong_pages, result.first_wrong) == (0, ())
    assert source.channels == destination.channels == channels
    assert source.counters.pages == destination.counters.pages
    assert set(source.counters.codec_pages) <= {codec, "none"}
    # In a guest's 64 MiB, 40 % are zero: found by the source QEMU, or by us where it does not look.
    if detection == "none":
        assert source.counters.zero_pages > 1000


@pytest.mark.parametrize(
    ("versions", "channels", "codec", "detection"),
    [
        (("7.2", "7.2"), 1, "lz4", None),
        (("7.2", "7.2"), 8, "zstd", None),
        (("7.2", "10.0"), 2, "zstd", None),
        (("7.2", "10.0"), 8, "none", None),
        (("10.0", "10.0"), 1, "deflate", "multifd"),
        (("10.0", "10.0"), 2, "lz4", "none"),
        (("10.0", "10.0"), 8, "zstd", "legacy"),
    ],
    ids=str,
)
def test_all_ram_arrives_while_the_guest_dirties(
    tmp_path: Path, pools: Pools, versions: tuple[str, str], channels: int, codec: str, detection: str | None
) -> None:
    migrate_and_compare(tmp_path, pools, versions, channels, codec, detection)


def test_all_ram_arrives_through_tls(tmp_path: Path, pools: Pools) -> None:
    make_certificates(tmp_path / "pki", ["both=127.0.0.1"], 1)
    tls = TlsFiles(tmp_path / "pki/ca.pem", tmp_path / "pki/both.pem", tmp_path / "pki/both.key")
    migrate_and_compare(tmp_path, pools, ("10.0", "10.0"), 2, "zstd", tls=tls)


def test_sixteen_channels_with_the_smallest_window_do_not_wait_for_each_other(tmp_path: Path, pools: Pools) -> None:
    migrate_and_compare(tmp_path, pools, ("10.0", "10.0"), 16, "lz4", hidden_limit_ms=1)


@pytest.mark.matrix
@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("channels", [1, 2, 4, 8, 16])
@pytest.mark.parametrize(
    ("versions", "detection"),
    [
        *((versions, None) for versions in VERSIONS[:2]),
        *((VERSIONS[2], detection) for detection in ("legacy", "multifd", "none")),
    ],
    ids=str,
)
def test_matrix(
    tmp_path: Path, pools: Pools, versions: tuple[str, str], detection: str | None, channels: int, codec: str
) -> None:
    migrate_and_compare(tmp_path, pools, versions, channels, codec, detection)
