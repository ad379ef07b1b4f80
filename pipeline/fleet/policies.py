"""What a migration may use and how long it may take: policies, picked by labels, with KubeVirt's names.

The rule: a virtual machine's own setting wins over its policy's, a policy's over the fleet's. A policy is the machine's
if all labels of its selector are among the machine's. Of several the one with the most labels is taken, of equally many
the one whose labels come first in the alphabet (KubeVirt's order), and only that one: what it does not say is
looked for in the fleet, not in another policy.
"""

from collections.abc import Mapping, Sequence
from enum import IntEnum
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema

from pipeline.fleet.spec_fields import (
    Bandwidth,
    Channels,
    CodecName,
    DowntimeLimitMs,
    Model,
    Name,
    Seconds,
    Selector,
    Weight,
    WholeSeconds,
)

MAX_POLICIES = 1_000
MAX_ATTEMPTS = 20
#: Of one engine's time; no pool has more engines than that.
MAX_ENGINE_PERCENT = 12_800
DEFAULT_COMPLETION_TIMEOUT_PER_GIB_S = 150
DEFAULT_PROGRESS_TIMEOUT_S = 150
#: Attempts, first wait and longest wait between two, seconds; KubeVirt waits 20 s, then twice as long each time.
DEFAULT_MAX_ATTEMPTS = 1
DEFAULT_BACKOFF_S = 20.0
DEFAULT_MAX_BACKOFF_S = 320.0

AcceleratorName = Literal["dsa", "iaa", "qat"]


class Priority(IntEnum):
    """KubeVirt's classes of migrations; a number between two is as good as a name."""

    SYSTEM_CRITICAL = 100
    USER_TRIGGERED = 50
    SYSTEM_MAINTENANCE = 20
    DEFAULT = 0


_PRIORITIES = {priority.name.lower().replace("_", "-"): int(priority) for priority in Priority}
_SCHEDULER_WEIGHTS = {
    Priority.SYSTEM_CRITICAL: 8,
    Priority.USER_TRIGGERED: 4,
    Priority.SYSTEM_MAINTENANCE: 2,
    Priority.DEFAULT: 1,
}


def scheduler_weight(priority: int) -> int:
    """The share of links' turns and accelerators that a priority gives: 8, 4, 2 or 1 by the class it reaches."""
    return next(weight for least, weight in _SCHEDULER_WEIGHTS.items() if priority >= least)


def priority_name(priority: int) -> str:
    """As it is written in a spec."""
    return next((name for name, value in _PRIORITIES.items() if value == priority), str(priority))


def _read_priority(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    if value not in _PRIORITIES:
        raise ValueError(f"priority {value[:80]!r} is unknown: choose {', '.join(_PRIORITIES)} or a number, 0 to 100")
    return _PRIORITIES[value]


PriorityValue = Annotated[
    int,
    Field(ge=0, le=100),
    BeforeValidator(_read_priority),
    WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 0, "maximum": 100}, {"enum": list(_PRIORITIES)}]}),
]
_Percent = Annotated[int, Field(ge=1, le=MAX_ENGINE_PERCENT)]


class RetrySpec(Model):
    """What follows a failure: another attempt, at a fresh destination, after a wait that doubles each time."""

    #: The first one included.
    max_attempts: Annotated[int, Field(ge=1, le=MAX_ATTEMPTS)] = DEFAULT_MAX_ATTEMPTS
    backoff_seconds: Seconds = DEFAULT_BACKOFF_S
    max_backoff_seconds: Seconds = DEFAULT_MAX_BACKOFF_S


class AcceleratorsSpec(Model):
    """What one migration may use of each host's accelerators. Percent of one engine's time: 250 is two and a half."""

    #: Kinds that it counts for at admission; empty: it waits for none.
    kinds: Annotated[tuple[AcceleratorName, ...], Field(strict=False)] = ()
    #: Promised at least and allowed at most, of each pool that it uses; None: nothing promised, no cap.
    reservation_percent: _Percent | None = None
    cap_percent: _Percent | None = None


class MigrationSettings(Model):
    """What a policy and the fleet may both say; None: look further."""

    #: Wire bytes per second that one migration may send, its channels together.
    bandwidth_per_migration: Bandwidth | None = None
    #: Seconds for each GiB of memory; then the migration is given up.
    completion_timeout_per_gib: Annotated[WholeSeconds | None, Field(alias="completionTimeoutPerGiB")] = None
    #: Seconds in which nothing has moved; then it is given up.
    progress_timeout: WholeSeconds | None = None
    max_downtime_ms: DowntimeLimitMs | None = None
    #: QEMU may slow a guest down that writes faster than can be sent.
    allow_auto_converge: bool | None = None
    priority: PriorityValue | None = None
    #: From the fleet's submission to the migration's end.
    deadline_seconds: Seconds | None = None
    #: For one migration, from its start.
    timeout_seconds: Seconds | None = None
    retry: RetrySpec | None = None
    accelerators: AcceleratorsSpec | None = None


def _check_policies(policies: tuple["PolicySpec", ...]) -> tuple["PolicySpec", ...]:
    if len(policies) > MAX_POLICIES:
        raise ValueError(f"has {len(policies)} items: give at most {MAX_POLICIES}")
    return policies


class PolicySpec(MigrationSettings):
    """Settings for the machines whose labels it selects."""

    name: Name
    selector: Selector
    codec: CodecName | None = None
    level: int | None = None
    channels: Channels | None = None
    #: Each machine's share of the accelerators.
    weight: Weight | None = None


Policies = Annotated[
    tuple[PolicySpec, ...],
    Field(strict=False, json_schema_extra={"maxItems": MAX_POLICIES}),
    AfterValidator(_check_policies),
]


def policy_of(labels: Mapping[str, str], policies: Sequence[PolicySpec]) -> PolicySpec | None:
    """The policy that holds for a machine with these labels."""
    matching = [policy for policy in policies if policy.selector.items() <= labels.items()]
    return min(matching, key=_precedence, default=None)


def _precedence(policy: PolicySpec) -> tuple[int, list[tuple[str, str]], str]:
    return -len(policy.selector), sorted(policy.selector.items()), policy.name
