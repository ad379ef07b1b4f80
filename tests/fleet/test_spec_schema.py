"""The exported JSON Schema: that of the models, and one that accepts what we accept."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from pipeline.fleet.spec_schema import spec_schema

ROOT = Path(__file__).parents[2]
EXPORTED = ROOT / "docs" / "fleet.schema.json"


@pytest.fixture(scope="module")
def validator() -> Any:
    schema = json.loads(EXPORTED.read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def test_the_exported_schema_is_current() -> None:
    assert EXPORTED.read_text() == spec_schema(), "run `make schema` and commit docs/fleet.schema.json"


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*fleet*.yaml")), ids=lambda path: path.name)
def test_every_example_fits_it(path: Path, validator: Any) -> None:
    assert [error.message for error in validator.iter_errors(yaml.safe_load(path.read_text()))] == []


@pytest.mark.parametrize(
    ("field", "value", "fits"),
    [
        ("bandwidthPerMigration", "50MB/s", True),
        ("bandwidthPerMigration", 50_000_000, True),
        ("bandwidthPerMigration", "fast", False),
        ("bandwidthPerMigration", 5, False),
        ("priority", "system-critical", True),
        ("priority", 60, True),
        ("priority", "urgent", False),
        ("chanels", 4, False),
        ("codec", "gzip", False),
        ("policies", [{"name": "p", "selector": {"a": "b"}, "completionTimeoutPerGiB": 20}], True),
        ("policies", [{"name": "p", "selector": {"a": "b"}, "completionTimeoutPerGib": 20}], False),
    ],
)
def test_it_says_what_a_field_may_be(field: str, value: Any, fits: bool, validator: Any) -> None:
    document = yaml.safe_load((ROOT / "examples" / "fleet.yaml").read_text())
    document["spec"][field] = value
    assert validator.is_valid(document) is fits
