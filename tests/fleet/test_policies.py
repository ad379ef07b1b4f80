"""Which setting holds: the machine's, its policy's, the fleet's; and which policy is a machine's."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pipeline.fleet.policies import PolicySpec, Priority, RetrySpec, policy_of, priority_name, scheduler_weight
from pipeline.fleet.spec import VmSettings, resolve
from tests.fleet.plan.specs import fleet, guest, image

LABELS = st.dictionaries(st.sampled_from("abcd"), st.sampled_from("xy"), min_size=1)


def policy(name: str, selector: dict[str, str], **fields: Any) -> dict[str, Any]:
    return {"name": name, "selector": selector, **fields}


def settings_of(machine: dict[str, Any], **fields: Any) -> VmSettings:
    spec = fleet(machine, **fields)
    return resolve(spec, spec.spec.virtual_machines[0])


def test_the_defaults_are_kubevirts() -> None:
    settings = settings_of(guest("g"))
    assert (settings.completion_timeout_s_per_gib, settings.progress_timeout_s) == (150, 150)
    assert (settings.allow_auto_converge, settings.bandwidth_bytes_s, settings.priority) == (False, None, 0)
    assert (settings.policy, settings.deadline_s, settings.weight) == (None, None, 1)
    assert settings.retry == RetrySpec(max_attempts=1, backoff_seconds=20, max_backoff_seconds=320)
    assert settings.accelerators.kinds == ()


def test_the_machine_wins_over_its_policy_and_the_policy_over_the_fleet() -> None:
    fields = {
        "maxDowntimeMs": 500,
        "priority": "system-maintenance",
        "progressTimeout": 60,
        "allowAutoConverge": True,
        "policies": [
            policy("db", {"tier": "db"}, maxDowntimeMs=200, priority=50, weight=4, allowAutoConverge=False, channels=8)
        ],
    }
    plain = settings_of(guest("g"), **fields)
    assert (plain.downtime_limit_ms, plain.priority, plain.weight, plain.allow_auto_converge) == (500, 20, 1, True)
    picked = settings_of(guest("g", labels={"tier": "db", "rack": "1"}), **fields)
    assert (picked.downtime_limit_ms, picked.priority, picked.weight, picked.channels) == (200, 50, 4, 8)
    assert (picked.allow_auto_converge, picked.progress_timeout_s, picked.policy) == (False, 60, "db")
    own = settings_of(
        guest("g", labels={"tier": "db"}, downtimeLimitMs=100, priority="default", weight=9, channels=2), **fields
    )
    assert (own.downtime_limit_ms, own.priority, own.weight, own.channels) == (100, 0, 9, 2)


def test_a_priority_of_zero_wins_over_what_the_fleet_says() -> None:
    assert settings_of(guest("g", priority=0), priority="system-critical").priority == 0


@pytest.mark.parametrize(
    ("codec", "level", "policy_fields", "machine_fields"),
    [
        ("ZSTD", 7, {}, {}),
        ("LZ4", None, {"codec": "lz4"}, {}),
        ("LZ4", 3, {"codec": "lz4", "level": 3}, {}),
        ("ZSTD", 9, {"level": 9}, {}),
        ("ZSTD", 7, {"codec": "lz4", "level": 3}, {"codec": "zstd"}),
        ("LZ4", 3, {"codec": "lz4", "level": 3}, {"codec": "lz4"}),
        ("DEFLATE", None, {"codec": "lz4", "level": 3}, {"codec": "deflate"}),
    ],
)
def test_a_level_is_of_the_codec_beside_it(
    codec: str, level: int | None, policy_fields: dict[str, Any], machine_fields: dict[str, Any]
) -> None:
    settings = settings_of(
        guest("g", labels={"k": "v"}, **machine_fields),
        codec="zstd",
        level=7,
        policies=[policy("p", {"k": "v"}, **policy_fields)],
    )
    assert (settings.codec.name, settings.level) == (codec, level)


def test_the_most_labels_win_and_then_the_first_in_the_alphabet() -> None:
    policies = [
        PolicySpec.model_validate(policy(name, selector))
        for name, selector in (("one", {"tier": "db"}), ("rack", {"rack": "1"}), ("both", {"tier": "db", "size": "l"}))
    ]
    assert policy_of({"tier": "web"}, policies) is None
    picked = [
        found.name
        for labels in ({"tier": "db"}, {"tier": "db", "rack": "1"}, {"tier": "db", "rack": "1", "size": "l"})
        if (found := policy_of(labels, policies))
    ]
    assert picked == ["one", "rack", "both"]


@given(LABELS, st.lists(LABELS, max_size=6), st.randoms(use_true_random=False))
def test_the_policy_does_not_depend_on_the_order_of_policies(
    labels: dict[str, str], selectors: list[dict[str, str]], random: Any
) -> None:
    policies = [PolicySpec.model_validate(policy(f"p{n}", selector)) for n, selector in enumerate(selectors)]
    found = policy_of(labels, policies)
    random.shuffle(policies)
    assert policy_of(labels, policies) == found
    matching = [one for one in policies if one.selector.items() <= labels.items()]
    assert (found is None) == (matching == [])
    if found:
        assert len(found.selector) == max(len(one.selector) for one in matching)


@pytest.mark.parametrize(
    ("given_priority", "value", "weight"),
    [
        ("system-critical", 100, 8),
        ("user-triggered", 50, 4),
        ("system-maintenance", 20, 2),
        ("default", 0, 1),
        (60, 60, 4),
    ],
)
def test_a_priority_is_a_class_or_a_number(given_priority: Any, value: int, weight: int) -> None:
    priority = settings_of(image("i", priority=given_priority)).priority
    assert (priority, scheduler_weight(priority)) == (value, weight)
    assert priority_name(priority) == str(given_priority)


@pytest.mark.parametrize("given_priority", ["urgent", 101, -1, 1.5, True])
def test_what_is_no_priority(given_priority: Any) -> None:
    with pytest.raises(ValidationError, match="priority"):
        fleet(guest("g", priority=given_priority))


def test_every_class_has_its_number() -> None:
    assert {int(priority): priority_name(priority) for priority in Priority} == {
        100: "system-critical",
        50: "user-triggered",
        20: "system-maintenance",
        0: "default",
    }


@pytest.mark.parametrize(
    "labels", [{"": "x"}, {"a b": "x"}, {"a": "x y"}, {"a": "-"}, {"a": 1}, {f"l{n}": "" for n in range(65)}]
)
def test_what_are_no_labels(labels: Any) -> None:
    with pytest.raises(ValidationError, match="labels"):
        fleet(guest("g", labels=labels))


def test_labels_are_as_kubernetes_has_them() -> None:
    labels = {"kubevirt.io/tier": "db", "rack": "", "A-1": "x_y.z"}
    assert settings_of(guest("g", labels=labels), policies=[policy("p", {"rack": ""})]).policy == "p"
