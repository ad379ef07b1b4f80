"""A test certificate authority and host certificates for links, as `kuaka certs` makes them.

The rule: a private key file is created with mode 0600 and never widened, and no file that exists is replaced unless
asked. The authority's own files are never replaced at all: hosts are added to it later. Files appear whole or not at
all, each key before its certificate. Real fleets bring certificates of their own authority; nothing else in kuaka
knows how these were made.
"""

import contextlib
import ipaddress
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from pipeline.errors import UsageError

CA_NAME = "ca"
CA_DAYS = 3650
#: A host certificate may be used at once by machines whose clock is this far behind.
_CLOCK_SKEW = timedelta(hours=1)
#: X.509 bounds a common name; a DNS name may be longer, but no host of ours is.
_MAX_NAME_CHARACTERS = 64
_LABEL = r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_DNS_NAME = re.compile(rf"{_LABEL}(\.{_LABEL})*")


@dataclass(frozen=True, slots=True)
class _Host:
    """One `--host`: the name of its files, and every name and address its certificate is valid for."""

    name: str
    subjects: tuple[x509.GeneralName, ...]


@dataclass(frozen=True, slots=True)
class _Authority:
    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate


def make_certificates(
    directory: Path,
    hosts: Sequence[str],
    days: int,
    *,
    overwrite: bool = False,
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> list[Path]:
    """Make `<host>.pem` and `<host>.key` per host, and first `ca.pem` and `ca.key` unless they exist.

    A host is `name`, an address, or `name=address[,address...]`. `overwrite` replaces files of these hosts, never the
    authority's. Returns the files written, in order. Raises `UsageError` in one line; where a file is in the way,
    nothing has been written.
    """
    if days < 1:
        raise UsageError(f"certificates cannot be valid for {days} days: pass --days 1 or more")
    parsed = _parse_hosts(hosts)
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not overwrite:
            _check_free([directory / f"{host.name}{suffix}" for host in parsed for suffix in (".key", ".pem")])
        now = clock()
        authority, written = _authority(directory, now)
        for host in parsed:
            key = ec.generate_private_key(ec.SECP256R1())
            certificate = _host_certificate(host, key, authority, days, now)
            written += _write_pair(directory, host.name, key, certificate, overwrite)
    except OSError as error:
        raise UsageError(f"cannot write certificates in {directory}: {error.strerror or error}") from None
    return written


def _parse_hosts(hosts: Sequence[str]) -> list[_Host]:
    if not hosts:
        raise UsageError("no host named: pass --host NAME, or --host NAME=ADDRESS,... at least once")
    parsed = [_parse_host(text) for text in hosts]
    seen = {CA_NAME}
    for host in parsed:
        # Case folded: the names are file names, and DNS names.
        if host.name.lower() in seen:
            taken = "is the authority's own" if host.name.lower() == CA_NAME else "was given twice"
            raise UsageError(f"host name {host.name} {taken}: choose another name")
        seen.add(host.name.lower())
    return parsed


def _parse_host(text: str) -> _Host:
    name, equals, rest = text.partition("=")
    subjects = [name, *(rest.split(",") if equals else ())]
    return _Host(name, tuple(dict.fromkeys(_subject(subject, text) for subject in subjects)))


def _subject(subject: str, text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(subject))
    except ValueError:
        if len(subject) > _MAX_NAME_CHARACTERS or not _DNS_NAME.fullmatch(subject):
            raise UsageError(
                f"host {text!r}: {subject!r} is neither a host name (letters, digits, - and .) nor an IP address:"
                " pass NAME, ADDRESS or NAME=ADDRESS,ADDRESS"
            ) from None
        return x509.DNSName(subject)


def _check_free(paths: Sequence[Path]) -> None:
    for path in paths:
        if os.path.lexists(path):
            raise UsageError(
                f"{path} exists and was left as it is: name other hosts, or pass --overwrite to renew this one"
            )


def _authority(directory: Path, now: datetime) -> tuple[_Authority, list[Path]]:
    paths = directory / f"{CA_NAME}.pem", directory / f"{CA_NAME}.key"
    present = [path for path in paths if os.path.lexists(path)]
    if len(present) == 1:
        missing = next(path for path in paths if path not in present)
        raise UsageError(f"{present[0]} is there but {missing} is not: restore it, or choose another directory")
    if present:
        return _load_authority(*paths, now), []
    key = ec.generate_private_key(ec.SECP256R1())
    authority = _Authority(key, _authority_certificate(key, now))
    return authority, _write_pair(directory, CA_NAME, key, authority.certificate, overwrite=False)


def _load_authority(certificate_path: Path, key_path: Path, now: datetime) -> _Authority:
    try:
        certificate = x509.load_pem_x509_certificate(certificate_path.read_bytes())
        key = load_pem_private_key(key_path.read_bytes(), password=None)
    except (ValueError, TypeError):
        # TypeError is how an encrypted key says that it wants a password.
        raise UsageError(
            f"{certificate_path} and {key_path.name} are not a certificate and an unencrypted key in PEM form:"
            " choose another directory"
        ) from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
        raise UsageError(f"{key_path} is not the key of {certificate_path.name}: choose another directory")
    if certificate.not_valid_after_utc <= now:
        raise UsageError(
            f"{certificate_path} expired on {certificate.not_valid_after_utc:%Y-%m-%d}: choose another directory"
        )
    return _Authority(key, certificate)


def _authority_certificate(key: ec.EllipticCurvePrivateKey, now: datetime) -> x509.Certificate:
    # The serial number is in the name: two authorities never look alike, so a peer of another one is refused as such.
    serial = x509.random_serial_number()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"kuaka test CA {serial:x}"[:_MAX_NAME_CHARACTERS])])
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(serial)
        .not_valid_before(now - _CLOCK_SKEW)
        .not_valid_after(now + timedelta(days=CA_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )


def _host_certificate(
    host: _Host, key: ec.EllipticCurvePrivateKey, authority: _Authority, days: int, now: datetime
) -> x509.Certificate:
    # A certificate that outlives its authority would only look valid. Capped before the sum: a date has an end, too.
    left = authority.certificate.not_valid_after_utc - now
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host.name)]))
        .issuer_name(authority.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCK_SKEW)
        .not_valid_after(now + (timedelta(days=days) if days <= left.days else left))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(signs_certificates=False), critical=True)
        .add_extension(x509.SubjectAlternativeName(host.subjects), critical=False)
        # Either end of a link may be the one that connects.
        .add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key()), critical=False)
        .sign(authority.key, hashes.SHA256())
    )


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _write_pair(
    directory: Path, name: str, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate, overwrite: bool
) -> list[Path]:
    key_path, certificate_path = directory / f"{name}.key", directory / f"{name}.pem"
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    _write(key_path, private, 0o600, overwrite)
    _write(certificate_path, certificate.public_bytes(Encoding.PEM), 0o644, overwrite)
    return [certificate_path, key_path]


def _write(path: Path, data: bytes, mode: int, overwrite: bool) -> None:
    """Write a file that appears whole, with its mode from the first moment."""
    making = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(making, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if overwrite:
            making.replace(path)
        else:
            # Unlike a rename, a link fails where the name was taken meanwhile.
            path.hardlink_to(making)
    except FileExistsError:
        raise UsageError(f"{path} was made by someone else meanwhile: look who, and run the command again") from None
    finally:
        with contextlib.suppress(FileNotFoundError):
            making.unlink()
