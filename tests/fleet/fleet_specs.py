"""Specs of a fleet's world, as short as its tests want them, and the real attempts that are made of them."""

from collections.abc import Mapping
from typing import Any

from pipeline.codecs.codec import CodecId
from pipeline.errors import SpecError
from pipeline.fleet.attempt_order import AttemptOrder
from pipeline.fleet.backoff import Backoff
from pipeline.fleet.convergence import ConvergenceRules
from pipeline.fleet.fleet_order import FleetOrder, MigrationRules, VmOrder
from pipeline.fleet.journal import Journal
from pipeline.fleet.migration import GuestMigration, QemuMigration
from pipeline.fleet.orders import (
    TransferTerms,
    new_session,
)
from pipeline.fleet.plan.limits import Limits
from pipeline.fleet.plan.requests import Request
from pipeline.fleet.reporting_recorder import ReportingRecorder
from pipeline.fleet.run import Attempt
from pipeline.fleet.timeouts import Timeouts
from tests.fleet.fleet_world import MEMORY_BYTES, SECOND_NS

#: Within the patience of tests; memory is sent more than twice only by guests that do not converge.
RULES = MigrationRules(
    most_failures=3,
    backoff=Backoff(2 * SECOND_NS, 60 * SECOND_NS),
    timeouts=Timeouts(150 * SECOND_NS, 20 * SECOND_NS),
    convergence=ConvergenceRules(allow_auto_converge=True, patience_ns=2 * SECOND_NS),
)


def machine(vm: str, source: str, destination: str, **other: Any) -> dict[str, Any]:
    """A machine of a spec as `read_fleet` has it."""
    return {"vm": vm, "source": source, "destination": destination, **other}


def spec_of(*machines: dict[str, Any], cluster: int = 5, outbound: int = 2, inbound: int = 2) -> dict[str, Any]:
    return {"machines": list(machines), "limits": [cluster, outbound, inbound]}


def read_fleet(fleet_id: str, spec: Mapping[str, Any]) -> FleetOrder:
    """A spec of these tests."""
    if "machines" not in spec:
        raise SpecError("no machines")
    return FleetOrder(tuple(_vm_order(fleet_id, **each) for each in spec["machines"]), Limits(*spec["limits"]))


def _vm_order(fleet_id: str, vm: str, source: str, destination: str, **other: Any) -> VmOrder:
    request = Request(
        f"{fleet_id}/{vm}",
        fleet_id,
        source,
        destination,
        other.get("priority", 0),
        1,
        MEMORY_BYTES,
        0,
        other.get("rate"),
    )
    return VmOrder(vm, "qemu", request, frozenset((f"{source}:/{vm}.qmp", f"{destination}:/{vm}.qmp")), RULES)


class AttemptMaker:
    """Makes real guest migrations over the fake hosts, recorded in the real journal."""

    kind: type[GuestMigration] = GuestMigration

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    def __call__(self, order: AttemptOrder) -> Attempt:
        source = {"host": order.source.name, "qmp": f"/{order.vm}.qmp"}
        recorder = ReportingRecorder(self._journal, order.run, order.vm, "qemu", source, order.reached)
        terms = TransferTerms(self.session(order), 4, CodecId.NONE, None, 300, 15.0, order.rate_bytes_s)
        migration = QemuMigration(order.vm, f"/{order.vm}.qmp", f"/{order.vm}.qmp", None, None, None, None, terms)
        return self.kind(migration, order.source, order.destination, recorder)

    def session(self, order: AttemptOrder) -> str:
        return new_session()
