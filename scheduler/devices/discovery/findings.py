"""What `check` says: one finding is one line with one remedy, and says whether it keeps a kind of device from use."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import Enum

from scheduler.core.units import AcceleratorKind

#: Names before the rest is counted.
_MAX_NAMES = 4


class Weight(Enum):
    """What a finding means for its kind of device."""

    #: Nothing of this kind can be used before it is put right.
    BLOCKS = "blocks"
    #: It can be used, and is worth less.
    COSTS = "costs"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not as it should be; `kind` None: of all kinds."""

    code: str
    kind: AcceleratorKind | None
    weight: Weight
    where: tuple[str, ...]
    what: str
    remedy: str

    @property
    def line(self) -> str:
        """WHERE: WHAT: WHAT TO DO."""
        names = ", ".join(self.where[:_MAX_NAMES])
        more = len(self.where) - _MAX_NAMES
        return f"{names}{f' and {more} more' if more > 0 else ''}: {self.what}: {self.remedy}"


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that was found, what blocks first, and which kinds this process could use now."""

    usable: dict[AcceleratorKind, bool]
    #: Where each library was found, None where not.
    libraries: dict[str, str | None]
    findings: tuple[Finding, ...]


def bad_value(problem: str, kind: AcceleratorKind) -> Finding:
    """An attribute that is no value; what hangs on it has findings of its own."""
    name, _, what = problem.partition(": ")
    remedy = "it counts as not there; look at the file, and at dmesg"
    return Finding("bad-value", kind, Weight.COSTS, (name,), what, remedy)


def merged(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """The same thing at several places is one finding; those that block come first, else in the order given."""
    found: dict[Finding, tuple[str, ...]] = {}
    for finding in findings:
        key = replace(finding, where=())
        found[key] = found.get(key, ()) + finding.where
    every = [replace(key, where=where) for key, where in found.items()]
    return tuple(sorted(every, key=lambda finding: finding.weight is not Weight.BLOCKS))
