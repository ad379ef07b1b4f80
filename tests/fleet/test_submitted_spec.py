"""Specs of submitted fleets are checked once; no fleet gets another's."""

from typing import Any

import pytest
from pydantic import ValidationError

from pipeline.fleet import submitted_spec
from pipeline.fleet.submitted_spec import SubmittedSpecs
from tests.fleet.plan.specs import fleet, guest


def fields(name: str) -> dict[str, Any]:
    return fleet(guest(name)).model_dump(mode="json", by_alias=True, exclude_unset=True)


def test_the_same_fields_are_checked_once_and_equal_ones_are_others() -> None:
    specs, first = SubmittedSpecs(), fields("g")
    assert specs.spec(first) is specs.spec(first)
    assert specs.spec(first).spec.virtual_machines[0].name == "g"
    assert specs.spec(fields("g")) is not specs.spec(first)


def test_of_many_fleets_the_one_asked_for_longest_ago_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submitted_spec, "_MOST", 2)
    specs, (one, two, three) = SubmittedSpecs(), (fields(name) for name in ("one", "two", "three"))
    spec_one, spec_two = specs.spec(one), specs.spec(two)
    assert specs.spec(one) is spec_one
    specs.spec(three)
    assert specs.spec(one) is spec_one
    assert specs.spec(two) is not spec_two
    assert [specs.spec(each).spec.virtual_machines[0].name for each in (one, two, three)] == ["one", "two", "three"]


def test_what_is_no_spec_is_none_the_second_time_either() -> None:
    specs, wrong = SubmittedSpecs(), {"kind": "Fleet"}
    for _ in range(2):
        with pytest.raises(ValidationError):
            specs.spec(wrong)
