"""What cannot be meant: policies that select nothing, settings that contradict each other, deadlines out of reach,
disks that would stay behind.

A deadline is refused only where nothing could keep it: with all of the machine's memory known, the link to itself and
pages that shrink to a tenth (`BEST_WIRE_PERCENT`). One that is merely unlikely is for the plan to say.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from pipeline.byte_amounts import show_bytes
from pipeline.fleet.policies import MigrationSettings, PolicySpec, policy_of
from pipeline.fleet.spec import HostSpec, QemuVm, TransferDefaults, VirtualMachine

#: Of raw bytes, the wire bytes of a guest that is mostly zeros or compresses very well.
BEST_WIRE_PERCENT = 10


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake: the field that has it, and what is wrong with it and what to do, in one line."""

    field: str
    text: str


def policy_problems(
    policies: Mapping[int, PolicySpec], machines: Mapping[int, VirtualMachine], *, complete: bool
) -> Iterator[Problem]:
    """Selectors that select nothing or the same, retries and accelerators that contradict themselves."""
    labels = [vm.labels for vm in machines.values()]
    first: dict[tuple[tuple[str, str], ...], int] = {}
    for index, policy in policies.items():
        field = f"spec.policies[{index}]"
        selector = tuple(sorted(policy.selector.items()))
        if first.setdefault(selector, index) != index:
            yield Problem(
                f"{field}.selector",
                f"is the selector of spec.policies[{first[selector]}], too, which wins: make them one",
            )
        elif complete and not any(policy.selector.items() <= found.items() for found in labels):
            shown = ", ".join(f"{key}={value}" for key, value in selector[:3])
            yield Problem(
                f"{field}.selector", f"no virtual machine has {shown}: correct the labels or remove the policy"
            )
        yield from setting_problems(field, policy)


def setting_problems(field: str, settings: MigrationSettings) -> Iterator[Problem]:
    """Numbers of which one must not be less than the other."""
    retry, accelerators = settings.retry, settings.accelerators
    if retry is not None and retry.max_backoff_seconds < retry.backoff_seconds:
        yield Problem(
            f"{field}.retry.maxBackoffSeconds",
            f"{retry.max_backoff_seconds:g} is less than backoffSeconds, {retry.backoff_seconds:g}: give at least that",
        )
    if accelerators is not None and None not in (accelerators.reservation_percent, accelerators.cap_percent):
        reservation, cap = accelerators.reservation_percent or 0, accelerators.cap_percent or 0
        if reservation > cap:
            yield Problem(
                f"{field}.accelerators.capPercent", f"{cap} is less than reservationPercent, {reservation}: raise it"
            )


def downtime_problems(machines: Mapping[int, VirtualMachine], fleet: TransferDefaults | None) -> Iterator[Problem]:
    """A limit that is given by both of its names; and what else the fleet says for all."""
    given: list[tuple[str, int | None, int | None]] = [
        (f"spec.virtualMachines[{index}]", vm.downtime_limit_ms, vm.max_downtime_ms)
        for index, vm in machines.items()
        if isinstance(vm, QemuVm)
    ]
    if fleet is not None:
        given.insert(0, ("spec", fleet.downtime_limit_ms, fleet.max_downtime_ms))
        yield from setting_problems("spec", fleet)
    for field, older, newer in given:
        if older is not None and newer is not None:
            yield Problem(f"{field}.maxDowntimeMs", "is downtimeLimitMs by KubeVirt's name: give one of them")


def disk_problems(machines: Mapping[int, VirtualMachine]) -> Iterator[Problem]:
    """A guest would find an old disk, or none, at its destination; its memory alone is what kuaka moves."""
    for index, vm in machines.items():
        if not isinstance(vm, QemuVm) or vm.shared_storage:
            continue
        for number, disk in enumerate(vm.disks):
            if not disk.shared and not disk.read_only:
                yield Problem(
                    f"spec.virtualMachines[{index}].disks[{number}]",
                    f"{disk.name[:80]!r} is written to and not shared, so it would stay behind: say shared: true if the"
                    " destination reaches it, too, or leave this machine out",
                )


def deadline_problems(
    machines: Mapping[int, VirtualMachine],
    policies: Sequence[PolicySpec],
    hosts: Mapping[str, HostSpec],
    fleet: TransferDefaults,
) -> Iterator[Problem]:
    """Deadlines that a machine could not keep alone, as far as its memory and its links are known."""
    for index, vm in machines.items():
        layers: list[MigrationSettings] = [fleet]
        if policy := policy_of(vm.labels, policies):
            layers.insert(0, policy)
        deadlines = [vm.deadline_seconds, *(layer.deadline_seconds for layer in layers)]
        deadline_s = next((value for value in deadlines if value is not None), None)
        rates = [
            next((layer.bandwidth_per_migration for layer in layers if layer.bandwidth_per_migration), None),
            *(host.link_capacity for end in (vm.source, vm.destination) if (host := hosts.get(end.host))),
        ]
        rate = min((value for value in rates if value is not None), default=None)
        if deadline_s is None or rate is None or vm.memory is None:
            continue
        least_s = vm.memory * BEST_WIRE_PERCENT / 100 / rate
        if least_s > deadline_s:
            yield Problem(
                f"spec.virtualMachines[{index}].{'deadlineSeconds' if vm.deadline_seconds else 'memory'}",
                f"{show_bytes(vm.memory)} at {rate / 1e6:g} MB/s take at least {least_s:.0f} s and the deadline is"
                f" {deadline_s:g} s: raise one of them",
            )
