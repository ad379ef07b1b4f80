import pytest
import simpy

from scheduler.simulate.fair_share import FairShare


def _ends(capacity: float, limit: float, jobs: list[tuple[int, float]]) -> list[int]:
    """When jobs (arrival, amount) end."""
    env = simpy.Environment()
    share = FairShare(env, capacity, limit)
    ends: dict[int, int] = {}

    def job(index: int, arrival_ns: int, amount: float):
        yield env.timeout(arrival_ns)
        yield share.work(amount)
        ends[index] = env.now

    for index, (arrival_ns, amount) in enumerate(jobs):
        env.process(job(index, arrival_ns, amount))
    env.run()
    return [ends[index] for index in range(len(jobs))]


def test_alone_a_job_gets_the_limit_not_the_capacity() -> None:
    assert _ends(8.0, 1.0, [(0, 1000)]) == [1000]


def test_as_many_jobs_as_capacity_do_not_slow_each_other() -> None:
    assert _ends(4.0, 1.0, [(0, 1000)] * 4) == [1000] * 4


def test_more_jobs_than_capacity_share_it_evenly() -> None:
    assert _ends(2.0, 1.0, [(0, 1000)] * 8) == [4000] * 8


def test_a_job_speeds_up_when_another_has_ended() -> None:
    # Both at 1/2 until the short one ends at 400; the long one has 800 left and is alone.
    assert _ends(1.0, 1.0, [(0, 1000), (0, 200)]) == [1200, 400]


def test_a_late_job_slows_the_one_that_runs() -> None:
    assert _ends(1.0, 1.0, [(0, 1000), (500, 1000)]) == [1500, 2000]


def test_one_who_spins_takes_a_share_and_is_counted_as_used() -> None:
    env = simpy.Environment()
    share = FairShare(env, 1.0, 1.0)
    share.occupy()
    done = share.work(500)
    env.run(until=done)
    assert env.now == 1000
    share.vacate()
    assert share.used() == pytest.approx(1000)


def test_no_work_is_lost_or_made_up_however_jobs_overlap() -> None:
    jobs = [(index * 37 % 101, 50.0 + index * 13 % 29) for index in range(60)]
    ends = _ends(3.0, 1.0, jobs)
    total = sum(amount for _, amount in jobs)
    assert max(ends) >= total / 3
    assert max(ends) <= total / 3 + 101 + 80
