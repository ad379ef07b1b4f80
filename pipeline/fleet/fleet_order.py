"""What the controller knows of a spec: who moves from where to where, under which limits, by which rules."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pipeline.fleet.backoff import Backoff
from pipeline.fleet.convergence import ConvergenceRules
from pipeline.fleet.plan.limits import Limits
from pipeline.fleet.plan.requests import Request
from pipeline.fleet.timeouts import Timeouts


@dataclass(frozen=True, slots=True)
class MigrationRules:
    """How one machine's attempts are dealt with; from the policy that holds for it."""

    #: So many of its attempts may fail; the last one's failure is the migration's.
    most_failures: int = 3
    backoff: Backoff = field(default_factory=Backoff)
    timeouts: Timeouts = field(default_factory=Timeouts)
    convergence: ConvergenceRules = field(default_factory=ConvergenceRules)


@dataclass(frozen=True, slots=True)
class VmOrder:
    """One machine that is to move."""

    vm: str
    kind: str
    #: What admission is asked: `submitted` is its place in the spec, `deadline_ns` counts from the submission. The
    #: weight is the same in all of a fleet.
    request: Request
    #: Where its guest or image is and will be, e.g. "a:/run/vm.qmp": no two migrations touch one at the same time,
    #: whatever fleets they are of.
    endpoints: frozenset[str]
    rules: MigrationRules = field(default_factory=MigrationRules)
    #: Whether the spec says how much memory it has, or that is assumed.
    memory_known: bool = True


@dataclass(frozen=True, slots=True)
class FleetOrder:
    """A fleet's machines in the order of its spec, one at least; no two have the same name."""

    vms: tuple[VmOrder, ...]
    limits: Limits


#: Reads a spec that was submitted under that id. Raises `SpecError` for one that cannot be; the same one, submitted to
#: an earlier controller, must be read the same way.
ReadFleet = Callable[[str, Mapping[str, Any]], FleetOrder]


def strictest(limits: Iterable[Limits]) -> Limits:
    """What holds while all of these hold: of every number the smallest."""
    every = list(limits)
    if not every:
        return Limits()
    return Limits(
        min(each.cluster for each in every),
        min(each.outbound_per_host for each in every),
        min(each.inbound_per_host for each in every),
        _smallest(each.link_bytes_s for each in every),
        _smallest(each.pool_flows for each in every),
        _smallest(each.outbound for each in every),
        _smallest(each.inbound for each in every),
    )


def _smallest(mappings: Iterable[Mapping[str, int]]) -> dict[str, int]:
    merged: dict[str, int] = {}
    for mapping in mappings:
        for name, number in mapping.items():
            merged[name] = min(number, merged.get(name, number))
    return merged
