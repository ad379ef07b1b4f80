"""The plan of a fleet: who goes when, how many at a time, how long each takes and all of it, and who cannot go.

Pure: a spec, what was seen of its machines, and assumptions in, a `Plan` out. It is the run that admission would
make in virtual time (`schedule`), once with the limits as they are and once with fewer at a time where guests are
written to (`concurrency`); the one that is over sooner is the plan, and its limits are those to run with.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pipeline.byte_amounts import show_bytes
from pipeline.fleet.plan.concurrency import choose
from pipeline.fleet.plan.estimate import NS_PER_S, Load
from pipeline.fleet.plan.from_spec import Assumptions, CodecCost, Size, SizeSource, limits_of, load_of, size_of
from pipeline.fleet.plan.limits import Limits
from pipeline.fleet.plan.schedule import Schedule, simulate
from pipeline.fleet.policies import policy_of
from pipeline.fleet.spec import QemuVm, Spec, VirtualMachine


@dataclass(frozen=True, slots=True)
class Sightings:
    """What could be seen of the machines themselves, by name."""

    sizes: Mapping[str, Size] = field(default_factory=dict)
    #: Why a machine cannot go.
    refused: Mapping[str, str] = field(default_factory=dict)
    #: What could not be seen, and why; a line each.
    notes: tuple[str, ...] = ()
    #: What a machine's own pages cost.
    costs: Mapping[str, CodecCost] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PlannedMigration:
    """One machine's part; times in seconds from the start."""

    vm: str
    kind: str
    source: str
    destination: str
    priority: int
    policy: str | None
    memory_bytes: int
    memory_known_by: SizeSource
    begins_s: float
    ends_s: float
    #: What it waits for at first; None where it begins at once.
    waits_for: str | None
    #: Seconds after its deadline that it ends; None where it has none or keeps it.
    late_s: float | None


@dataclass(frozen=True, slots=True)
class Plan:
    """What is expected of a fleet's migration."""

    fleet: str
    #: In the order in which they begin.
    migrations: tuple[PlannedMigration, ...]
    #: Reason by machine.
    cannot_go: Mapping[str, str]
    whole_s: float
    most_at_once: int
    #: To be run with; hosts are named where fewer at a time than the spec allows are sooner done.
    limits: Limits
    fewer_at_once: Mapping[str, str]
    assumptions: tuple[str, ...]
    #: The work that planning took: lanes looked at and speeds computed.
    looks: int = 0
    updates: int = 0


def make_plan(spec: Spec, sightings: Sightings | None = None, assumptions: Assumptions | None = None) -> Plan:
    """Plan the whole of `spec`, which has been checked."""
    seen, assumptions = sightings or Sightings(), assumptions or Assumptions()
    machines = spec.spec.virtual_machines
    sizes = {vm.name: size_of(vm, seen.sizes, assumptions) for vm in machines}
    cannot_go: dict[str, str] = {}
    loads: dict[str, Load] = {}
    for number, vm in enumerate(machines):
        load = load_of(spec, vm, sizes[vm.name].memory_bytes, number, assumptions, seen.costs.get(vm.name))
        if reason := seen.refused.get(vm.name) or hopeless(load):
            cannot_go[vm.name] = reason
        else:
            loads[vm.name] = load
    given = limits_of(spec)
    limits, schedule = _sooner(list(loads.values()), given)
    return Plan(
        spec.metadata.name,
        tuple(_planned(spec, loads, sizes, schedule)),
        cannot_go,
        round(schedule.whole_ns / NS_PER_S, 3),
        schedule.most_at_once,
        limits,
        dict(_fewer(given, limits)),
        (*_assumed(machines, sizes, assumptions), *seen.notes),
        schedule.looks,
        schedule.updates,
    )


def hopeless(load: Load) -> str | None:
    """Why a migration could not end in time even if it were alone; None where it could."""
    speed = load.speed({})
    if not load.converges(speed):
        return (
            f"it writes {load.dirty_bytes_s / 1e6:.4g} MB/s and at most {speed / 1e6:.4g} MB/s of its memory can move,"
            " so it would never end: say allowAutoConverge, or give it more bandwidth"
        )
    alone_ns = load.alone_ns()
    limits = {"its deadline is": load.request.deadline_ns, "it is given up after": load.timeout_ns}
    for words, limit_ns in limits.items():
        if limit_ns is not None and alone_ns > limit_ns:
            return (
                f"alone it takes about {alone_ns / NS_PER_S:.0f} s ({show_bytes(load.request.memory_bytes)} at"
                f" {speed / 1e6:.4g} MB/s) and {words} {limit_ns / NS_PER_S:g} s: raise that, or the bandwidth"
            )
    return None


def _sooner(loads: Sequence[Load], given: Limits) -> tuple[Limits, Schedule]:
    schedule = simulate(loads, given)
    fewer = choose(loads, given)
    if (fewer.outbound, fewer.inbound) == (given.outbound, given.inbound):
        return given, schedule
    other = simulate(loads, fewer)
    return (fewer, other) if other.whole_ns < schedule.whole_ns else (given, schedule)


def _planned(
    spec: Spec, loads: Mapping[str, Load], sizes: Mapping[str, Size], schedule: Schedule
) -> list[PlannedMigration]:
    by_name = {vm.name: vm for vm in spec.spec.virtual_machines}
    fleet = f"{spec.metadata.name}/"
    found = []
    for request_id, slot in schedule.slots.items():
        vm = by_name[request_id.removeprefix(fleet)]
        request = loads[vm.name].request
        policy = policy_of(vm.labels, spec.spec.policies)
        late_ns = 0 if request.deadline_ns is None else slot.ends_ns - request.deadline_ns
        found.append(
            PlannedMigration(
                vm.name,
                vm.kind,
                request.source,
                request.destination,
                request.priority,
                policy.name if policy else None,
                request.memory_bytes,
                sizes[vm.name].known_by,
                round(slot.begins_ns / NS_PER_S, 3),
                round(slot.ends_ns / NS_PER_S, 3),
                slot.waits_for,
                round(late_ns / NS_PER_S, 3) if late_ns > 0 else None,
            )
        )
    return found


def _fewer(given: Limits, chosen: Limits) -> list[tuple[str, str]]:
    hosts = sorted({*chosen.outbound, *chosen.inbound})
    found = []
    for host in hosts:
        ways = [
            f"{after} of {before} {way}"
            for way, before, after in (
                ("outbound", given.outbound_of(host), chosen.outbound_of(host)),
                ("inbound", given.inbound_of(host), chosen.inbound_of(host)),
            )
            if after < before
        ]
        if ways:
            found.append((host, ", ".join(ways)))
    return found


def _assumed(machines: Sequence[VirtualMachine], sizes: Mapping[str, Size], assumptions: Assumptions) -> list[str]:
    found = []
    for kind, amount in (("qemu", assumptions.guest_memory_bytes), ("image", assumptions.image_bytes)):
        names = [vm.name for vm in machines if vm.kind == kind and sizes[vm.name].known_by == "assumed"]
        if names:
            found.append(f"{_named(names)}: memory is not known, taken as {show_bytes(amount)}: say memory")
    quiet = [vm.name for vm in machines if isinstance(vm, QemuVm) and vm.dirty_rate is None]
    if quiet:
        found.append(f"{_named(quiet)}: what the guest writes is not known, taken as nothing: say dirtyRate")
    return found


def _named(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
