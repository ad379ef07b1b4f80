"""From a spec to migrations: one attempt per virtual machine, and what the journal is told of each."""

from collections.abc import Mapping
from dataclasses import asdict

from pipeline.fleet.handle import HostHandle
from pipeline.fleet.journal import Journal
from pipeline.fleet.migration import GuestMigration, QemuMigration, Recorder
from pipeline.fleet.orders import Cleanup
from pipeline.fleet.run import Attempt
from pipeline.fleet.spec import QemuVm, Spec, VmSettings, resolve
from pipeline.wire.links import STALL_TIMEOUT_S
from pipeline.wire.tls import require_tls_or_loopback


def make_attempts(spec: Spec, hosts: Mapping[str, HostHandle], journal: Journal, run: int) -> list[Attempt]:
    """The spec's migrations in its order. Raises `UsageError` for links that would be plain where they must not."""
    attempts: list[Attempt] = []
    for vm in spec.spec.virtual_machines:
        settings = resolve(spec, vm)
        require_tls_or_loopback(settings.destination.address, settings.destination_tls, settings.allow_plain)
        source, destination = hosts[settings.source.name], hosts[settings.destination.name]
        if isinstance(vm, QemuVm):
            attempts.append(_guest(vm, settings, source, destination, journal, run))
    return attempts


def _guest(
    vm: QemuVm, settings: VmSettings, source: HostHandle, destination: HostHandle, journal: Journal, run: int
) -> GuestMigration:
    order = QemuMigration(
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
    )
    source_record = {"host": settings.source.name, "node": settings.source.node, "qmp": order.source_qmp}
    return GuestMigration(order, source, destination, _recorder(journal, run, vm.name, source_record, settings))


def _recorder(
    journal: Journal, run: int, vm: str, source: Mapping[str, object], settings: VmSettings
) -> Recorder:
    numbers: dict[str, int] = {}

    def begun(session: str, cleanup: Cleanup) -> None:
        destination = {
            "host": settings.destination.name,
            "node": settings.destination.node,
            "cleanup": asdict(cleanup),
        }
        numbers[session] = journal.add_migration(
            run, vm=vm, session=session, kind="qemu", source=source, destination=destination, state="begun"
        )

    def handed_over(session: str) -> None:
        journal.record_hand_over(numbers[session])

    def finished(session: str, state: str, error: str | None) -> None:
        journal.finish_migration(numbers[session], state, error)

    return Recorder(begun, handed_over, finished)
