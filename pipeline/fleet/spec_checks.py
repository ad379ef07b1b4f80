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
from pipeline.fleet.spec import (
    HostSpec,
    ImageVm,
    QemuVm,
    TransferDefaults,
    VirtualMachine,
    codec_of,
    tls_of,
)
from pipeline.wire.tls import require_tls_or_loopback


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake: the field that has it, and what is wrong with it and what to do, in one line."""

    field: str
    text: str


@dataclass(frozen=True, slots=True)
class _Place:
    """A file or socket of a virtual machine, on a machine: hosts without a node are all this one."""

    field: str
    node: str | None
    path: str


def find_problems(
    hosts: Mapping[int, HostSpec],
    machines: Mapping[int, VirtualMachine],
    host_names: Collection[str],
    defaults: TransferDefaults | None,
) -> list[Problem]:
    """Problems of the items that could be read; `host_names` has those of all, `defaults` is None where unreadable."""
    by_name = {host.name: host for host in hosts.values()}
    problems = [
        *_double("spec.hosts", hosts),
        *_double("spec.virtualMachines", machines),
        *_unknown_hosts(machines, host_names),
        *_shared_places(machines, by_name),
    ]
    if defaults is not None:
        problems += [*_levels(machines, defaults), *_links(machines, by_name, defaults)]
    return problems


def _double(field: str, items: Mapping[int, HostSpec] | Mapping[int, VirtualMachine]) -> Iterator[Problem]:
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


def _levels(machines: Mapping[int, VirtualMachine], defaults: TransferDefaults) -> Iterator[Problem]:
    if reason := _level_problem(defaults.codec, defaults.level):
        yield Problem("spec.level", reason)
    for index, vm in machines.items():
        if vm.level is not None and (reason := _level_problem(codec_of(defaults, vm), vm.level)):
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
