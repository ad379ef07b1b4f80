"""From a spec to migrations: one attempt per virtual machine, and for a controller one at a time."""

from collections.abc import Mapping
from dataclasses import replace

from pipeline.fleet.attempt_order import AttemptOrder, MakeAttempt
from pipeline.fleet.handle import HostHandle
from pipeline.fleet.image_migration import ImageMigration, ImageOrder
from pipeline.fleet.journal import Journal
from pipeline.fleet.migration import GuestMigration, QemuMigration
from pipeline.fleet.orders import TransferTerms, new_session
from pipeline.fleet.policies import scheduler_weight
from pipeline.fleet.recorder import Recorder
from pipeline.fleet.reporting_recorder import ReportingRecorder
from pipeline.fleet.run import Attempt
from pipeline.fleet.spec import ImageVm, QemuVm, Spec, VirtualMachine, VmSettings, resolve
from pipeline.fleet.submitted_spec import SubmittedSpecs
from pipeline.wire.links import STALL_TIMEOUT_S
from pipeline.wire.tls import require_tls_or_loopback

#: An image has no downtime to hide bytes in; its windows are as large as those of a guest with QEMU's default limit.
_WINDOW_DOWNTIME_MS = 300


def make_attempts(
    spec: Spec, hosts: Mapping[str, HostHandle], journal: Journal, run: int, tenant: str
) -> list[Attempt]:
    """The spec's migrations in its order; accelerators count them for `tenant`.

    Raises `UsageError` for links that would be plain where they must not.
    """
    attempts: list[Attempt] = []
    for vm in spec.spec.virtual_machines:
        settings = resolve(spec, vm)
        recorder = Recorder(journal, run, vm.name, vm.kind, _source_record(vm, settings))
        source, destination = hosts[settings.source.name], hosts[settings.destination.name]
        attempts.append(_attempt(vm, settings, tenant, source, destination, recorder))
    return attempts


def fleet_attempts(journal: Journal) -> MakeAttempt:
    """What a controller makes its attempts by; accelerators count them for their fleet."""
    specs = SubmittedSpecs()

    def make(order: AttemptOrder) -> Attempt:
        spec = specs.spec(order.spec)
        vm = next(each for each in spec.spec.virtual_machines if each.name == order.vm)
        settings = replace(resolve(spec, vm), bandwidth_bytes_s=order.rate_bytes_s)
        place = _source_record(vm, settings)
        recorder = ReportingRecorder(journal, order.run, vm.name, vm.kind, place, order.reached)
        return _attempt(vm, settings, order.fleet, order.source, order.destination, recorder)

    return make


def _attempt(
    vm: VirtualMachine,
    settings: VmSettings,
    tenant: str,
    source: HostHandle,
    destination: HostHandle,
    recorder: Recorder,
) -> Attempt:
    require_tls_or_loopback(settings.destination.address, settings.destination_tls, settings.allow_plain)
    if isinstance(vm, QemuVm):
        order = _guest(vm, settings, _terms(settings, tenant, settings.downtime_limit_ms))
        return GuestMigration(order, source, destination, recorder)
    image = _image(vm, settings, _terms(settings, tenant, _WINDOW_DOWNTIME_MS))
    return ImageMigration(image, source, destination, recorder)


def _source_record(vm: VirtualMachine, settings: VmSettings) -> dict[str, object]:
    where = {"qmp": str(vm.source.qmp)} if isinstance(vm, QemuVm) else {"path": str(vm.source.path)}
    return {"host": settings.source.name, "node": settings.source.node, **where}


def _terms(settings: VmSettings, tenant: str, downtime_limit_ms: int) -> TransferTerms:
    return TransferTerms(
        new_session(),
        settings.channels,
        settings.codec,
        settings.level,
        downtime_limit_ms,
        STALL_TIMEOUT_S,
        settings.bandwidth_bytes_s,
        tenant,
        settings.weight * scheduler_weight(settings.priority),
        _engine_ns_s(settings.accelerators.reservation_percent),
        _engine_ns_s(settings.accelerators.cap_percent),
    )


def _engine_ns_s(percent: float | None) -> int:
    """Percent of one engine's time, as device-ns per second; 0 for None."""
    return 0 if percent is None else round(percent * 10**7)


def _guest(vm: QemuVm, settings: VmSettings, terms: TransferTerms) -> QemuMigration:
    return QemuMigration(
        vm.name,
        str(vm.source.qmp),
        str(vm.destination.qmp),
        vm.destination.prepare,
        vm.destination.cleanup,
        vm.socket_user,
        vm.zero_page_detection,
        terms,
        settings.timeout_s,
        vm.shared_disks,
        settings.allow_auto_converge,
    )


def _image(vm: ImageVm, settings: VmSettings, terms: TransferTerms) -> ImageOrder:
    return ImageOrder(
        vm.name,
        str(vm.source.path),
        str(vm.destination.path),
        str(vm.destination.reuse) if vm.destination.reuse else None,
        vm.destination.overwrite,
        terms,
        settings.timeout_s,
    )
