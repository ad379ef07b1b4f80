"""From a spec to what admission and the estimate work with: limits, requests, loads.

What a spec does not say is assumed here, and the plan says so: memory, what a page becomes on the wire, what a core
codes, how long it takes before the first byte and after the last.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from pipeline.codecs.codec import CodecId
from pipeline.fleet.plan.estimate import NS_PER_S, Load, Shared
from pipeline.fleet.plan.limits import Limits
from pipeline.fleet.plan.requests import Request
from pipeline.fleet.policies import scheduler_weight
from pipeline.fleet.spec import HostSpec, ImageVm, QemuVm, Spec, VirtualMachine, VmSettings, resolve

_GIB = 1 << 30
_MB = 10**6

#: How a machine's memory is known.
SizeSource = Literal["spec", "file", "QMP", "assumed"]


@dataclass(frozen=True, slots=True)
class Size:
    """A machine's memory and who says so."""

    memory_bytes: int
    known_by: SizeSource


@dataclass(frozen=True, slots=True)
class CodecCost:
    """What a mix of pages costs, two of five of them zero: measured here (docs/plan.md), rounded down.

    Accelerators do not count: they save cores, and what they give is shared with others.
    """

    #: Wire bytes for 1000 raw ones.
    wire_permille: int
    #: Raw bytes per second of one core.
    encode_bytes_s: int
    decode_bytes_s: int


DEFAULT_COSTS = {
    CodecId.NONE: CodecCost(610, 1_100 * _MB, 1_100 * _MB),
    CodecId.LZ4: CodecCost(550, 550 * _MB, 800 * _MB),
    CodecId.ZSTD: CodecCost(380, 300 * _MB, 520 * _MB),
    CodecId.DEFLATE: CodecCost(450, 400 * _MB, 600 * _MB),
    CodecId.QAT: CodecCost(450, 400 * _MB, 600 * _MB),
    CodecId.QAT_RAW: CodecCost(490, 550 * _MB, 550 * _MB),
}
#: Of the pages that these are measured with, so many are not zero.
TABLE_NORMAL_PERMILLE = 600


@dataclass(frozen=True, slots=True)
class Assumptions:
    """What holds where nobody knows better."""

    guest_memory_bytes: int = 4 * _GIB
    image_bytes: int = 1 * _GIB
    #: Connecting, inspecting, starting the destination's QEMU, handing over, looking at the result.
    guest_setup_ns: int = 700_000_000
    image_setup_ns: int = 30_000_000
    #: CPU for one migration, whatever its size, where all share this machine's cores: controller and agents, and for a
    #: guest its gateways, QMP and its destination's start.
    guest_control_ns: int = 600_000_000
    image_control_ns: int = 35_000_000
    #: Raw bytes per second that one core of a guest's own QEMU sends and takes, beside kuaka's workers.
    qemu_send_bytes_s: int = 300 * _MB
    qemu_take_bytes_s: int = 500 * _MB
    #: Worker processes of each host, of which each keeps a core busy.
    workers: int = 2
    #: Cores that hosts without a node, which are this machine, have together; None: as many as their workers need.
    local_cores: float | None = None
    costs: Mapping[CodecId, CodecCost] = field(default_factory=lambda: DEFAULT_COSTS)


def limits_of(spec: Spec) -> Limits:
    """The limits that the spec sets."""
    fleet = spec.spec
    return Limits(
        fleet.parallel_migrations_per_cluster,
        fleet.parallel_outbound_migrations_per_node,
        fleet.parallel_inbound_migrations_per_node,
        {host.name: host.link_capacity for host in fleet.hosts if host.link_capacity is not None},
        {f"{host.name}/{kind}": most for host in fleet.hosts for kind, most in host.accelerator_migrations.items()},
        {h.name: h.parallel_outbound_migrations for h in fleet.hosts if h.parallel_outbound_migrations is not None},
        {h.name: h.parallel_inbound_migrations for h in fleet.hosts if h.parallel_inbound_migrations is not None},
    )


def size_of(vm: VirtualMachine, seen: Mapping[str, Size], assumptions: Assumptions) -> Size:
    """The machine's memory: what the spec says, else what was seen, else what is assumed."""
    if vm.memory is not None:
        return Size(vm.memory, "spec")
    assumed = assumptions.image_bytes if isinstance(vm, ImageVm) else assumptions.guest_memory_bytes
    return seen.get(vm.name) or Size(assumed, "assumed")


def request_of(
    spec: Spec, vm: VirtualMachine, memory_bytes: int, submitted: int, *, fleet: str | None = None, began_ns: int = 0
) -> Request:
    """What `vm` asks of admission, as the `submitted`th machine of `fleet` (the spec's name without it).

    `began_ns`: when the fleet was submitted, which its deadlines count from.
    """
    fleet = fleet or spec.metadata.name
    return _request(spec, vm, resolve(spec, vm), memory_bytes, submitted, fleet, began_ns)


def _request(
    spec: Spec, vm: VirtualMachine, settings: VmSettings, memory_bytes: int, submitted: int, fleet: str, began_ns: int
) -> Request:
    ends = dict.fromkeys((settings.source.name, settings.destination.name))
    return Request(
        f"{fleet}/{vm.name}",
        fleet,
        settings.source.name,
        settings.destination.name,
        settings.priority,
        spec.spec.weight * scheduler_weight(settings.priority),
        memory_bytes,
        submitted,
        settings.bandwidth_bytes_s,
        tuple(f"{host}/{kind}" for kind in settings.accelerators.kinds for host in ends),
        None if settings.deadline_s is None else began_ns + int(settings.deadline_s * NS_PER_S),
    )


def load_of(
    spec: Spec,
    vm: VirtualMachine,
    memory_bytes: int,
    submitted: int,
    assumptions: Assumptions,
    cost: CodecCost | None = None,
) -> Load:
    """What `vm` asks of its way; `cost` is that of its own pages, where it is known."""
    settings = resolve(spec, vm)
    cost = cost or assumptions.costs[settings.codec]
    request = _request(spec, vm, settings, memory_bytes, submitted, spec.metadata.name, 0)
    rate = settings.bandwidth_bytes_s
    live = isinstance(vm, QemuVm)
    return Load(
        request,
        tuple(_alone(settings, cost, assumptions, memory_bytes, live=live).items()),
        assumptions.guest_setup_ns if live else assumptions.image_setup_ns,
        None if rate is None else _raw(rate, cost),
        (vm.dirty_rate or 0) if isinstance(vm, QemuVm) else 0,
        settings.allow_auto_converge,
        timeout_ns(settings, memory_bytes),
    )


def timeout_ns(settings: VmSettings, memory_bytes: int) -> int:
    """When a migration of so much memory is given up: `timeoutSeconds`, or what each GiB is given, at least one."""
    completion_s: float = settings.completion_timeout_s_per_gib * max(1.0, memory_bytes / _GIB)
    return int(min(completion_s, settings.timeout_s or completion_s) * NS_PER_S)


def _alone(
    settings: VmSettings, cost: CodecCost, assumptions: Assumptions, memory_bytes: int, *, live: bool
) -> dict[Shared, int]:
    source, destination = settings.source, settings.destination
    busy = min(settings.channels, assumptions.workers)
    alone: dict[Shared, int] = {}
    for kind, host in (("link out", source), ("link in", destination)):
        if host.link_capacity is not None:
            alone[Shared(kind, host.name)] = _raw(host.link_capacity, cost)
    for host, speed in ((source, cost.encode_bytes_s), (destination, cost.decode_bytes_s)):
        workers = Shared("workers", host.name)
        # One that is both ends has its workers do both.
        alone[workers] = _both(alone[workers], busy * speed) if workers in alone else busy * speed
    if assumptions.local_cores is not None:
        ends = (
            (source, cost.encode_bytes_s, assumptions.qemu_send_bytes_s),
            (destination, cost.decode_bytes_s, assumptions.qemu_take_bytes_s),
        )
        here = [_both(speed, qemu) if live else speed for host, speed, qemu in ends if is_local(host)]
        if here:
            # What is done once for each migration is spread over its bytes.
            control_ns = assumptions.guest_control_ns if live else assumptions.image_control_ns
            once = max(1, memory_bytes * NS_PER_S // max(1, control_ns))
            speed = _both(here[0] if len(here) == 1 else _both(*here), once)
            alone[Shared("cores", "this machine")] = int(assumptions.local_cores * max(1, speed))
    return alone


def is_local(host: HostSpec) -> bool:
    """Whether it is the machine where the command runs."""
    return host.node is None


def _raw(wire_bytes_s: int, cost: CodecCost) -> int:
    return wire_bytes_s * 1000 // cost.wire_permille


def _both(one: int, other: int) -> int:
    """What is left of two speeds of the same cores that do both kinds of work."""
    return one * other // (one + other)
