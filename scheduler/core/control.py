"""How much of a pool's nominal work is handed out, and whether its queue is too long: two small feedback loops.

`Control` keeps a pool's virtual rate: grants are worth lease_ns x engines x vrate. Costs are estimates and a device may
be slowed by page faults or by what is not ours, so the rate follows what the device says of itself, sample by sample:

    busy     if  p99 latency > target,  or more than 0.1 % of submissions refused,  or EMA(dispatched/completed) > 1.1
    starved  if  somebody waits  and  p99 latency < 75 % of target
    rate    -= 4 steps per busy sample,  += 1 step per starved one,  from the second such sample in a row on
    25 % <= rate <= 125 % of nominal,  a step is 2.5 %
    held     if  slow but the queue is getting shorter,  or starved but it is getting longer

Fast down, slow up: too much in the queue hurts who comes next, too little only the throughput, and that a little. With
1.4 times too much handed out, four samples are enough. Between 75 % and 100 % of the target nothing moves. (iocost's
busy and unbusy, Seastar's flow ratio, CockroachDB's 2:1 steps.)

Why held: the queue adds up what the rate is too high by, and the rate adds up verdicts on the queue. Two sums in a loop
swing. A queue that gets shorter shows that the rate is low enough already. In the toy plant of the tests (1.4 times too
much, leases of 20 ms, samples each 5 ms) the device was idle at times and did 92 % of what it could without holding,
99 % with it; the queue is below its target after 45 ms. The rate still swings between 38 % and 78 % about the right
71 %, since four samples pass before a lease of the first lower rate begins. With a sample each 100 ms, as hosts send
them, it takes 0.5 s.

Submissions are not counted by the device: dispatched = completed + growth of occupancy. A device that holds work and
completes none counts as dispatched/completed = 2. Counters are cumulative; one that went back means a device that
started anew, and its sample is only where counting starts again. While a pool is down the rate is frozen: what it was
before is the best guess for what it will be.

`QueueDelay` is CoDel as folly has it: overloaded if even the *least* wait of an interval was above the target. A burst
has a long wait and soon a short one; a queue that stands has none. It takes one interval to say so and one to forget.
"""

from dataclasses import dataclass, replace
from enum import Enum
from typing import Self

from scheduler.core.events import DeviceSample
from scheduler.core.units import PERMILLE

NOMINAL = PERMILLE
LEAST, MOST = 250, 1250
_STEP = 25
_STEPS_DOWN = 4
#: Samples in a row that say the same, before the rate moves.
_IN_A_ROW = 2
_STARVED_PERMILLE = 750
_REFUSED_PERMILLE = 1
_FLOW_PERMILLE = 1100
_STALLED_PERMILLE = 2000
#: A new sample's share of the moving average.
_EMA = 16
#: Samples closer together say nothing new; farther apart they are not "in a row".
_CLOSE_NS = 5_000_000
_APART_NS = 1_000_000_000
#: A full queue takes this much longer than the sum of its entries before that counts as slow.
_SLACK_PERMILLE = 1250


def target_latency_ns(slots: int, engines: int, service_ns: int) -> int:
    """Latency to be content with: a full queue of entries of `service_ns` each, and a quarter."""
    return -(-slots // engines) * service_ns * _SLACK_PERMILLE // PERMILLE


class ControlState(Enum):
    """What the last look at a device said."""

    DOWN = "down"
    BUSY = "busy"
    STARVED = "starved"
    STEADY = "steady"


@dataclass(frozen=True, slots=True)
class Control:
    """The virtual rate of one pool, and what it remembers of its device."""

    vrate_permille: int = NOMINAL
    down: bool = False
    #: Moving average of dispatched/completed.
    flow_permille: int = NOMINAL
    busy_in_a_row: int = 0
    starved_in_a_row: int = 0
    #: Counting starts here; None: at the next sample.
    last: DeviceSample | None = None
    last_ns: int = 0

    @property
    def state(self) -> ControlState:
        """For whoever looks on."""
        if self.down:
            return ControlState.DOWN
        if self.busy_in_a_row:
            return ControlState.BUSY
        return ControlState.STARVED if self.starved_in_a_row else ControlState.STEADY

    def closed(self) -> Self:
        """The device has gone: the rate stays."""
        return replace(self, down=True)

    def opened(self) -> Self:
        """It is back, with counters of its own."""
        return replace(self, down=False, last=None, flow_permille=NOMINAL, busy_in_a_row=0, starved_in_a_row=0)

    def sample(self, sample: DeviceSample, now_ns: int, waiters: bool, target_ns: int) -> Self:
        """After a look at the device. `waiters`: some flow would use more; `target_ns`: `target_latency_ns`."""
        last = self.last
        if self.down or (last is not None and now_ns - self.last_ns < _CLOSE_NS):
            return self
        if last is None or _went_back(last, sample):
            return replace(self.opened(), last=sample, last_ns=now_ns)
        flow = self.flow_permille + (_flow(last, sample, self.flow_permille) - self.flow_permille) // _EMA
        latency_ns = _latency_ns(last, sample)
        overrun = _refuses(last, sample) or flow > _FLOW_PERMILLE
        busy = overrun or latency_ns > target_ns
        starved = not busy and waiters and latency_ns * PERMILLE < target_ns * _STARVED_PERMILLE
        grown = sample.occupancy - last.occupancy
        held = not overrun and (grown < 0 if busy else grown > 0)
        in_a_row = now_ns - self.last_ns <= _APART_NS
        busy_in_a_row = (self.busy_in_a_row * in_a_row + 1) * busy
        starved_in_a_row = (self.starved_in_a_row * in_a_row + 1) * starved
        vrate = self.vrate_permille if held else _moved(self.vrate_permille, busy_in_a_row, starved_in_a_row)
        return replace(
            self,
            vrate_permille=vrate,
            flow_permille=flow,
            busy_in_a_row=busy_in_a_row,
            starved_in_a_row=starved_in_a_row,
            last=sample,
            last_ns=now_ns,
        )


@dataclass(frozen=True, slots=True)
class QueueDelay:
    """Whether a queue stands. Must be told of a wait of 0 when nobody waits; raises ValueError for a bad setting."""

    target_ns: int
    interval_ns: int = 100_000_000
    overloaded: bool = False
    #: When the interval began, and the least wait in it; None: none seen yet.
    since_ns: int = 0
    least_ns: int | None = None

    def __post_init__(self) -> None:
        if self.target_ns <= 0 or self.interval_ns <= 0:
            raise ValueError(f"a queue's target of {self.target_ns} ns, interval of {self.interval_ns} ns")

    def sample(self, wait_ns: int, now_ns: int) -> Self:
        """After a wait of `wait_ns` was seen. Intervals end with the first sample after their time is over."""
        if self.least_ns is None:
            return replace(self, since_ns=now_ns, least_ns=wait_ns)
        least_ns = min(self.least_ns, wait_ns)
        if now_ns - self.since_ns < self.interval_ns:
            return self if least_ns == self.least_ns else replace(self, least_ns=least_ns)
        return replace(self, overloaded=least_ns > self.target_ns, since_ns=now_ns, least_ns=wait_ns)


def _moved(vrate: int, busy_in_a_row: int, starved_in_a_row: int) -> int:
    if busy_in_a_row >= _IN_A_ROW:
        return max(LEAST, vrate - _STEPS_DOWN * _STEP)
    if starved_in_a_row >= _IN_A_ROW:
        return min(MOST, vrate + _STEP)
    return vrate


def _went_back(last: DeviceSample, sample: DeviceSample) -> bool:
    return sample.busy_ns < last.busy_ns or sample.completed < last.completed or sample.refused < last.refused


def _flow(last: DeviceSample, sample: DeviceSample, before: int) -> int:
    """Dispatched per completed since the last sample, permille; with nothing to go by, what it was before."""
    completed = sample.completed - last.completed
    if not completed:
        return _STALLED_PERMILLE if sample.occupancy else before
    dispatched = max(0, completed + sample.occupancy - last.occupancy)
    return min(dispatched * PERMILLE // completed, _STALLED_PERMILLE)


def _refuses(last: DeviceSample, sample: DeviceSample) -> bool:
    refused = sample.refused - last.refused
    dispatched = max(0, sample.completed - last.completed + sample.occupancy - last.occupancy)
    return refused * PERMILLE > (dispatched + refused) * _REFUSED_PERMILLE


def _latency_ns(last: DeviceSample, sample: DeviceSample) -> int:
    """The p99 latency; an idle device has none, whatever it was when it last completed something."""
    idle = sample.completed == last.completed and not sample.occupancy
    return 0 if idle else sample.latency_p99_ns
