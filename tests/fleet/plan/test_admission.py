"""Admission: no limit exceeded, strict priority, fairness by the byte, all in its turn, the same order always."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.fleet.plan.admission import Admission, admit, head_start
from pipeline.fleet.plan.limits import Limits
from pipeline.fleet.plan.requests import Request
from tests.fleet.plan import naive_admission

HOSTS = ("a", "b", "c", "d")
POOLS = ("a/iaa", "b/iaa", "c/qat")
FLEETS = {"red": 1, "blue": 1, "green": 3}
MIB = 1 << 20
EXAMPLES = settings(max_examples=50, deadline=None)


def request(name: str, **fields: Any) -> Request:
    given_fields = {
        "fleet": "red",
        "source": "a",
        "destination": "b",
        "priority": 0,
        "weight": 1,
        "memory_bytes": 100 * MIB,
        "submitted": 0,
        **fields,
    }
    return Request(f"{given_fields['fleet']}/{name}", **given_fields)


@st.composite
def requests(draw: st.DrawFn, most: int = 24, **fixed: Any) -> list[Request]:
    found = []
    for number in range(draw(st.integers(0, most))):
        fleet = draw(st.sampled_from(sorted(FLEETS)))
        fields = {
            "fleet": fleet,
            "weight": FLEETS[fleet],
            "source": draw(st.sampled_from(HOSTS)),
            "destination": draw(st.sampled_from(HOSTS)),
            "priority": draw(st.sampled_from((0, 0, 50, 100))),
            "memory_bytes": draw(st.integers(1, 5)) * MIB,
            "submitted": number,
            "rate_bytes_s": draw(st.sampled_from((None, 30, 60, 500))),
            "pools": tuple(draw(st.sets(st.sampled_from(POOLS), max_size=2))),
            "deadline_ns": draw(st.sampled_from((None, None, 10, 20))),
        }
        found.append(request(f"{number}", **{**fields, **fixed}))
    return found


limits = st.builds(
    Limits,
    cluster=st.integers(1, 8),
    outbound_per_host=st.integers(1, 3),
    inbound_per_host=st.integers(1, 3),
    link_bytes_s=st.dictionaries(st.sampled_from(HOSTS), st.integers(50, 200)),
    pool_flows=st.dictionaries(st.sampled_from(POOLS), st.integers(1, 3)),
    outbound=st.dictionaries(st.sampled_from(HOSTS), st.integers(1, 4)),
)


def run(
    waiting: Sequence[Request], most: Limits, seed: int, late: Sequence[Request] = ()
) -> list[tuple[list[Request], list[Request]]]:
    """Admit, end one that runs (chosen by the seed), until nothing is left: what began and what ran, each time."""
    admission = Admission(most, {})
    for each in waiting:
        admission.add(each)
    running: list[Request] = []
    steps = []
    late = list(late)
    while True:
        began = admission.admit()
        running += began
        steps.append((began, list(running)))
        if not running:
            return steps
        seed = seed * 6364136223846793005 + 1 & (1 << 64) - 1
        ended = running.pop((seed >> 33) % len(running))
        admission.ended(ended.id)
        if late:
            admission.add(late.pop())


@EXAMPLES
@given(requests(), requests(most=6), limits, st.sets(st.sampled_from(POOLS), max_size=1))
def test_it_decides_as_if_it_looked_at_everything_each_time(
    waiting: list[Request], others: list[Request], most: Limits, stopped: set[str]
) -> None:
    running: list[Request] = []
    for other in others:
        other = replace(other, id=f"other/{other.id}")
        if naive_admission.fits(other, running, most):
            running.append(other)
    served = {"red": 3 * MIB, "green": 8 * MIB}
    decision = admit(waiting, running, most, served, stopped)
    assert list(decision.admitted) == naive_admission.admit(waiting, running, most, served, stopped)
    assert set(decision.admitted) | set(decision.waiting) == {each.id for each in waiting}
    assert not set(decision.admitted) & set(decision.waiting)
    assert all(decision.waiting.values())


@EXAMPLES
@given(requests(), requests(most=8), limits, st.integers(0, 1 << 32))
def test_step_by_step_it_decides_as_if_it_looked_at_everything_each_time(
    waiting: list[Request], later: list[Request], most: Limits, seed: int
) -> None:
    late = [replace(each, id=f"late/{each.id}") for each in later]
    left = list(waiting)
    arriving = list(late)
    charged: dict[str, int] = {}
    running: list[Request] = []
    for began, now in run(waiting, most, seed, late):
        served = {
            fleet: charged.get(fleet, 0) - sum(each.memory_bytes for each in running if each.fleet == fleet)
            for fleet in FLEETS
        }
        still = [each for each in running if each in now]
        ended = [each for each in running if each not in now]
        for each in ended:
            served[each.fleet] += each.memory_bytes
        if ended and arriving:
            left.append(arriving.pop())
        assert [each.id for each in began] == naive_admission.admit(left, still, most, served)
        left = [each for each in left if each not in began]
        for each in began:
            charged[each.fleet] = charged.get(each.fleet, 0) + each.memory_bytes
        running = now
    assert left == []


@EXAMPLES
@given(requests(), limits, st.integers(0, 1 << 32))
def test_no_limit_is_ever_exceeded_and_everything_begins_once(waiting: list[Request], most: Limits, seed: int) -> None:
    steps = run(waiting, most, seed)
    for _, running in steps:
        assert naive_admission.excess(running, most) == set()
    began = [each.id for step, _ in steps for each in step]
    assert sorted(began) == sorted(each.id for each in waiting)


@EXAMPLES
@given(requests(), limits, st.integers(0, 1 << 32))
def test_nothing_begins_while_something_of_higher_priority_waits(
    waiting: list[Request], most: Limits, seed: int
) -> None:
    began = [each.priority for step, _ in run(waiting, most, seed) for each in step]
    assert began == sorted(began, reverse=True)


@EXAMPLES
@given(
    st.lists(st.integers(1, 50), min_size=1, max_size=15),
    st.lists(st.integers(1, 50), min_size=1, max_size=15),
    st.integers(1, 5),
    st.integers(0, 1 << 32),
)
def test_two_equal_fleets_are_never_farther_apart_than_one_migration(
    red: list[int], blue: list[int], cluster: int, seed: int
) -> None:
    waiting = [
        request(f"{number}", fleet=fleet, memory_bytes=size, submitted=number)
        for fleet, sizes in (("red", red), ("blue", blue))
        for number, size in enumerate(sizes)
    ]
    charged = {"red": 0, "blue": 0}
    left = {"red": len(red), "blue": len(blue)}
    largest = max(*red, *blue)
    for began, _ in run(waiting, Limits(cluster, 10, 10), seed):
        for each in began:
            charged[each.fleet] += each.memory_bytes
            left[each.fleet] -= 1
            if min(left.values()) > 0:
                assert abs(charged["red"] - charged["blue"]) <= largest


def test_a_fleet_of_three_times_the_weight_has_three_times_the_bytes() -> None:
    waiting = [
        request(f"{number}", fleet=fleet, weight=weight, memory_bytes=MIB, submitted=number)
        for fleet, weight in (("red", 1), ("green", 3))
        for number in range(60)
    ]
    began = [each.fleet for step, _ in run(waiting, Limits(2, 10, 10), 7) for each in step]
    assert began[:40].count("green") == 30


@EXAMPLES
@given(requests(), limits, st.randoms(use_true_random=False))
def test_the_order_does_not_depend_on_that_of_the_arguments(waiting: list[Request], most: Limits, random: Any) -> None:
    mixed = list(waiting)
    random.shuffle(mixed)
    assert admit(mixed, [], most, {}) == admit(waiting, [], most, {})


def test_each_reason_names_the_limit_and_the_place() -> None:
    most = Limits(4, 2, 2, link_bytes_s={"d": 100 * 10**6}, pool_flows={"c/iaa": 1})
    running = [
        request("r1", source="a", destination="b"),
        request("r2", source="a", destination="c", pools=("c/iaa",)),
        request("r3", source="b", destination="d", rate_bytes_s=80 * 10**6),
    ]
    waiting = [
        request("out", source="a", destination="d"),
        request("link", source="c", destination="d", rate_bytes_s=30 * 10**6),
        request("pool", source="b", destination="c", pools=("c/iaa",)),
        request("held", source="b", destination="c", pools=("b/iaa",)),
        request("fits", source="c", destination="b", submitted=1, priority=0),
        request("full", source="c", destination="b", submitted=2),
    ]
    decision = admit(waiting, running, most, {}, {"b/iaa"})
    assert decision.admitted == ("red/fits",)
    assert dict(decision.waiting) == {
        "red/out": "2/2 outbound on a",
        "red/link": "80 of 100 MB/s promised in on d, wants 30",
        "red/pool": "1/1 flows on c/iaa",
        "red/held": "b/iaa is overloaded",
        "red/full": "2/2 inbound on b",
    }


def test_what_waits_behind_a_higher_priority_says_so() -> None:
    waiting = [request("urgent", source="b", destination="a", priority=100), request("later", source="c")]
    decision = admit(waiting, [request("r", source="b")], Limits(9, 1, 2), {})
    assert dict(decision.waiting) == {"red/urgent": "1/1 outbound on b", "red/later": "behind 1 of priority 100"}


def test_a_full_cluster_is_a_reason() -> None:
    decision = admit([request("w", source="b", destination="c")], [request("r")], Limits(1, 1, 1), {})
    assert dict(decision.waiting) == {"red/w": "1/1 in the cluster"}


def test_what_waits_for_a_stopped_pool_holds_nobody_back() -> None:
    waiting = [request("urgent", priority=100, pools=("a/iaa",)), request("later")]
    assert admit(waiting, [], Limits(), {}, {"a/iaa"}).admitted == ("red/later",)


def test_one_id_is_one_migration() -> None:
    one = request("one")
    assert admit([one, one], [], Limits(), {}).admitted == ("red/one",)
    decision = admit([one], [one, one], Limits(2, 2, 2), {})
    assert (decision.admitted, decision.waiting) == ((), {})
    assert admit([request("two")], [one, one], Limits(2, 2, 2), {}).admitted == ("red/two",)


def test_within_a_fleet_deadlines_go_first_and_then_the_largest() -> None:
    waiting = [
        request("small", memory_bytes=1),
        request("large", memory_bytes=9, submitted=3),
        request("soon", memory_bytes=2, deadline_ns=5),
        request("second", memory_bytes=1, submitted=1),
    ]
    admitted = admit(waiting, [], Limits(9, 9, 9), {}).admitted
    assert admitted == ("red/soon", "red/large", "red/small", "red/second")


def test_a_fleet_that_joins_late_starts_level_with_the_others() -> None:
    served = {"red": 1000, "green": 4500}
    assert head_start(served, {"red": 1, "green": 3}, 1) == 1000
    assert head_start(served, {"green": 3}, 2) == 3000
    assert head_start(served, {}, 2) == 0


def test_the_work_of_deciding_grows_with_the_migrations_and_not_with_their_square() -> None:
    looks = {}
    for count in (1000, 2000):
        waiting = [
            request(f"{n}", source=f"s{n % 50}", destination=f"d{n * 7 % 53}", submitted=n, memory_bytes=1 + n % 9)
            for n in range(count)
        ]
        admission = Admission(Limits(100, 2, 2), {})
        for each in waiting:
            admission.add(each)
        running: list[Request] = []
        began = 0
        while True:
            new = admission.admit()
            running += new
            began += len(new)
            if not running:
                break
            admission.ended(running.pop(0).id)
        assert began == count
        looks[count] = admission.looks
    assert looks[2000] <= 10 * 2000
    assert looks[2000] <= 2.5 * looks[1000]
