"""How results are printed: a table for people, JSON or YAML for programs, the same object in either."""

import json
from enum import StrEnum
from typing import Any

import yaml


class Output(StrEnum):
    """What `-o` takes."""

    TABLE = "table"
    JSON = "json"
    YAML = "yaml"


def structured(value: Any, output: Output) -> str:
    """An object of a documented form as text that ends with a line's end. Raises ValueError for a table."""
    match output:
        case Output.JSON:
            return json.dumps(value, indent=2) + "\n"
        case Output.YAML:
            # What JSON makes of it: YAML has no enumerations either, and says so.
            return yaml.safe_dump(json.loads(json.dumps(value)), sort_keys=False, allow_unicode=True)
        case Output.TABLE:
            raise ValueError("a table is not made of an object")
