"""The spec of a fleet: which virtual machines move from where to where, and how. Models only; `spec_file` reads one.

    apiVersion: kuaka/v1
    kind: Fleet
    metadata: {name: drain-rack-1}
    spec:
      codec: zstd                       # none, lz4, zstd, deflate, qat; level: null is the codec's own default
      channels: 4
      downtimeLimitMs: 300
      bandwidthPerMigration: 50MB       # wire bytes per second of each migration; null is no cap
      tls: {ca: /etc/kuaka/ca.pem, certificate: /etc/kuaka/host.pem, key: /etc/kuaka/host.key}
      hosts:
        - {name: a, node: 10.0.0.1, address: 10.1.0.1}
        - {name: b, node: 10.0.0.2, address: 10.1.0.2}
      virtualMachines:
        - name: db-1
          kind: qemu source: {host: a, qmp: /run/vm/db-1.qmp} destination: {host: b, qmp: /run/vm/db-1.qmp, prepare:
          /etc/kuaka/start-destination, cleanup: [rm, -f, /run/x]}
        - name: suspended-7
          kind: image
          source: {host: a, path: /var/lib/images/7.ram}
          destination: {host: b, path: /var/lib/images/7.ram}

The rules: an unknown field is an error, nothing is coerced from another type, every path is absolute (it is read on
another host), and a virtual machine's own setting wins over the fleet's. Whatever spans several fields is checked in
`spec_checks`.
"""

import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic.alias_generators import to_camel

from pipeline.byte_amounts import parse_rate
from pipeline.codecs.codec import CodecId, codec_names, parse_codec
from pipeline.wire.handshake import MAX_CHANNELS
from pipeline.wire.tls import TlsFiles

MAX_HOSTS = 1_000
MAX_VIRTUAL_MACHINES = 10_000
#: QEMU's own bound of downtime-limit.
MAX_DOWNTIME_LIMIT_MS = 2_000_000
#: A full packet takes five seconds then; slower, links would be taken for stalled.
MIN_BANDWIDTH_BYTES_S = 100_000
MAX_BANDWIDTH_BYTES_S = 10**12
MAX_WEIGHT = 1_000
_MAX_COMMAND_CHARACTERS = 64 << 10

#: A command on the destination host: a list of words run as they are, or one string for /bin/sh -c.
Command = tuple[str, ...] | str

Item = TypeVar("Item")

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_DNS_NAME = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]{0,251}[A-Za-z0-9])?")


def _check_name(text: str) -> str:
    if not _NAME.fullmatch(text):
        raise ValueError(
            f"{text[:80]!r} is no name: use at most 63 letters, digits, '.', '_' and '-', the first not a sign"
        )
    return text


def _check_address(text: str) -> str:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        if not _DNS_NAME.fullmatch(text):
            raise ValueError(
                f"{text[:80]!r} is no address: give an IP address or a host name, without a port"
            ) from None
    return text


def _check_path(path: Path) -> Path:
    if not path.is_absolute() or not str(path).isprintable():
        raise ValueError(f"{str(path)[:80]!r} is no absolute path: it is used on the host named, begin it with '/'")
    return path


def _check_codec(text: str) -> str:
    if text not in codec_names():
        raise ValueError(f"codec {text[:80]!r} is unknown: choose one of {', '.join(codec_names())}")
    return text


def _check_command(value: Any) -> Any:
    words = (value,) if isinstance(value, str) else value
    if not isinstance(words, list | tuple) or not words or not all(isinstance(word, str) for word in words):
        raise ValueError("is no command: give a list of words, each a string, or one string for /bin/sh -c")
    if not words[0].strip() or any("\0" in word for word in words) or sum(map(len, words)) > _MAX_COMMAND_CHARACTERS:
        raise ValueError("is no command that could be run: it is empty, too long or has a NUL in it")
    return value if isinstance(value, str) else tuple(words)


def _read_rate(value: Any) -> Any:
    return parse_rate(value) if isinstance(value, str) else value


def _check_count(most: int) -> Callable[[tuple[Item, ...]], tuple[Item, ...]]:
    # min_length would be a second problem of a list whose items are all wrong: it counts those that are left.
    def check(items: tuple[Item, ...]) -> tuple[Item, ...]:
        if not 1 <= len(items) <= most:
            raise ValueError(f"has {len(items)} items: give at least one and at most {most}")
        return items

    return check


Name = Annotated[str, AfterValidator(_check_name)]
Address = Annotated[str, AfterValidator(_check_address)]
# Strictness would ask for a Path object, which YAML does not have; nothing but a string becomes one.
AbsolutePath = Annotated[Path, Field(strict=False), AfterValidator(_check_path)]
CodecName = Annotated[str, AfterValidator(_check_codec), Field(json_schema_extra={"enum": list(codec_names())})]
Channels = Annotated[int, Field(ge=1, le=MAX_CHANNELS)]
# Given as 50MB or in bytes per second.
Bandwidth = Annotated[int, Field(ge=MIN_BANDWIDTH_BYTES_S, le=MAX_BANDWIDTH_BYTES_S), BeforeValidator(_read_rate)]
Weight = Annotated[int, Field(ge=1, le=MAX_WEIGHT)]
DowntimeLimitMs = Annotated[int, Field(ge=1, le=MAX_DOWNTIME_LIMIT_MS)]
# Checked before it is typed, so that a bad command is one problem and not one per member of the union.
CheckedCommand = Annotated[Command, BeforeValidator(_check_command)]


class Model(BaseModel):
    """What all parts of a spec keep."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        allow_inf_nan=False,
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
    )


class TlsSpec(Model):
    """PEM files, as paths on the host that uses them."""

    ca: AbsolutePath
    certificate: AbsolutePath
    key: AbsolutePath

    def files(self) -> TlsFiles:
        """The same, as links take it."""
        return TlsFiles(self.ca, self.certificate, self.key)


class HostSpec(Model):
    """A machine that virtual machines move from or to."""

    name: Name
    #: Ray node id or address; None is the machine where the command runs.
    node: Annotated[str, Field(min_length=1, max_length=255)] | None = None
    #: Where page data arrives; with TLS, the host's certificate is for it.
    address: Address = "127.0.0.1"
    #: Instead of the fleet's, where files have other names on this host.
    tls: TlsSpec | None = None
    #: A file that declares accelerators to be emulated on this host, which has none or is not to use its own.
    emulated_devices: AbsolutePath | None = None


class QemuSource(Model):
    """A running QEMU."""

    host: Name
    qmp: AbsolutePath


class QemuDestination(Model):
    """Where a fresh QEMU, started with -S and -incoming defer, answers at `qmp` once `prepare` has ended."""

    host: Name
    qmp: AbsolutePath
    prepare: CheckedCommand | None = None
    cleanup: CheckedCommand | None = None


class ImageSource(Model):
    """A memory image that nobody writes to."""

    host: Name
    path: AbsolutePath


class ImageDestination(Model):
    """Where the image appears once it is verified."""

    host: Name
    path: AbsolutePath
    #: An existing file of the same file system that is written into and becomes the image.
    reuse: AbsolutePath | None = None
    overwrite: bool = False


class _VirtualMachine(Model):
    name: Name
    #: None where the fleet's setting holds.
    channels: Channels | None = None
    codec: CodecName | None = None
    level: int | None = None
    #: Its share of the accelerators, against the other machines of the fleet.
    weight: Weight = 1


class QemuVm(_VirtualMachine):
    """A live guest."""

    kind: Literal["qemu"]
    source: QemuSource
    destination: QemuDestination
    downtime_limit_ms: DowntimeLimitMs | None = None
    #: QEMU's own scan (its default depends on its version); zero pages are found by kuaka in any case.
    zero_page_detection: Literal["none", "legacy", "multifd"] | None = None
    #: The user that both QEMUs run as, where that is not ours.
    socket_user: Annotated[str, Field(min_length=1, max_length=255)] | None = None


class ImageVm(_VirtualMachine):
    """A suspended guest's memory, or any file of pages."""

    kind: Literal["image"]
    source: ImageSource
    destination: ImageDestination


VirtualMachine = QemuVm | ImageVm


class TransferDefaults(Model):
    """What holds for every virtual machine that does not say otherwise."""

    codec: CodecName = "zstd"
    level: int | None = None
    channels: Channels = 4
    downtime_limit_ms: DowntimeLimitMs = 300
    #: Wire bytes per second that one migration may send, its channels together; None is no cap.
    bandwidth_per_migration: Bandwidth | None = None
    #: For one migration, from its start; None is no limit.
    timeout_seconds: Annotated[float, Field(gt=0)] | None = None
    tls: TlsSpec | None = None
    #: Links without TLS may leave the machine.
    allow_plain: bool = False


class FleetSpec(TransferDefaults):
    """Hosts, machines and how they move."""

    hosts: Annotated[
        tuple[HostSpec, ...],
        Field(strict=False, json_schema_extra={"minItems": 1, "maxItems": MAX_HOSTS}),
        AfterValidator(_check_count(MAX_HOSTS)),
    ]
    virtual_machines: Annotated[
        tuple[Annotated[VirtualMachine, Field(discriminator="kind")], ...],
        Field(strict=False, json_schema_extra={"minItems": 1, "maxItems": MAX_VIRTUAL_MACHINES}),
        AfterValidator(_check_count(MAX_VIRTUAL_MACHINES)),
    ]


class Metadata(Model):
    """What the fleet is called."""

    name: Name


class Spec(Model):
    """A spec file. One that `spec_file.load_spec` returned has passed every check that needs no host."""

    api_version: Literal["kuaka/v1"]
    kind: Literal["Fleet"]
    metadata: Metadata
    spec: FleetSpec

    def host(self, name: str) -> HostSpec:
        """The host of that name; KeyError when there is none, which a checked spec excludes."""
        for host in self.spec.hosts:
            if host.name == name:
                return host
        raise KeyError(name)


@dataclass(frozen=True, slots=True)
class VmSettings:
    """One virtual machine's settings with the fleet's defaults filled in."""

    codec: CodecId
    level: int | None
    channels: int
    downtime_limit_ms: int
    timeout_s: float | None
    bandwidth_bytes_s: int | None
    source: HostSpec
    source_tls: TlsFiles | None
    destination: HostSpec
    destination_tls: TlsFiles | None
    allow_plain: bool
    weight: int


def resolve(spec: Spec, vm: VirtualMachine) -> VmSettings:
    """The settings that hold for `vm`, one of the spec's machines."""
    defaults = spec.spec
    source, destination = spec.host(vm.source.host), spec.host(vm.destination.host)
    downtime_limit_ms = vm.downtime_limit_ms if isinstance(vm, QemuVm) else None
    return VmSettings(
        parse_codec(codec_of(defaults, vm)),
        level_of(defaults, vm),
        vm.channels or defaults.channels,
        downtime_limit_ms or defaults.downtime_limit_ms,
        defaults.timeout_seconds,
        defaults.bandwidth_per_migration,
        source,
        tls_of(defaults, source),
        destination,
        tls_of(defaults, destination),
        defaults.allow_plain,
        vm.weight,
    )


def codec_of(defaults: TransferDefaults, vm: VirtualMachine) -> str:
    """The name of the codec that holds for `vm`."""
    return vm.codec or defaults.codec


def level_of(defaults: TransferDefaults, vm: VirtualMachine) -> int | None:
    """The level that holds for `vm`; the fleet's is of the fleet's codec and says nothing about another."""
    if vm.level is not None or codec_of(defaults, vm) != defaults.codec:
        return vm.level
    return defaults.level


def tls_of(defaults: TransferDefaults, host: HostSpec) -> TlsFiles | None:
    """The TLS files that hold at `host`."""
    tls = host.tls or defaults.tls
    return tls.files() if tls is not None else None
