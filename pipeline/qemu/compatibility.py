"""Whether one QEMU can migrate into another through kuaka: pure checks on the facts both reported.

Every rule here is one that QEMU enforces late, silently or not at all: a uuid that differs fails every channel after it
has opened, another machine type fails while the guest is stopped, and a destination that starts by itself can make
two of one guest (reference: QEMU multifd_recv_initial_packet, savevm configuration, migration_completion).
"""

from collections.abc import Mapping

from pipeline.qemu.qmp import QemuFacts

#: Capabilities that change the stream in a way that kuaka does not carry, and why.
_REFUSED_CAPABILITIES: Mapping[str, str] = {
    "postcopy-ram": "postcopy and multifd do not go together",
    "xbzrle": "xbzrle and multifd do not go together",
    "zero-copy-send": "unix sockets have no zero-copy send",
    "mapped-ram": "mapped-ram writes a file, not a stream",
    "x-ignore-shared": "x-ignore-shared leaves memory behind",
    "x-colo": "kuaka does not carry COLO",
}
_REQUIRED_CAPABILITIES = ("multifd", "return-path")


def source_problems(facts: QemuFacts) -> list[str]:
    """What keeps this QEMU from being a source, one line each."""
    problems = _capability_problems(facts)
    if facts.status not in ("running", "paused"):
        problems.append(f"the source is in state {facts.status}: only a running or paused guest can be migrated")
    return problems


def destination_problems(facts: QemuFacts) -> list[str]:
    """What keeps this QEMU from being a destination, one line each."""
    problems = _capability_problems(facts)
    if facts.status != "inmigrate":
        problems.append(f"the destination is in state {facts.status}: start it with -incoming defer")
    if facts.arguments and "-S" not in facts.arguments:
        problems.append(
            "the destination would start by itself: start it with -S, so that never two of one guest can run"
        )
    return problems


def pair_problems(source: QemuFacts, destination: QemuFacts) -> list[str]:
    """What keeps these two apart, one line each."""
    problems = []
    if source.uuid != destination.uuid:
        problems.append(
            f"uuid differs: {source.uuid} at the source, {destination.uuid} at the destination:"
            " start both with the same -uuid"
        )
    if source.machine != destination.machine:
        problems.append(
            f"machine type differs: {source.machine} at the source, {destination.machine} at the destination:"
            " start the destination with the source's -machine type"
        )
    if source.ram_bytes != destination.ram_bytes:
        problems.append(
            f"RAM size differs: {source.ram_bytes} bytes at the source, {destination.ram_bytes} at the destination:"
            " start the destination with the source's -m"
        )
    return problems


def _capability_problems(facts: QemuFacts) -> list[str]:
    problems = [
        f"QEMU {'.'.join(map(str, facts.version))} has no {name}: use one that has it (5.0 or newer)"
        for name in _REQUIRED_CAPABILITIES
        if name not in facts.capabilities
    ]
    problems += [
        f"the capability {name} is on: unset it, {why}"
        for name, why in _REFUSED_CAPABILITIES.items()
        if facts.capabilities.get(name)
    ]
    if facts.parameters.get("tls-creds"):
        problems.append("tls-creds is set: unset it, kuaka encrypts between the hosts")
    return problems
