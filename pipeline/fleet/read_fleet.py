"""A spec as the controller works with it: requests, limits and rules, always the same for the same spec.

It is read again by every controller that takes a fleet over, so nothing here looks at a host: a machine whose memory
the spec does not say is taken for the size that the plan assumes. Limits are the plan's: no more at once than finishes
the fleet soonest.
"""

from collections.abc import Mapping
from typing import Any

from pipeline.errors import SpecError
from pipeline.fleet.backoff import Backoff
from pipeline.fleet.convergence import ConvergenceRules
from pipeline.fleet.fleet_order import FleetOrder, MigrationRules, VmOrder
from pipeline.fleet.plan.from_spec import Assumptions, request_of, size_of
from pipeline.fleet.plan.plan import make_plan
from pipeline.fleet.spec import QemuVm, Spec, VirtualMachine, VmSettings, resolve
from pipeline.fleet.spec_file import check_spec
from pipeline.fleet.timeouts import Timeouts

_SECOND_NS = 10**9


def read_fleet(fleet_id: str, fields: Mapping[str, Any]) -> FleetOrder:
    """See `fleet_order.ReadFleet`."""
    return order_of(fleet_id, check_spec(fields, f"fleet {fleet_id}"))


def order_of(fleet_id: str, spec: Spec) -> FleetOrder:
    """The same of a spec that was checked. Raises `SpecError` where a machine can never go."""
    plan = make_plan(spec, None, Assumptions())
    # Nobody is refused for a size that was assumed.
    sized = {vm.name for vm in spec.spec.virtual_machines if vm.memory is not None}
    refused = [f"fleet {fleet_id}: {vm}: {reason}" for vm, reason in plan.cannot_go.items() if vm in sized]
    if refused:
        raise SpecError("\n".join(refused))
    return FleetOrder(
        tuple(_order(fleet_id, spec, vm, number) for number, vm in enumerate(spec.spec.virtual_machines)), plan.limits
    )


def fields_of(spec: Spec) -> dict[str, Any]:
    """A spec as it is submitted and kept; `read_fleet` reads it."""
    return spec.model_dump(mode="json", by_alias=True, exclude_unset=True)


def _order(fleet_id: str, spec: Spec, vm: VirtualMachine, number: int) -> VmOrder:
    size = size_of(vm, {}, Assumptions())
    request = request_of(spec, vm, size.memory_bytes, number, fleet=fleet_id)
    ends = (vm.source.qmp, vm.destination.qmp) if isinstance(vm, QemuVm) else (vm.source.path, vm.destination.path)
    endpoints = frozenset((f"{vm.source.host}:{ends[0]}", f"{vm.destination.host}:{ends[1]}"))
    known = size.known_by != "assumed"
    return VmOrder(vm.name, vm.kind, request, endpoints, _rules(resolve(spec, vm)), known)


def _rules(settings: VmSettings) -> MigrationRules:
    retry = settings.retry
    return MigrationRules(
        retry.max_attempts,
        Backoff(int(retry.backoff_seconds * _SECOND_NS), int(retry.max_backoff_seconds * _SECOND_NS)),
        Timeouts(settings.completion_timeout_s_per_gib * _SECOND_NS, settings.progress_timeout_s * _SECOND_NS),
        ConvergenceRules(settings.allow_auto_converge),
    )
