"""The shared work queue of one device and its engines: first come, first served, with no client known from another.

Pure: times are arguments, faults are drawn by an argument, results are handed in. A descriptor starts on the engine
that is free first, in the order of submission over all clients, and is due `cost` later; E engines do E device-ns per
ns. It completes when it is due *and* its result is there, whichever is later: a host too slow for the model makes a
slower device, never a wrong one. Within one submission completions become visible in order.

An entry is taken from submission to completion. Hardware frees it when an engine fetches the descriptor, a few entries
earlier: here a busy answer comes no later than there. `due` times are device time (`clock`), arrivals real time.
"""

import heapq
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import accumulate

import numpy as np

from scheduler.devices.cost import CostModel
from scheduler.devices.device import Operation

#: Latencies kept for the percentile.
_LATENCIES = 4096
_PERCENTILE = 99
#: source, source_bytes, destination, capacity_bytes.
DescriptorFields = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class QueueSettings:
    """What the hardware is."""

    slots: int
    engines: int
    cost: CostModel
    #: What a descriptor costs that meets a page fault instead of its own work.
    fault_ns: int


@dataclass(slots=True, eq=False)
class Submission:
    """What the queue took of one message, in order; lists are (n,) and run in parallel."""

    client: int
    operation: Operation
    #: Of the message; the client is told when all of it is complete.
    sequence: int
    #: Where its completion records begin.
    first: int
    descriptors: list[DescriptorFields]
    arrived_ns: int
    faults: list[bool]
    #: When each may become visible, never less than the one before it.
    due_ns: list[int]
    #: Device-ns of all up to and including each.
    work_ns: list[int]
    status: bytearray = field(init=False)
    output_bytes: list[int] = field(init=False)
    #: How many have a result, and how many of these are visible.
    computed: int = 0
    completed: int = 0

    def __post_init__(self) -> None:
        self.status = bytearray(len(self.descriptors))
        self.output_bytes = [0] * len(self.descriptors)

    @property
    def done(self) -> bool:
        """Whether all of it is visible."""
        return self.completed == len(self.descriptors)


@dataclass(frozen=True, slots=True)
class QueueStatistics:
    """A snapshot; all but the last two are cumulative."""

    busy_ns: int
    completed: int
    refused: int
    occupancy: int
    latency_p99_ns: int


class WorkQueue:
    """See the module. `draw_faults` says for a number of descriptors which of them meet a page fault."""

    def __init__(self, settings: QueueSettings, draw_faults: Callable[[int], list[bool]]) -> None:
        self._settings = settings
        self._draw_faults = draw_faults
        self._free_at_ns = [0] * settings.engines
        #: Those with entries left, in order of arrival.
        self._submissions: deque[Submission] = deque()
        self._occupancy = 0
        self._busy_ns = 0
        self._completed = 0
        self._refused = 0
        self._latencies = np.zeros(_LATENCIES, dtype=np.int64)
        self._latency_count = 0

    def offer(
        self,
        client: int,
        operation: Operation,
        descriptors: list[DescriptorFields],
        sequence: int,
        first: int,
        device_ns: int,
        now_ns: int,
    ) -> int:
        """Take as many descriptors from the front as there is room for; returns how many. KeyError for an operation
        that the device does not have."""
        accepted = min(len(descriptors), self._settings.slots - self._occupancy)
        self._refused += len(descriptors) - accepted
        if not accepted:
            return 0
        taken = descriptors[:accepted]
        faults = self._draw_faults(accepted)
        costs = self._costs(operation, taken, faults)
        due_ns = accumulate(self._serve(costs, device_ns), max)
        self._submissions.append(
            Submission(client, operation, sequence, first, taken, now_ns, faults, list(due_ns), list(accumulate(costs)))
        )
        self._occupancy += accepted
        return accepted

    @property
    def occupancy(self) -> int:
        """Entries that are taken."""
        return self._occupancy

    def next_uncomputed(self) -> Submission | None:
        """The oldest submission that lacks results."""
        for submission in self._submissions:
            if submission.computed < len(submission.descriptors):
                return submission
        return None

    def complete(self, device_ns: int, now_ns: int) -> list[tuple[Submission, int, int]]:
        """What has become visible: submissions with the range of their descriptors, `done` where that was the rest."""
        visible = []
        for submission in self._submissions:
            start = submission.completed
            stop = bisect_right(submission.due_ns, device_ns, start, submission.computed)
            if stop > start:
                submission.completed = stop
                visible.append((submission, start, stop))
                self._count(submission, start, stop, now_ns)
        if any(submission.done for submission, _start, _stop in visible):
            self._submissions = deque(each for each in self._submissions if not each.done)
        return visible

    def next_due_ns(self) -> int | None:
        """When, in device time, the next submission is complete as a whole; None while none has all its results.

        A client is told once per submission, so nothing is gained by looking sooner.
        """
        computed = (each.due_ns[-1] for each in self._submissions if each.computed == len(each.descriptors))
        return min(computed, default=None)

    def drop(self, client: int) -> None:
        """Forget what a client has queued. The engines' time stays taken: descriptors under way cannot be stopped."""
        dropped = [each for each in self._submissions if each.client == client]
        self._occupancy -= sum(len(each.descriptors) - each.completed for each in dropped)
        self._submissions = deque(each for each in self._submissions if each.client != client)

    def statistics(self) -> QueueStatistics:
        """What the queue has done, and how full it is."""
        recent = self._latencies[: min(self._latency_count, _LATENCIES)]
        p99 = int(np.percentile(recent, _PERCENTILE)) if len(recent) else 0
        return QueueStatistics(self._busy_ns, self._completed, self._refused, self._occupancy, p99)

    def _costs(self, operation: Operation, descriptors: list[DescriptorFields], faults: list[bool]) -> list[int]:
        model, fault_ns = self._settings.cost.operations[operation], self._settings.fault_ns
        side = 3 if operation is Operation.DECOMPRESS else 1
        costs = {size: model.cost_ns(size) for size in {each[side] for each in descriptors}}
        return [fault_ns if fault else costs[each[side]] for each, fault in zip(descriptors, faults, strict=True)]

    def _serve(self, costs: list[int], device_ns: int) -> Iterator[int]:
        free = self._free_at_ns
        for cost in costs:
            finish = max(free[0], device_ns) + cost
            heapq.heapreplace(free, finish)
            yield finish

    def _count(self, submission: Submission, start: int, stop: int, now_ns: int) -> None:
        number = stop - start
        self._occupancy -= number
        self._completed += number
        self._busy_ns += submission.work_ns[stop - 1] - (submission.work_ns[start - 1] if start else 0)
        places = np.arange(self._latency_count, self._latency_count + number) % _LATENCIES
        self._latencies[places] = now_ns - submission.arrived_ns
        self._latency_count += number
