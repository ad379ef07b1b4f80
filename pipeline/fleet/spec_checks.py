"""What a spec's fields must keep among each other: names, references, places, levels, TLS.

The rule: a file that one guest is read from or written to belongs to that guest alone. A guest that came from, or
went to, two places would run twice. Every function here is pure, and lists problems instead of stopping at the first.
What is checked may be part of a spec whose other parts do not even parse, so items come with their index.
"""

import os
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from pipeline.codecs.codec import parse_codec
from pipeline.codecs.table import codec_for
from pipeline.errors import UsageError
from pipeline.fleet.policies import PolicySpec, policy_of
from pipeline.fleet.policy_checks import (
    Problem,
    deadline_problems,
    disk_problems,
    downtime_problems,
    policy_problems,
)
from pipeline.fleet.spec import HostSpec, ImageVm, QemuVm, TransferDefaults, VirtualMachine, codec_of, tls_of
from pipeline.wire.tls import require_tls_or_loopback


@dataclass(frozen=True, slots=True)
class _Place:
    """A file or socket of a virtual machine, on a machine: hosts without a node are all this one."""

    field: str
    node: str | None
    path: str


@dataclass(frozen=True, slots=True)
class Parts:
    """What could be read of a spec, each item by its index."""

    hosts: Mapping[int, HostSpec]
    machines: Mapping[int, VirtualMachine]
    policies: Mapping[int, PolicySpec]
    #: Of those that could not be read, too.
    host_names: Collection[str]
    #: None where it could not be read.
    fleet: TransferDefaults | None
    #: Every machine could be read: what selects none of them selects nothing.
    complete: bool = True


def find_problems(parts: Parts) -> list[Problem]:
    """Everything that is wrong between the parts."""
    machines = parts.machines
    by_name = {host.name: host for host in parts.hosts.values()}
    problems = [
        *_double("spec.hosts", parts.hosts),
        *_double("spec.policies", parts.policies),
        *_double("spec.virtualMachines", machines),
        *_unknown_hosts(machines, parts.host_names),
        *_shared_places(machines, by_name),
        *policy_problems(parts.policies, machines, complete=parts.complete),
        *downtime_problems(machines, parts.fleet),
        *disk_problems(machines),
    ]
    if parts.fleet is not None:
        policies = list(parts.policies.values())
        problems += [
            *_levels(parts, parts.fleet),
            *_links(machines, by_name, parts.fleet),
            *deadline_problems(machines, policies, by_name, parts.fleet),
        ]
    return problems


def _double(
    field: str, items: Mapping[int, HostSpec] | Mapping[int, PolicySpec] | Mapping[int, VirtualMachine]
) -> Iterator[Problem]:
    first: dict[str, int] = {}
    for index, item in items.items():
        if first.setdefault(item.name, index) != index:
            yield Problem(
                f"{field}[{index}].name",
                f"{item.name!r} is the name of {field}[{first[item.name]}], too: choose another",
            )


def _unknown_hosts(machines: Mapping[int, VirtualMachine], host_names: Collection[str]) -> Iterator[Problem]:
    for index, vm in machines.items():
        for end, host in (("source", vm.source.host), ("destination", vm.destination.host)):
            if host not in host_names:
                yield Problem(
                    f"spec.virtualMachines[{index}].{end}.host", f"there is no host {host!r}: add it to spec.hosts"
                )


def _shared_places(machines: Mapping[int, VirtualMachine], hosts: Mapping[str, HostSpec]) -> Iterator[Problem]:
    first: dict[tuple[str | None, str], str] = {}
    for index, vm in machines.items():
        for place in _places(f"spec.virtualMachines[{index}]", vm, hosts):
            taken = first.setdefault((place.node, place.path), place.field)
            if taken != place.field:
                yield Problem(place.field, f"{place.path} is {taken}, too, on the same machine: give each its own")


def _places(field: str, vm: VirtualMachine, hosts: Mapping[str, HostSpec]) -> Iterator[_Place]:
    named: list[tuple[str, str, Path | None]]
    match vm:
        case QemuVm():
            named = [
                ("source.qmp", vm.source.host, vm.source.qmp),
                ("destination.qmp", vm.destination.host, vm.destination.qmp),
            ]
        case ImageVm():
            named = [
                ("source.path", vm.source.host, vm.source.path),
                ("destination.path", vm.destination.host, vm.destination.path),
                ("destination.reuse", vm.destination.host, vm.destination.reuse),
            ]
    for name, host, path in named:
        if path is not None and host in hosts:
            yield _Place(f"{field}.{name}", hosts[host].node, os.path.normpath(path))


def _levels(parts: Parts, fleet: TransferDefaults) -> Iterator[Problem]:
    if reason := _level_problem(fleet.codec, fleet.level):
        yield Problem("spec.level", reason)
    for index, policy in parts.policies.items():
        if policy.level is not None and (reason := _level_problem(policy.codec or fleet.codec, policy.level)):
            yield Problem(f"spec.policies[{index}].level", reason)
    policies = list(parts.policies.values())
    for index, vm in parts.machines.items():
        if vm.level is None:
            continue
        if reason := _level_problem(codec_of(fleet, policy_of(vm.labels, policies), vm), vm.level):
            yield Problem(f"spec.virtualMachines[{index}].level", reason)


@lru_cache(maxsize=256)
def _level_problem(codec: str, level: int | None) -> str | None:
    # Asked of the codec itself, which may be costly to make; a fleet uses few different ones.
    try:
        codec_for(parse_codec(codec), level)
    except UsageError as error:
        return str(error)
    return None


def _links(
    machines: Mapping[int, VirtualMachine], hosts: Mapping[str, HostSpec], defaults: TransferDefaults
) -> Iterator[Problem]:
    """One problem per pair of hosts, at the first machine that needs a link between them."""
    pairs = Counter[tuple[str, str]]()
    for index, vm in machines.items():
        pair = vm.source.host, vm.destination.host
        pairs[pair] += 1
        if pairs[pair] > 1 or not all(name in hosts for name in pair):
            continue
        source, destination = hosts[pair[0]], hosts[pair[1]]
        if reason := _link_problem(source, destination, defaults):
            yield Problem(f"spec.virtualMachines[{index}].destination.host", reason)


def _link_problem(source: HostSpec, destination: HostSpec, defaults: TransferDefaults) -> str | None:
    ours, theirs = tls_of(defaults, source), tls_of(defaults, destination)
    if (ours is None) != (theirs is None):
        with_tls, without = (source, destination) if ours else (destination, source)
        return f"host {with_tls.name} has tls and host {without.name} has none: give it to both, or to neither"
    try:
        require_tls_or_loopback(destination.address, theirs, defaults.allow_plain)
    except UsageError as error:
        return str(error)
    return None
