"""Reading a spec file: YAML in, a checked `Spec` out, or every problem at once.

The rule: a rejected spec costs its author one round. All problems are in one `SpecError`, one line each:

    FILE: field.path: what is wrong: what to do

A field of the wrong type does not keep the rest from being checked: the items that can be read are.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from pipeline.errors import SpecError
from pipeline.fleet.policies import PolicySpec
from pipeline.fleet.policy_checks import Problem
from pipeline.fleet.spec import HostSpec, ImageVm, QemuVm, Spec, TransferDefaults, VirtualMachine
from pipeline.fleet.spec_checks import Parts, find_problems
from pipeline.fleet.spec_fields import Model
from pipeline.fleet.yaml_file import read_yaml

MAX_PROBLEMS_SHOWN = 100
_MAX_VALUE_CHARACTERS = 60

_WHAT_TO_DO = {
    "missing": "is missing: add it",
    "extra_forbidden": "is not a field of a spec: remove it or correct its name",
    "string_type": "{value} is not a string: put it in quotes",
    "path_type": "{value} is not a path: give an absolute one",
    "int_type": "{value} is not a whole number: write it without quotes",
    "float_type": "{value} is not a number: write it without quotes",
    "bool_type": "{value} is neither true nor false: write one of them",
    "model_type": "{value} is not a mapping of fields: write its fields below it",
    "tuple_type": "{value} is not a list: give one",
    "union_tag_not_found": "kind is missing: add kind: qemu or kind: image",
    "union_tag_invalid": "kind is unknown: write kind: qemu or kind: image",
    "model_attributes_type": "{value} is not a mapping of fields: write its fields below it",
    "finite_number": "{value} is not a number that could be meant: give a finite one",
}

Item = TypeVar("Item", bound=Model)

_KINDS = ("qemu", "image")
_LISTS = ("hosts", "policies", "virtualMachines")


def load_spec(path: Path) -> Spec:
    """The spec in the file, checked as far as possible without its hosts; raises `SpecError` with every problem."""
    return check_spec(read_yaml(path), str(path))


def check_spec(data: Any, where: str) -> Spec:
    """The spec in fields that were read `where`, checked alike; raises `SpecError` with every problem."""
    try:
        spec = Spec.model_validate(data, by_alias=True, by_name=False)
    except ValidationError as error:
        problems = [_problem(details) for details in error.errors(include_url=False)]
        raise _rejected(where, [*problems, *_problems_of_the_rest(data)]) from None
    if problems := _problems(spec):
        raise _rejected(where, problems)
    return spec


def _problems(spec: Spec) -> list[Problem]:
    fleet = spec.spec
    return find_problems(
        Parts(
            dict(enumerate(fleet.hosts)),
            dict(enumerate(fleet.virtual_machines)),
            dict(enumerate(fleet.policies)),
            {host.name for host in fleet.hosts},
            fleet,
        )
    )


def _problems_of_the_rest(data: Any) -> list[Problem]:
    """What else is wrong among the parts of a broken spec that can be read."""
    fleet = _mapping(_mapping(data).get("spec"))
    host_items, machine_items = _list(fleet.get("hosts")), _list(fleet.get("virtualMachines"))
    hosts = {index: host for index, item in enumerate(host_items) if (host := _read(HostSpec, item))}
    machines = {index: vm for index, item in enumerate(machine_items) if (vm := _machine(item))}
    # Of those that cannot be read, too: that a host is broken does not make it unknown.
    names = {name for item in host_items if isinstance(name := _mapping(item).get("name"), str)}
    policies = {
        index: policy for index, item in enumerate(_list(fleet.get("policies"))) if (policy := _read(PolicySpec, item))
    }
    scalars = {name: value for name, value in fleet.items() if name not in _LISTS}
    complete = len(machines) == len(machine_items)
    return find_problems(Parts(hosts, machines, policies, names, _read(TransferDefaults, scalars), complete))


def _machine(item: Any) -> VirtualMachine | None:
    match _mapping(item).get("kind"):
        case "qemu":
            return _read(QemuVm, item)
        case "image":
            return _read(ImageVm, item)
    return None


def _read(model: type[Item], item: Any) -> Item | None:
    try:
        return model.model_validate(item, by_alias=True, by_name=False)
    except ValidationError:
        # It has been reported with the whole spec.
        return None


def _mapping(value: Any) -> dict[Any, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _problem(details: ErrorDetails) -> Problem:
    field = _field(details["loc"])
    kind = details["type"]
    if kind.startswith("union_tag_"):
        field += ".kind"
    if kind == "value_error":
        return Problem(field, str(details["ctx"]["error"]))
    message = details["msg"].replace("Input should", "it should").replace("Value should", "it should")
    return Problem(
        field, _WHAT_TO_DO.get(kind, f"{{value}} cannot be: {message}").replace("{value}", _shown(details["input"]))
    )


def _field(location: tuple[int | str, ...]) -> str:
    if location[:2] == ("spec", "virtualMachines") and location[3:4] and location[3] in _KINDS:
        # pydantic names the kind that it took, which is no field.
        location = (*location[:3], *location[4:])
    path = ""
    for part in location:
        path += f"[{part}]" if isinstance(part, int) else f".{part[:_MAX_VALUE_CHARACTERS]}"
    return path.removeprefix(".") or "document"


def _shown(value: Any) -> str:
    shown = "null" if value is None else repr(value)
    return shown if len(shown) <= _MAX_VALUE_CHARACTERS else f"{shown[:_MAX_VALUE_CHARACTERS]}..."


def _rejected(where: str, problems: Sequence[Problem]) -> SpecError:
    lines = [" ".join(f"{where}: {problem.field}: {problem.text}".split()) for problem in problems[:MAX_PROBLEMS_SHOWN]]
    if len(problems) > MAX_PROBLEMS_SHOWN:
        lines.append(f"{where}: and {len(problems) - MAX_PROBLEMS_SHOWN} problems more")
    return SpecError("\n".join(lines))
