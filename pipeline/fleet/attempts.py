"""From a spec to migrations: one attempt per virtual machine."""

from collections.abc import Mapping

from pipeline.fleet.handle import HostHandle
from pipeline.fleet.image_migration import ImageMigration, ImageOrder
from pipeline.fleet.journal import Journal
from pipeline.fleet.migration import GuestMigration, QemuMigration
from pipeline.fleet.recorder import Recorder
from pipeline.fleet.run import Attempt
from pipeline.fleet.spec import ImageVm, QemuVm, Spec, VmSettings, resolve
from pipeline.wire.links import STALL_TIMEOUT_S
from pipeline.wire.tls import require_tls_or_loopback


def make_attempts(spec: Spec, hosts: Mapping[str, HostHandle], journal: Journal, run: int) -> list[Attempt]:
    """The spec's migrations in its order. Raises `UsageError` for links that would be plain where they must not."""
    attempts: list[Attempt] = []
    for vm in spec.spec.virtual_machines:
        settings = resolve(spec, vm)
        require_tls_or_loopback(settings.destination.address, settings.destination_tls, settings.allow_plain)
        source, destination = hosts[settings.source.name], hosts[settings.destination.name]
        place = {"host": settings.source.name, "node": settings.source.node}
        if isinstance(vm, QemuVm):
            recorder = Recorder(journal, run, vm.name, "qemu", {**place, "qmp": str(vm.source.qmp)})
            attempts.append(GuestMigration(_guest(vm, settings), source, destination, recorder))
        else:
            recorder = Recorder(journal, run, vm.name, "image", {**place, "path": str(vm.source.path)})
            attempts.append(ImageMigration(_image(vm, settings), source, destination, recorder))
    return attempts


def _guest(vm: QemuVm, settings: VmSettings) -> QemuMigration:
    return QemuMigration(
        vm.name,
        str(vm.source.qmp),
        str(vm.destination.qmp),
        vm.destination.prepare,
        vm.destination.cleanup,
        vm.socket_user,
        vm.zero_page_detection,
        settings.channels,
        settings.codec,
        settings.level,
        settings.downtime_limit_ms,
        STALL_TIMEOUT_S,
        settings.timeout_s,
        settings.bandwidth_bytes_s,
    )


def _image(vm: ImageVm, settings: VmSettings) -> ImageOrder:
    return ImageOrder(
        vm.name,
        str(vm.source.path),
        str(vm.destination.path),
        str(vm.destination.reuse) if vm.destination.reuse else None,
        vm.destination.overwrite,
        settings.channels,
        settings.codec,
        settings.level,
        STALL_TIMEOUT_S,
        settings.timeout_s,
        settings.bandwidth_bytes_s,
    )
