from dataclasses import replace

import pytest

from scheduler.simulate.bounds import broken
from scheduler.simulate.results import RunResult, VmResult, percentile

_VM = VmResult("vm", 1, 0, 1_000_000_000, 20_000_000, False, 1, 0, 0, ())


def _run(policy: str) -> RunResult:
    return RunResult(policy, (_VM, _VM), 1_000_000_000, 0, 5_000_000_000, {}, 0, (), 0, ())


def _results(**kuaka: object) -> dict[str, RunResult]:
    results = {policy: _run(policy) for policy in ("cpu", "fifo", "retry")}
    return {**results, "kuaka": replace(_run("kuaka"), **kuaka)}


def test_equal_runs_break_nothing() -> None:
    assert list(broken(_results())) == []


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"makespan_ns": 1_021_000_000}, "total 1.021 s, cpu takes 1.000 s"),
        ({"cpu_ns": 5_006_000_000}, "CPU 5.006 s, cpu takes 5.000 s"),
        ({"vms": (_VM, replace(_VM, failed=True))}, "1 failed"),
        ({"critical_waits_ns": (1_500_000,)}, "CRITICAL waits 1.50 ms"),
        ({"vms": (_VM, replace(_VM, time_ns=1_002_000_000))}, "worst VM 1.002 s, under fifo 1.000 s"),
        ({"vms": (_VM, replace(_VM, time_ns=500_000_000))}, "worst VM 1.000 s, average 0.750 s"),
    ],
)
def test_each_promise_is_told_apart(change: dict[str, object], line: str) -> None:
    assert list(broken(_results(**change))) == [line]


def test_unequal_weights_may_take_unequal_times() -> None:
    vms = (_VM, replace(_VM, time_ns=500_000_000, weight=4))
    assert list(broken(_results(vms=vms))) == []


def test_percentile_is_a_value_that_was_measured() -> None:
    assert percentile([3, 1, 2], 50) == 2
    assert percentile(list(range(1, 201)), 99) == 198
    assert percentile([5], 1) == 5


def test_jain_goes_by_speed_per_weight() -> None:
    even = _results(vms=(_VM, replace(_VM, weight=4, time_ns=250_000_000)))["kuaka"]
    assert even.jain() == pytest.approx(1)
    one_has_all = _results(vms=(_VM, replace(_VM, time_ns=10**15)))["kuaka"]
    assert one_has_all.jain() == pytest.approx(0.5, abs=1e-3)
