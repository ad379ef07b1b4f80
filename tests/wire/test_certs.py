"""What `kuaka certs` leaves on disk, and what it refuses to touch."""

import ipaddress
import os
import stat
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID
from cryptography.x509.verification import PolicyBuilder, Store

from pipeline.errors import UsageError
from pipeline.wire.certs import CA_DAYS, make_certificates

NOW = datetime(2026, 3, 1, tzinfo=UTC)


def certificate(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def make(directory: Path, *hosts: str, days: int = 30, overwrite: bool = False) -> list[Path]:
    return make_certificates(directory, hosts, days, overwrite=overwrite, clock=lambda: NOW)


def alternative_names(path: Path) -> tuple[list[str], list[str]]:
    names = certificate(path).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return names.get_values_for_type(x509.DNSName), [str(ip) for ip in names.get_values_for_type(x509.IPAddress)]


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_files_of_the_authority_come_first_and_then_each_hosts(tmp_path: Path) -> None:
    written = make(tmp_path / "certs", "a", "b")
    assert [path.name for path in written] == ["ca.pem", "ca.key", "a.pem", "a.key", "b.pem", "b.key"]
    assert sorted(path.name for path in (tmp_path / "certs").iterdir()) == sorted(path.name for path in written)


@pytest.mark.parametrize("umask", [0o000, 0o022])
def test_keys_are_created_0600_whatever_the_umask(tmp_path: Path, umask: int, monkeypatch: pytest.MonkeyPatch) -> None:
    created: dict[str, int] = {}
    really_open: Callable[..., int] = os.open

    def watched_open(path: Path, flags: int, mode: int = 0o777) -> int:
        created[Path(path).name] = mode
        return really_open(path, flags, mode)

    monkeypatch.setattr(os, "open", watched_open)
    before = os.umask(umask)
    try:
        make(tmp_path, "a")
    finally:
        os.umask(before)
    assert mode(tmp_path / "ca.key") == mode(tmp_path / "a.key") == 0o600
    assert [made for name, made in created.items() if ".key." in name] == [0o600, 0o600]


def test_keys_are_p256_and_belong_to_their_certificates(tmp_path: Path) -> None:
    make(tmp_path, "a")
    for name in ("ca", "a"):
        key = load_pem_private_key((tmp_path / f"{name}.key").read_bytes(), password=None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        assert isinstance(key.curve, ec.SECP256R1)
        assert key.public_key() == certificate(tmp_path / f"{name}.pem").public_key()


@pytest.mark.parametrize(
    ("host", "file_name", "names", "addresses"),
    [
        ("rack1-host.example", "rack1-host.example", ["rack1-host.example"], []),
        ("127.0.0.1", "127.0.0.1", [], ["127.0.0.1"]),
        ("::1", "::1", [], ["::1"]),
        ("a=10.0.0.1,10.0.0.2,fd00::1", "a", ["a"], ["10.0.0.1", "10.0.0.2", "fd00::1"]),
        ("a=localhost,a", "a", ["a", "localhost"], []),
    ],
)
def test_a_host_is_valid_for_its_names_and_addresses(
    tmp_path: Path, host: str, file_name: str, names: list[str], addresses: list[str]
) -> None:
    make(tmp_path, host)
    assert alternative_names(tmp_path / f"{file_name}.pem") == (names, addresses)


def test_certificates_stand_up_to_a_strict_verifier_in_both_roles(tmp_path: Path) -> None:
    make(tmp_path, "a.example=10.0.0.1")
    host, authority = certificate(tmp_path / "a.example.pem"), certificate(tmp_path / "ca.pem")
    usages = host.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert set(usages) == {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}
    builder = PolicyBuilder().store(Store([authority])).time(NOW)
    builder.build_server_verifier(x509.DNSName("a.example")).verify(host, [])
    builder.build_server_verifier(x509.IPAddress(ipaddress.ip_address("10.0.0.1"))).verify(host, [])
    builder.build_client_verifier().verify(host, [])


def test_a_host_is_added_to_an_existing_authority(tmp_path: Path) -> None:
    make(tmp_path, "a")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    assert [path.name for path in make(tmp_path, "b")] == ["b.pem", "b.key"]
    assert {path: path.read_bytes() for path in before} == before
    certificate(tmp_path / "b.pem").verify_directly_issued_by(certificate(tmp_path / "ca.pem"))


def test_a_host_that_exists_is_left_alone_and_nothing_else_is_written(tmp_path: Path) -> None:
    make(tmp_path, "a")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(UsageError, match=r"a\.key exists and was left as it is.*--overwrite") as caught:
        make(tmp_path, "b", "a")
    assert "\n" not in str(caught.value)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_overwrite_renews_the_host_and_keeps_the_authority(tmp_path: Path) -> None:
    make(tmp_path, "a")
    authority, host = (tmp_path / "ca.key").read_bytes(), (tmp_path / "a.key").read_bytes()
    make(tmp_path, "a", overwrite=True)
    assert (tmp_path / "ca.key").read_bytes() == authority
    assert (tmp_path / "a.key").read_bytes() != host
    assert mode(tmp_path / "a.key") == 0o600


def test_no_certificate_outlives_its_authority(tmp_path: Path) -> None:
    make(tmp_path, "short", days=7)
    make(tmp_path, "long", days=10**8)
    assert certificate(tmp_path / "short.pem").not_valid_after_utc == NOW + timedelta(days=7)
    assert certificate(tmp_path / "long.pem").not_valid_after_utc == NOW + timedelta(days=CA_DAYS)


@pytest.mark.parametrize(
    "host",
    [
        "",
        "=10.0.0.1",
        "a=",
        "a=10.0.0.1,",
        "a b",
        "../a",
        "a/b",
        "*.example",
        "-a",
        "a.",
        "ä",
        "x" * 65,
        "10.0.0.256=b/c",
    ],
)
def test_a_host_that_is_no_name_is_refused_in_one_line(tmp_path: Path, host: str) -> None:
    with pytest.raises(UsageError, match="neither a host name") as caught:
        make(tmp_path, host)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("hosts", "message"),
    [((), "no host named"), (("a", "A"), "given twice"), (("ca",), "authority's own")],
)
def test_host_lists_that_cannot_be_are_refused(tmp_path: Path, hosts: tuple[str, ...], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make(tmp_path, *hosts)


def test_zero_days_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="0 days"):
        make(tmp_path, "a", days=0)


@pytest.mark.parametrize("missing", ["ca.pem", "ca.key"])
def test_half_an_authority_is_refused(tmp_path: Path, missing: str) -> None:
    make(tmp_path, "a")
    (tmp_path / missing).unlink()
    with pytest.raises(UsageError, match=f"{missing} is not: restore it"):
        make(tmp_path, "b")


def test_an_expired_authority_is_refused(tmp_path: Path) -> None:
    make(tmp_path, "a")
    with pytest.raises(UsageError, match="expired on 2036-02-27"):
        make_certificates(tmp_path, ["b"], 1, clock=lambda: NOW + timedelta(days=CA_DAYS))


def test_an_authority_with_a_foreign_key_is_refused(tmp_path: Path) -> None:
    make(tmp_path / "one", "a")
    make(tmp_path / "two", "a")
    (tmp_path / "two" / "ca.key").replace(tmp_path / "one" / "ca.key")
    with pytest.raises(UsageError, match=r"not the key of ca\.pem"):
        make(tmp_path / "one", "b")


def test_an_unreadable_authority_is_refused(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("nothing")
    (tmp_path / "ca.key").write_text("nothing")
    with pytest.raises(UsageError, match="PEM form"):
        make(tmp_path, "b")


def test_a_directory_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"cannot write certificates in .*file/certs: Not a directory"):
        make(tmp_path / "file" / "certs", "a")
