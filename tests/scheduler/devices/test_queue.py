"""The work queue and its engines on a clock of the test's: who is served when, and what a full queue says."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.devices.cost import CostModel, OperationCost
from scheduler.devices.device import Operation
from scheduler.devices.emulated.queue import DescriptorFields, QueueSettings, WorkQueue
from tests.scheduler.devices.served_device import no_faults

#: 4096 bytes cost 1000 + 4096 x 0.5 = 3048 ns to compress, and a tenth of that to decompress.
COST = CostModel({Operation.COMPRESS: OperationCost(1000, 500), Operation.DECOMPRESS: OperationCost(100, 50)})
PAGE_NS = 3048
FAULT_NS = 9000


def pages(count: int) -> list[DescriptorFields]:
    return [(0, 4096, 0, 4096)] * count


def queue_of(slots: int, engines: int, draw_faults: Callable[[int], list[bool]] = no_faults) -> WorkQueue:
    return WorkQueue(QueueSettings(slots, engines, COST, FAULT_NS), draw_faults)


def offer(queue: WorkQueue, client: int, count: int, now_ns: int = 0, *, first: int = 0) -> int:
    return queue.offer(client, Operation.COMPRESS, pages(count), 1, first, now_ns, now_ns)


def compute_all(queue: WorkQueue) -> None:
    while (submission := queue.next_uncomputed()) is not None:
        submission.computed = len(submission.descriptors)


def completed(queue: WorkQueue, now_ns: int) -> list[tuple[int, int]]:
    """Client and number of descriptors, in the order that they become visible."""
    return [(submission.client, stop - start) for submission, start, stop in queue.complete(now_ns, now_ns)]


def test_descriptor_is_complete_when_its_modelled_time_has_passed_and_not_before() -> None:
    queue = queue_of(8, 1)
    assert offer(queue, 1, 1) == 1
    compute_all(queue)
    assert completed(queue, PAGE_NS - 1) == []
    assert completed(queue, PAGE_NS) == [(1, 1)]


def test_result_that_is_late_keeps_its_descriptor_in_the_queue() -> None:
    queue = queue_of(8, 1)
    offer(queue, 1, 1)
    assert completed(queue, 100 * PAGE_NS) == []
    compute_all(queue)
    assert completed(queue, 100 * PAGE_NS) == [(1, 1)]


@pytest.mark.parametrize("engines", [1, 2, 3, 8])
def test_engines_do_as_many_device_ns_per_ns_as_there_are(engines: int) -> None:
    queue = queue_of(64, engines)
    offer(queue, 1, 48)
    compute_all(queue)
    assert queue.next_due_ns() == 48 // engines * PAGE_NS
    queue.complete(10**9, 10**9)
    assert queue.statistics().busy_ns == 48 * PAGE_NS


def test_cost_of_a_decompression_is_that_of_its_output() -> None:
    queue = queue_of(8, 1)
    queue.offer(1, Operation.DECOMPRESS, [(0, 100, 0, 4096)], 1, 0, 0, 0)
    compute_all(queue)
    assert queue.next_due_ns() == COST.cost_ns(Operation.DECOMPRESS, 4096)


def test_full_queue_takes_from_the_front_and_counts_what_it_refused() -> None:
    queue = queue_of(10, 1)
    assert [offer(queue, client, 6) for client in (1, 2, 3)] == [6, 4, 0]
    assert queue.statistics().refused == 8
    assert queue.statistics().occupancy == 10


def test_entries_come_free_one_by_one_as_descriptors_complete() -> None:
    queue = queue_of(4, 1)
    offer(queue, 1, 4)
    compute_all(queue)
    assert completed(queue, 2 * PAGE_NS) == [(1, 2)]
    assert offer(queue, 2, 4, 2 * PAGE_NS) == 2


def test_clients_are_served_first_come_first_served_whoever_they_are() -> None:
    queue = queue_of(100, 1)
    for client, count in ((1, 30), (2, 1), (1, 10), (3, 2)):
        offer(queue, client, count)
    compute_all(queue)
    assert completed(queue, 31 * PAGE_NS) == [(1, 30), (2, 1)]
    assert completed(queue, 43 * PAGE_NS) == [(1, 10), (3, 2)]


def test_idle_engines_start_when_work_arrives_and_save_nothing_up() -> None:
    queue = queue_of(8, 2)
    offer(queue, 1, 1, 1_000_000)
    compute_all(queue)
    assert queue.next_due_ns() == 1_000_000 + PAGE_NS


def test_page_fault_costs_its_own_time_and_holds_back_what_is_behind_it_in_its_batch() -> None:
    queue = queue_of(8, 1, lambda count: [index == 0 for index in range(count)])
    offer(queue, 1, 2)
    compute_all(queue)
    assert completed(queue, FAULT_NS + PAGE_NS - 1) == [(1, 1)]
    assert completed(queue, FAULT_NS + PAGE_NS) == [(1, 1)]
    assert queue.statistics().busy_ns == FAULT_NS + PAGE_NS


def test_completions_of_one_batch_become_visible_in_order_whichever_engine_is_first() -> None:
    queue = queue_of(8, 2, lambda count: [index == 0 for index in range(count)])
    offer(queue, 1, 3)
    compute_all(queue)
    assert completed(queue, 2 * PAGE_NS) == []
    assert queue.statistics().occupancy == 3
    assert completed(queue, FAULT_NS) == [(1, 3)]


def test_client_that_goes_frees_its_entries_and_nobody_elses() -> None:
    queue = queue_of(10, 1)
    offer(queue, 1, 6)
    offer(queue, 2, 4)
    compute_all(queue)
    queue.complete(2 * PAGE_NS, 2 * PAGE_NS)
    queue.drop(1)
    assert queue.statistics().occupancy == 4
    assert completed(queue, 10 * PAGE_NS) == [(2, 4)]
    assert queue.statistics().occupancy == 0


def test_latency_is_counted_from_arrival_and_its_99th_percentile_sees_the_slow_one_in_fifty() -> None:
    queue = queue_of(200, 1)
    for arrival in range(49):
        offer(queue, 1, 1, arrival * 100_000)
        compute_all(queue)
        queue.complete(arrival * 100_000 + PAGE_NS, arrival * 100_000 + PAGE_NS)
    assert queue.statistics().latency_p99_ns == PAGE_NS
    offer(queue, 1, 1, 10**7)
    compute_all(queue)
    queue.complete(2 * 10**7, 2 * 10**7)
    assert queue.statistics().latency_p99_ns > PAGE_NS * 100


def test_operation_that_the_device_does_not_have_is_no_work() -> None:
    with pytest.raises(KeyError):
        queue_of(8, 1).offer(1, Operation.ZERO_SCAN, pages(1), 1, 0, 0, 0)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("offer"), st.integers(1, 4), st.sampled_from([1, 2, 7, 8, 16])),
        st.tuples(st.just("drop"), st.integers(1, 4), st.just(0)),
        st.tuples(st.just("pass"), st.sampled_from([0, 1, PAGE_NS - 1, PAGE_NS, 5 * PAGE_NS]), st.just(0)),
    ),
    max_size=40,
)


@given(STEPS, st.integers(1, 16), st.integers(1, 4))
def test_entries_are_never_lost_nor_taken_twice_whatever_happens(
    steps: list[tuple[str, int, int]], slots: int, engines: int
) -> None:
    queue = queue_of(slots, engines)
    held: dict[int, int] = {}
    now_ns = offered = done = accepted_all = 0
    for step, first, second in steps:
        if step == "offer":
            accepted = offer(queue, first, second, now_ns)
            assert accepted == min(second, slots - sum(held.values()))
            held[first] = held.get(first, 0) + accepted
            offered, accepted_all = offered + second, accepted_all + accepted
            compute_all(queue)
        elif step == "drop":
            queue.drop(first)
            held.pop(first, None)
        else:
            now_ns += first
            for client, count in completed(queue, now_ns):
                held[client] -= count
                done += count
        statistics = queue.statistics()
        assert statistics.occupancy == sum(held.values()) <= slots
        assert statistics.completed == done
        assert statistics.refused == offered - accepted_all
        assert statistics.busy_ns == done * PAGE_NS
        assert statistics.busy_ns <= engines * now_ns
