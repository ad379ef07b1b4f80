"""A migration's result as the journal keeps it: all its fields as JSON."""

import json
from dataclasses import asdict, fields

from pipeline.errors import ExitCode
from pipeline.fleet.results import MigrationResult, Status

_FIELDS = frozenset(field.name for field in fields(MigrationResult))


def encode_result(result: MigrationResult) -> str:
    """The JSON text of a result; see `decode_result`."""
    return json.dumps(asdict(result))


def decode_result(text: str) -> MigrationResult:
    """The result of a JSON text; fields that this kuaka does not know are left out."""
    values = {name: value for name, value in json.loads(text).items() if name in _FIELDS}
    values["status"] = Status(values["status"])
    values["exit_code"] = ExitCode(values["exit_code"])
    return MigrationResult(**values)
