"""The split goes by what was measured, and by nothing before that."""

from dataclasses import replace

import pytest

from scheduler.core.effects import Outlook
from scheduler.flow_split import FlowSplit, PathTerms
from scheduler.sub_leases import FlowCounters

TICK_NS = 100_000_000
NOTHING = FlowCounters(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
OUTLOOK = Outlook("h", "f", "p", 0, 4_000_000_000)


def measured(device_ns: int, device_cpu_ns: int, cpu_ns: int, share_of_cpu: int = 1) -> FlowSplit:
    """After a thousand pages on either path, at these costs per page, one core shared among so many."""
    split = FlowSplit()
    done = NOTHING._replace(
        used_ns=1000 * device_ns,
        accelerator_pages=1000,
        accelerator_cpu_ns=1000 * device_cpu_ns,
        cpu_pages=1000,
        cpu_ns=1000 * cpu_ns,
    )
    split.observe(NOTHING, done, 1000 * cpu_ns * share_of_cpu)
    return split


def test_everything_may_try_the_device_until_both_paths_were_measured() -> None:
    split = FlowSplit()
    split.decide(OUTLOOK, 0, critical=False)
    assert split.device_permille == 1000
    split.observe(NOTHING, NOTHING._replace(cpu_pages=100, cpu_ns=100_000), TICK_NS)
    split.decide(OUTLOOK, 0, critical=False)
    assert split.device_permille == 1000


def test_a_path_that_costs_the_caller_more_than_the_work_itself_is_never_chosen() -> None:
    split = measured(device_ns=1_000, device_cpu_ns=5_000, cpu_ns=5_000)
    split.decide(OUTLOOK, 0, critical=False)
    assert split.device_permille == 0


def test_a_fast_device_gets_the_work_and_one_with_a_long_wait_does_not() -> None:
    split = measured(device_ns=1_000, device_cpu_ns=100, cpu_ns=50_000)
    split.decide(OUTLOOK, 0, critical=False)
    assert split.device_permille > 900
    late = replace(OUTLOOK, wait_ns=1_000_000_000)
    for _ in range(3):
        split.decide(late, 0, critical=False)
    assert split.device_permille == 0


def test_a_cpu_that_others_use_too_leaves_more_to_the_device() -> None:
    alone = measured(device_ns=40_000, device_cpu_ns=100, cpu_ns=10_000)
    shared = measured(device_ns=40_000, device_cpu_ns=100, cpu_ns=10_000, share_of_cpu=8)
    for split in (alone, shared):
        split.decide(replace(OUTLOOK, share_ns_s=500_000_000), 0, critical=False)
    assert 0 < alone.device_permille < 200 < 2 * alone.device_permille < shared.device_permille


def test_a_device_that_did_not_pay_is_tried_again_after_two_seconds() -> None:
    split = measured(device_ns=1_000, device_cpu_ns=5_000, cpu_ns=5_000)
    split.decide(OUTLOOK, 0, critical=False)
    for _ in range(19):
        split.observe(NOTHING, NOTHING, TICK_NS)
    assert split.device_permille == 0
    split.observe(NOTHING, NOTHING, TICK_NS)
    assert split.device_permille == 1000


def test_a_path_that_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="threads and ratios"):
        PathTerms(threads=0)
