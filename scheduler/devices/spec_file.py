"""Reading a device file: YAML in, checked `EmulatedDeviceSpec`s out, or one line that says what is wrong where.

A file has one document for each device of a host; most have one.

A device file is small and has no use for aliases, so neither size, depth nor expansion of a document can hurt.
"""

from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from scheduler.devices.spec import EmulatedDeviceSpec

MAX_FILE_BYTES = 256 << 10
MAX_DEPTH = 16
#: Three kinds on each of eight sockets, and room.
MAX_DEVICES = 32
_MAX_SHOWN = 60

_WHAT_TO_DO = {
    "missing": "is missing: add it",
    "extra_forbidden": "is not a field of a device: remove it or correct its name",
    "int_type": "{value} is not a whole number: write it without quotes",
    "float_type": "{value} is not a number: write it without quotes",
    "string_type": "{value} is not a string: put it in quotes",
    "model_type": "{value} is not a mapping of fields: write its fields below it",
    "dict_type": "{value} is not a mapping of fields: write its fields below it",
    "tuple_type": "{value} is not a list: give one",
    "finite_number": "{value} is not a number that could be meant: give a finite one",
}


class DeviceSpecError(Exception):
    """A device file that cannot be used: one line, FILE: field: what is wrong: what to do."""


def load_devices(path: Path) -> tuple[EmulatedDeviceSpec, ...]:
    """The devices in the file, no two of the same name or pool; raises `DeviceSpecError`."""
    return parse_devices(_read(path), str(path))


def parse_devices(text: str, name: str) -> tuple[EmulatedDeviceSpec, ...]:
    """The devices in a text that came from `name`; raises `DeviceSpecError` of the first thing that is wrong."""
    try:
        _check_shape(text)
        documents = list(yaml.load_all(text, Loader=_Loader))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}: " if mark is not None else ""
        raise _error(name, f"{where}{error.problem or error.context}") from None
    except (yaml.YAMLError, ValueError) as error:
        # Constructors of scalars raise ValueError: 2026-02-30 is no date.
        raise _error(name, f"is not YAML: {error}") from None
    if not 1 <= len(documents) <= MAX_DEVICES or documents[0] is None:
        raise _error(name, f"has {len(documents)} documents or an empty one: write 1 to {MAX_DEVICES} devices into it")
    try:
        devices = tuple(EmulatedDeviceSpec.model_validate(each, by_alias=True, by_name=False) for each in documents)
    except ValidationError as error:
        raise _error(name, _problem(error.errors(include_url=False)[0])) from None
    for index, device in enumerate(devices):
        for other in devices[:index]:
            if (device.spec.kind, device.spec.socket) == (other.spec.kind, other.spec.socket):
                where = f"{device.spec.kind} on socket {device.spec.socket}"
                raise _error(
                    name, f"{other.metadata.name} and {device.metadata.name} are both the {where}: give another"
                )
            if device.metadata.name == other.metadata.name:
                raise _error(name, f"metadata.name: {device.metadata.name} is there twice: give another name")
    return devices


class _Loader(yaml.CSafeLoader):
    """Plain types; a key given twice is a mistake, not a choice."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys: list[Any] = []
        for key, _value in node.value:
            if key.value in keys:
                raise _mistake(f"{str(key.value)[:_MAX_SHOWN]!r} is given twice: keep one of them", key.start_mark)
            keys.append(key.value)
        mapping: dict[Any, Any] = super().construct_mapping(node, deep)
        return mapping


def _read(path: Path) -> str:
    try:
        if not path.is_file():
            # A pipe would be waited for.
            path.stat()
            raise _error(str(path), "is not a file: name a device file")
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise _error(str(path), f"cannot be read: {error.strerror}: check the path and its mode") from None
    if len(data) > MAX_FILE_BYTES:
        raise _error(str(path), f"is larger than {MAX_FILE_BYTES >> 10} KiB: that is no device file")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise _error(str(path), "is not UTF-8 text: save the file as UTF-8") from None


def _check_shape(text: str) -> None:
    # On the event stream, because the composer recurses in C and a deep document would end the process.
    depth = 0
    for event in yaml.parse(text, Loader=yaml.CSafeLoader):
        if isinstance(event, yaml.AliasEvent):
            raise _mistake("has an alias: write it out", event.start_mark)
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                problem = f"is nested more than {MAX_DEPTH} deep"
                raise _mistake(problem, event.start_mark)
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


def _mistake(text: str, mark: Any) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=text, problem_mark=mark)


def _problem(details: ErrorDetails) -> str:
    field = _field(details["loc"])
    if details["type"] == "value_error":
        return f"{field}: {details['ctx']['error']}"
    shown = "null" if details["input"] is None else repr(details["input"])
    if len(shown) > _MAX_SHOWN:
        shown = f"{shown[:_MAX_SHOWN]}..."
    message = details["msg"].replace("Input should", "it should")
    text = _WHAT_TO_DO.get(details["type"], f"{{value}} cannot be: {message}")
    return f"{field}: {text.replace('{value}', shown)}"


def _field(location: tuple[int | str, ...]) -> str:
    path = ""
    for part in location:
        path += f"[{part}]" if isinstance(part, int) else f".{part[:_MAX_SHOWN]}"
    return path.removeprefix(".") or "document"


def _error(name: str, text: str) -> DeviceSpecError:
    return DeviceSpecError(" ".join(f"{name}: {text}".split()))
