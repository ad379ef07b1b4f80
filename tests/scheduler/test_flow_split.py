"""The split goes by what was measured, and by nothing before that."""

from dataclasses import replace

import pytest

from scheduler.core.effects import Outlook
from scheduler.flow_split import FlowSplit, PathTerms
from scheduler.sub_leases import FlowCounters

NOTHING = FlowCounters(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
OUTLOOK = Outlook("h", "f", "p", 0, 4_000_000_000)


def measured(device_ns: int, device_cpu_ns: int, cpu_ns: int) -> FlowSplit:
    """After a thousand pages on either path, at these costs per page."""
    split = FlowSplit()
    done = replace(
        NOTHING,
        used_ns=1000 * device_ns,
        accelerator_pages=1000,
        accelerator_cpu_ns=1000 * device_cpu_ns,
        cpu_pages=1000,
        cpu_ns=1000 * cpu_ns,
    )
    split.observe(NOTHING, done)
    return split


def test_everything_may_try_the_device_until_both_paths_were_measured() -> None:
    split = FlowSplit()
    split.decide(OUTLOOK, 0, critical=False)
    assert split.device_permille == 1000
    split.observe(NOTHING, replace(NOTHING, cpu_pages=100, cpu_ns=100_000))
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


def test_a_path_that_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="threads and ratios"):
        PathTerms(threads=0)
