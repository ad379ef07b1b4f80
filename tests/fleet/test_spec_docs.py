"""docs/spec.md, README.md and examples/: their specs are specs, and no field is missing from the docs."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from pydantic import BaseModel

from pipeline.fleet.spec import HostSpec, ImageVm, QemuVm, Spec
from pipeline.fleet.spec_file import load_spec

ROOT = Path(__file__).parents[2]
DOCS = (ROOT / "docs" / "spec.md").read_text()


def yaml_blocks(path: Path) -> list[str]:
    return re.findall(r"^```yaml\n(.*?)^```$", path.read_text(), re.DOTALL | re.MULTILINE)


def models(found: Any) -> Iterator[type[BaseModel]]:
    """Every model that is part of a type."""
    if isinstance(found, type) and issubclass(found, BaseModel):
        yield found
        for field in found.model_fields.values():
            yield from models(field.annotation)
    for part in get_args(found):
        yield from models(part)


def keys(data: Any) -> Iterator[str]:
    if isinstance(data, dict):
        yield from data
        data = list(data.values())
    if isinstance(data, list):
        for item in data:
            yield from keys(item)


@pytest.mark.parametrize("path", [ROOT / "README.md", ROOT / "docs" / "spec.md"], ids=lambda path: path.name)
def test_every_spec_in_the_docs_is_one(path: Path, tmp_path: Path) -> None:
    (block,) = yaml_blocks(path)
    file = tmp_path / "fleet.yaml"
    file.write_text(block)
    assert load_spec(file).spec.virtual_machines


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*fleet*.yaml")), ids=lambda path: path.name)
def test_every_example_is_a_spec(path: Path) -> None:
    assert load_spec(path).spec.virtual_machines


def test_every_field_is_described_and_has_an_example() -> None:
    found = set(models(Spec))
    assert {HostSpec, QemuVm, ImageVm} <= found
    fields = {str(field.alias) for model in found for field in model.model_fields.values()}
    (example,) = yaml_blocks(ROOT / "docs" / "spec.md")
    assert fields - set(keys(yaml.safe_load(example))) == set()
    described = set(re.findall(r"[A-Za-z]+", " ".join(re.findall(r"`([^`\n]+)`", DOCS))))
    assert fields - described == set()
