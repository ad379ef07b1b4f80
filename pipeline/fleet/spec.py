"""The spec of a fleet: which virtual machines move from where to where, and how. Models only; `spec_file` reads one.

    apiVersion: kuaka/v1
    kind: Fleet
    metadata: {name: drain-rack-1}
    spec:
      codec: zstd                       # none, lz4, zstd, deflate, qat, qat-raw; level: null is the codec's own
      channels: 4
      downtimeLimitMs: 300
      bandwidthPerMigration: 50MB       # wire bytes per second of each migration; null is no cap
      tls: {ca: /etc/kuaka/ca.pem, certificate: /etc/kuaka/host.pem, key: /etc/kuaka/host.key}
      hosts:
        - {name: a, node: 10.0.0.1, address: 10.1.0.1}
        - {name: b, node: 10.0.0.2, address: 10.1.0.2}
      virtualMachines:
        - name: db-1
          kind: qemu
          labels: {tier: db}
          source: {host: a, qmp: /run/vm/db-1.qmp}
          destination: {host: b, qmp: /run/vm/db-1.qmp, prepare: /etc/kuaka/start, cleanup: [rm, -f, /run/x]}
        - name: suspended-7
          kind: image
          source: {host: a, path: /var/lib/images/7.ram}
          destination: {host: b, path: /var/lib/images/7.ram}

The rules: those of `spec_fields` for each field, those of `policies` for which setting holds. Whatever spans several
fields is checked in `spec_checks`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Literal, TypeVar

from pydantic import AfterValidator, Field

from pipeline.codecs.codec import CodecId, parse_codec
from pipeline.fleet.plan.limits import PARALLEL_INBOUND_PER_HOST, PARALLEL_OUTBOUND_PER_HOST, PARALLEL_PER_CLUSTER
from pipeline.fleet.policies import (
    DEFAULT_COMPLETION_TIMEOUT_PER_GIB_S,
    DEFAULT_PROGRESS_TIMEOUT_S,
    AcceleratorName,
    AcceleratorsSpec,
    MigrationSettings,
    Policies,
    PolicySpec,
    Priority,
    PriorityValue,
    RetrySpec,
    policy_of,
)
from pipeline.fleet.spec_fields import (
    MAX_HOSTS,
    MAX_VIRTUAL_MACHINES,
    AbsolutePath,
    Address,
    Amount,
    Bandwidth,
    Channels,
    CheckedCommand,
    CodecName,
    DowntimeLimitMs,
    Labels,
    Model,
    Name,
    Parallel,
    Rate,
    Seconds,
    Weight,
    check_count,
)
from pipeline.wire.tls import TlsFiles

DEFAULT_DOWNTIME_LIMIT_MS = 300

_RETRY, _ACCELERATORS = RetrySpec(), AcceleratorsSpec()

Value = TypeVar("Value")


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
    #: Whether migrations use the accelerators that this host itself has, where kuaka may open them.
    own_accelerators: bool = True
    #: Wire bytes per second of its link, in each direction; None: not known, no limit.
    link_capacity: Bandwidth | None = None
    #: Instead of the fleet's, migrations that may leave and arrive at the same time.
    parallel_outbound_migrations: Parallel | None = None
    parallel_inbound_migrations: Parallel | None = None
    #: Migrations that may use its accelerators at the same time, by kind.
    accelerator_migrations: Mapping[AcceleratorName, Parallel] = Field(default_factory=dict)


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


class DiskSpec(Model):
    """A disk of a guest, as far as a migration is concerned."""

    #: A path or what QEMU calls it: its file, its node or its device.
    name: Annotated[str, Field(min_length=1, max_length=4096)]
    #: The destination reaches the same disk.
    shared: bool = False
    read_only: bool = False


class _VirtualMachine(Model):
    name: Name
    labels: Labels = Field(default_factory=dict)
    #: How much memory it has, where the plan cannot see for itself.
    memory: Amount | None = None
    priority: PriorityValue | None = None
    deadline_seconds: Seconds | None = None
    #: None where the fleet's setting holds.
    channels: Channels | None = None
    codec: CodecName | None = None
    level: int | None = None
    #: Its share of the accelerators, against the other machines of the fleet.
    weight: Weight | None = None


class QemuVm(_VirtualMachine):
    """A live guest."""

    kind: Literal["qemu"]
    source: QemuSource
    destination: QemuDestination
    #: Two names for one thing: the second is KubeVirt's.
    downtime_limit_ms: DowntimeLimitMs | None = None
    max_downtime_ms: DowntimeLimitMs | None = None
    #: Bytes that the guest writes to per second, where it is known; for the plan.
    dirty_rate: Rate | None = None
    #: All its disks are reached by the destination, too.
    shared_storage: bool = False
    #: Its disks, where not all are shared.
    disks: Annotated[tuple[DiskSpec, ...], Field(strict=False)] = ()
    #: QEMU's own scan (its default depends on its version); zero pages are found by kuaka in any case.
    zero_page_detection: Literal["none", "legacy", "multifd"] | None = None
    #: The user that both QEMUs run as, where that is not ours.
    socket_user: Annotated[str, Field(min_length=1, max_length=255)] | None = None

    @property
    def shared_disks(self) -> frozenset[str] | None:
        """Names of the disks that the destination reaches; None: whatever it has."""
        return None if self.shared_storage else frozenset(disk.name for disk in self.disks if disk.shared)


class ImageVm(_VirtualMachine):
    """A suspended guest's memory, or any file of pages."""

    kind: Literal["image"]
    source: ImageSource
    destination: ImageDestination


VirtualMachine = QemuVm | ImageVm


class TransferDefaults(MigrationSettings):
    """What holds for every virtual machine whose policy does not say otherwise."""

    codec: CodecName = "zstd"
    level: int | None = None
    channels: Channels = 4
    #: The older name of `max_downtime_ms`.
    downtime_limit_ms: DowntimeLimitMs | None = None
    tls: TlsSpec | None = None
    #: Links without TLS may leave the machine.
    allow_plain: bool = False
    #: The fleet's share of what it shares with other fleets of the same priority.
    weight: Weight = 1
    parallel_migrations_per_cluster: Parallel = PARALLEL_PER_CLUSTER
    parallel_outbound_migrations_per_node: Parallel = PARALLEL_OUTBOUND_PER_HOST
    parallel_inbound_migrations_per_node: Parallel = PARALLEL_INBOUND_PER_HOST


class FleetSpec(TransferDefaults):
    """Hosts, machines and how they move."""

    hosts: Annotated[
        tuple[HostSpec, ...],
        Field(strict=False, json_schema_extra={"minItems": 1, "maxItems": MAX_HOSTS}),
        AfterValidator(check_count(MAX_HOSTS)),
    ]
    policies: Policies = ()
    virtual_machines: Annotated[
        tuple[Annotated[VirtualMachine, Field(discriminator="kind")], ...],
        Field(strict=False, json_schema_extra={"minItems": 1, "maxItems": MAX_VIRTUAL_MACHINES}),
        AfterValidator(check_count(MAX_VIRTUAL_MACHINES)),
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
        return self._hosts_by_name[name]

    @cached_property
    def _hosts_by_name(self) -> Mapping[str, HostSpec]:
        return {host.name: host for host in self.spec.hosts}


@dataclass(frozen=True, slots=True)
class VmSettings:
    """One virtual machine's settings, its policy's and the fleet's filled in."""

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
    #: The name of the policy that holds, if any does.
    policy: str | None
    priority: int
    #: From the fleet's submission.
    deadline_s: float | None
    completion_timeout_s_per_gib: int
    progress_timeout_s: int
    allow_auto_converge: bool
    retry: RetrySpec
    accelerators: AcceleratorsSpec


def resolve(spec: Spec, vm: VirtualMachine) -> VmSettings:
    """The settings that hold for `vm`, one of the spec's machines."""
    fleet = spec.spec
    source, destination = spec.host(vm.source.host), spec.host(vm.destination.host)
    policy = policy_of(vm.labels, fleet.policies)
    general: tuple[MigrationSettings, ...] = (fleet,) if policy is None else (policy, fleet)
    return VmSettings(
        parse_codec(codec_of(fleet, policy, vm)),
        level_of(fleet, policy, vm),
        vm.channels or (policy and policy.channels) or fleet.channels,
        _downtime_limit_ms(fleet, policy, vm),
        _first([layer.timeout_seconds for layer in general]),
        _first([layer.bandwidth_per_migration for layer in general]),
        source,
        tls_of(fleet, source),
        destination,
        tls_of(fleet, destination),
        fleet.allow_plain,
        vm.weight or (policy and policy.weight) or 1,
        policy.name if policy else None,
        _first([vm.priority, *(layer.priority for layer in general)]) or int(Priority.DEFAULT),
        _first([vm.deadline_seconds, *(layer.deadline_seconds for layer in general)]),
        _first([layer.completion_timeout_per_gib for layer in general]) or DEFAULT_COMPLETION_TIMEOUT_PER_GIB_S,
        _first([layer.progress_timeout for layer in general]) or DEFAULT_PROGRESS_TIMEOUT_S,
        _first([layer.allow_auto_converge for layer in general]) or False,
        _first([layer.retry for layer in general]) or _RETRY,
        _first([layer.accelerators for layer in general]) or _ACCELERATORS,
    )


def _first(values: Sequence[Value | None]) -> Value | None:
    return next((value for value in values if value is not None), None)


def _downtime_limit_ms(fleet: TransferDefaults, policy: PolicySpec | None, vm: VirtualMachine) -> int:
    own = [vm.downtime_limit_ms, vm.max_downtime_ms] if isinstance(vm, QemuVm) else []
    picked = [policy.max_downtime_ms] if policy else []
    return _first([*own, *picked, fleet.downtime_limit_ms, fleet.max_downtime_ms]) or DEFAULT_DOWNTIME_LIMIT_MS


def codec_of(fleet: TransferDefaults, policy: PolicySpec | None, vm: VirtualMachine) -> str:
    """The name of the codec that holds for `vm`."""
    return vm.codec or (policy and policy.codec) or fleet.codec


def level_of(fleet: TransferDefaults, policy: PolicySpec | None, vm: VirtualMachine) -> int | None:
    """The level that holds for `vm`; one is of the codec beside it, or below it, and says nothing about another."""
    codec = codec_of(fleet, policy, vm)
    levels = [vm.level]
    if policy is not None and (policy.codec or fleet.codec) == codec:
        levels.append(policy.level)
    if fleet.codec == codec:
        levels.append(fleet.level)
    return _first(levels)


def tls_of(fleet: TransferDefaults, host: HostSpec) -> TlsFiles | None:
    """The TLS files that hold at `host`."""
    tls = host.tls or fleet.tls
    return tls.files() if tls is not None else None
