"""Pools for a live view: asked for once a second, never waited for, none where nobody answers."""

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import replace

from pipeline.fleet.pool_looks import STALE_S, Answer, PoolLooks
from scheduler.core.events import PoolSettings
from scheduler.core.machine import Scheduler
from scheduler.core.units import AcceleratorKind
from scheduler.service import SchedulerService, ServiceStatistics
from scheduler.ticks import OpenPool, Tick
from tests.scheduler.epoch_memory import Clock, EpochMemory


def snapshot() -> ServiceStatistics:
    service = SchedulerService(EpochMemory(), Scheduler, Clock())
    news = OpenPool(PoolSettings("run/a/iaa/0", "run/a", AcceleratorKind.IAA, 128, 16, 8))
    service.tick(Tick("run/a", 1, 1, 0, (news,), 1, True, (), (), 0))
    return service.statistics()


def answered(found: ServiceStatistics) -> Answer:
    answer: Answer = Future()
    answer.set_result(found)
    return answer


class Asked:
    """What is answered, question by question."""

    def __init__(self, answers: Sequence[Answer | None]) -> None:
        self.count = 0
        self._answers = list(answers)

    def __call__(self) -> Answer | None:
        self.count += 1
        return self._answers.pop(0)


def names(pools: PoolLooks, now_s: float) -> list[str]:
    return [pool.pool for pool in pools.look(now_s)]


def test_the_scheduler_is_asked_once_a_second_however_often_somebody_looks() -> None:
    asked = Asked([answered(snapshot())] * 3)
    pools = PoolLooks(asked)
    for quarter in range(9):
        assert names(pools, 100 + quarter / 4) == ["run/a/iaa/0"]
    assert asked.count == 3


def test_an_answer_that_is_late_is_not_waited_for_nor_asked_for_again() -> None:
    late: Answer = Future()
    asked = Asked([answered(snapshot()), late])
    pools = PoolLooks(asked)
    names(pools, 100)
    # What was known holds for a while.
    assert names(pools, 102) == ["run/a/iaa/0"]
    assert names(pools, 100 + STALE_S + 1) == []
    assert asked.count == 2
    late.set_result(snapshot())
    assert names(pools, 100 + STALE_S + 2) == ["run/a/iaa/0"]


def test_a_scheduler_that_is_missing_or_dies_has_no_pools_until_there_is_one_again() -> None:
    died: Answer = Future()
    died.set_exception(RuntimeError("it died"))
    pools = PoolLooks(Asked([None, answered(snapshot()), died, answered(snapshot())]))
    assert [names(pools, second) for second in range(100, 104)] == [[], ["run/a/iaa/0"], [], ["run/a/iaa/0"]]


def test_pools_of_hosts_that_are_gone_are_not_shown() -> None:
    found = snapshot()
    gone = replace(found, host_names=frozenset())
    assert names(PoolLooks(Asked([answered(gone)])), 100) == []
