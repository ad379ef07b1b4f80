"""The plan of a spec: order, times, who cannot go, fewer at once where that is sooner, what was assumed."""

from pathlib import Path
from typing import Any

import pytest

from pipeline.fleet.plan.admission import admit
from pipeline.fleet.plan.from_spec import Assumptions, Size, limits_of, request_of
from pipeline.fleet.plan.plan import Plan, Sightings, make_plan
from pipeline.fleet.spec_file import load_spec
from tests.fleet.plan.specs import GIB, fleet, guest, image

EXAMPLES = sorted((Path(__file__).parents[3] / "examples").glob("*fleet*.yaml"))


def vms(plan: Plan) -> list[str]:
    return [migration.vm for migration in plan.migrations]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_every_example_has_a_plan_in_which_all_go_in_time(path: Path) -> None:
    spec = load_spec(path)
    plan = make_plan(spec)
    assert set(vms(plan)) == {vm.name for vm in spec.spec.virtual_machines}
    assert dict(plan.cannot_go) == {}
    assert [migration.vm for migration in plan.migrations if migration.late_s] == []
    assert plan.whole_s == max(migration.ends_s for migration in plan.migrations)


def test_priority_and_policy_decide_the_order() -> None:
    policies = [{"name": "gold", "selector": {"tier": "db"}, "priority": "user-triggered"}]
    plan = make_plan(
        fleet(
            guest("plain"),
            guest("db", labels={"tier": "db"}),
            guest("console", priority="system-critical"),
            policies=policies,
            parallelMigrationsPerCluster=1,
        )
    )
    assert vms(plan) == ["console", "db", "plain"]
    assert [(migration.priority, migration.policy) for migration in plan.migrations] == [
        (100, None),
        (50, "gold"),
        (0, None),
    ]
    assert [migration.waits_for for migration in plan.migrations] == [
        None,
        "1/1 in the cluster",
        "behind 1 of priority 50",
    ]


def test_the_first_to_begin_are_those_that_would_be_admitted_live() -> None:
    spec = fleet(*(guest(f"g{n}", "ab"[n % 2], "cd"[n % 2], memory=f"{n + 1}GiB") for n in range(9)))
    plan = make_plan(spec)
    requests = [
        request_of(spec, vm, (number + 1) * GIB, number) for number, vm in enumerate(spec.spec.virtual_machines)
    ]
    admitted = admit(requests, [], plan.limits, {}).admitted
    assert [f"test/{migration.vm}" for migration in plan.migrations if migration.begins_s == 0] == list(admitted)


def test_a_guest_that_outruns_its_bandwidth_cannot_go_and_takes_no_place() -> None:
    mad = guest("mad", dirtyRate="900MB")
    plan = make_plan(fleet(mad, guest("calm"), codec="none", bandwidthPerMigration="50MB"))
    assert vms(plan) == ["calm"]
    assert plan.cannot_go["mad"].startswith("it writes 900 MB/s and at most 81.97 MB/s of its memory can move")
    assert plan.migrations[0].begins_s == 0
    allowed = make_plan(fleet(mad, codec="none", bandwidthPerMigration="50MB", allowAutoConverge=True))
    assert vms(allowed) == ["mad"]


def test_a_deadline_out_of_reach_is_a_reason_and_one_missed_in_the_queue_is_shown() -> None:
    plan = make_plan(
        fleet(
            image("hopeless", memory="64GiB", deadlineSeconds=30),
            image("first", memory="8GiB", deadlineSeconds=25),
            image("late", memory="8GiB", deadlineSeconds=25),
            parallelMigrationsPerCluster=1,
        )
    )
    assert plan.cannot_go["hopeless"].startswith("alone it takes about ")
    assert [(migration.vm, bool(migration.late_s)) for migration in plan.migrations] == [
        ("first", False),
        ("late", True),
    ]


def test_what_was_seen_wins_over_assumptions_and_the_spec_over_both() -> None:
    unknown: dict[str, Any] = {"memory": None}
    spec = fleet(guest("said"), guest("seen", **unknown), guest("nobody-knows", **unknown), image("blob", **unknown))
    sizes = {name: Size(7 * GIB, "QMP") for name in ("said", "seen")}
    plan = make_plan(spec, Sightings(sizes, notes=("blob: not here",)))
    known = {migration.vm: (migration.memory_bytes, migration.memory_known_by) for migration in plan.migrations}
    assert known == {
        "said": (GIB, "spec"),
        "seen": (7 * GIB, "QMP"),
        "nobody-knows": (4 * GIB, "assumed"),
        "blob": (GIB, "assumed"),
    }
    assert plan.assumptions == (
        "nobody-knows: memory is not known, taken as 4 GiB: say memory",
        "blob: memory is not known, taken as 1 GiB: say memory",
        "said, seen, nobody-knows: what the guest writes is not known, taken as nothing: say dirtyRate",
        "blob: not here",
    )


def test_who_was_seen_to_be_unfit_cannot_go() -> None:
    plan = make_plan(fleet(guest("fit"), guest("unfit")), Sightings(refused={"unfit": "its disk stays behind"}))
    assert (vms(plan), dict(plan.cannot_go)) == (["fit"], {"unfit": "its disk stays behind"})


def test_fewer_go_at_once_where_guests_write_and_it_says_so() -> None:
    hosts = [{"name": name, "node": name, "linkCapacity": "200MB"} for name in "abcd"]
    machines = [guest(f"g{n}", destination="bcd"[n % 3], dirtyRate="60MB") for n in range(12)]
    fields = {"hosts": hosts, "codec": "none", "parallelOutboundMigrationsPerNode": 4}
    spec = fleet(*machines, **fields)
    plan = make_plan(spec)
    assert plan.limits.outbound_of("a") < 4
    assert plan.fewer_at_once["a"] == f"{plan.limits.outbound_of('a')} of 4 outbound"
    calm = make_plan(fleet(*(dict(machine, dirtyRate=0) for machine in machines), **fields))
    assert calm.limits == limits_of(fleet(*machines, **fields))
    assert calm.fewer_at_once == {}


def test_hosts_on_this_machine_share_its_cores() -> None:
    hosts = [{"name": name} for name in "abcd"]
    machines = [image(f"i{n}", "ab"[n % 2], "cd"[n % 2]) for n in range(4)]
    alone = make_plan(fleet(*machines, hosts=hosts), assumptions=Assumptions(local_cores=64))
    crowded = make_plan(fleet(*machines, hosts=hosts), assumptions=Assumptions(local_cores=1))
    assert crowded.whole_s > 3 * alone.whole_s


def test_limits_are_those_of_the_spec_with_its_hosts_own() -> None:
    hosts = [
        {"name": "a", "linkCapacity": "100MB", "parallelOutboundMigrations": 7},
        {"name": "b", "parallelInboundMigrations": 1, "acceleratorMigrations": {"iaa": 3}},
    ]
    limits = limits_of(fleet(guest("g"), hosts=hosts, parallelMigrationsPerCluster=9))
    assert (limits.cluster, limits.outbound_of("a"), limits.outbound_of("b")) == (9, 7, 2)
    assert (limits.inbound_of("a"), limits.inbound_of("b")) == (2, 1)
    assert limits.link_bytes_s == {"a": 100_000_000}
    assert limits.pool_flows == {"b/iaa": 3}


def test_a_request_has_its_priority_as_weight_and_its_pools_at_both_ends() -> None:
    spec = fleet(
        guest("g", deadlineSeconds=2),
        weight=3,
        priority="user-triggered",
        bandwidthPerMigration="50MB",
        accelerators={"kinds": ["iaa", "qat"]},
    )
    (vm,) = spec.spec.virtual_machines
    request = request_of(spec, vm, GIB, 5, fleet="mine", began_ns=1000)
    assert (request.id, request.fleet, request.submitted) == ("mine/g", "mine", 5)
    assert (request.priority, request.weight, request.rate_bytes_s) == (50, 12, 50_000_000)
    assert request.pools == ("a/iaa", "b/iaa", "a/qat", "b/qat")
    assert request.deadline_ns == 2_000_001_000


@pytest.mark.parametrize(
    ("fields", "limit"),
    [
        ({"completionTimeoutPerGiB": 5}, "it is given up after 40 s"),
        ({"timeoutSeconds": 30}, "it is given up after 30 s"),
    ],
)
def test_a_migration_that_would_be_given_up_alone_cannot_go(fields: dict[str, Any], limit: str) -> None:
    slow = {"bandwidthPerMigration": "50MB", **fields}
    plan = make_plan(fleet(image("slow", memory="8GiB"), image("small", memory="64MiB"), **slow))
    assert vms(plan) == ["small"]
    assert limit in plan.cannot_go["slow"]


def test_a_small_machine_is_given_the_time_of_a_gibibyte() -> None:
    assert vms(make_plan(fleet(guest("tiny", memory="1MiB"), completionTimeoutPerGiB=1))) == ["tiny"]
