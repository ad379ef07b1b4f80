"""The pool's virtual rate follows what the device says; a standing queue is told from a burst."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.core.control import LEAST, MOST, NOMINAL, Control, QueueDelay, target_latency_ns
from scheduler.core.events import DeviceSample

MS = 1_000_000
TARGET_NS = 10 * MS
TICK_NS = 50 * MS

CALM = DeviceSample("h/iaa/0", busy_ns=0, completed=0, refused=0, occupancy=64, latency_p99_ns=9 * MS)


@dataclass
class Device:
    """A device that is looked at every tick; `look` says what it was like since."""

    control: Control = field(default_factory=Control)
    last: DeviceSample = CALM
    now_ns: int = 0

    def look(
        self, *, completed: int = 1000, refused: int = 0, occupancy: int = 64, latency_ns: int = 9 * MS,
        waiters: bool = True, after_ns: int = TICK_NS,
    ) -> int:  # fmt: skip
        self.now_ns += after_ns
        self.last = replace(
            self.last,
            busy_ns=self.last.busy_ns + completed * 1000,
            completed=self.last.completed + completed,
            refused=self.last.refused + refused,
            occupancy=occupancy,
            latency_p99_ns=latency_ns,
        )
        self.control = self.control.sample(self.last, self.now_ns, waiters, TARGET_NS)
        return self.control.vrate_permille

    def slow(self) -> int:
        return self.look(latency_ns=TARGET_NS + 1)

    def starving(self) -> int:
        return self.look(latency_ns=TARGET_NS * 3 // 4 - 1)


@pytest.fixture
def device() -> Device:
    started = Device()
    started.look()
    return started


def test_first_sample_is_only_where_counting_starts() -> None:
    device = Device()
    assert device.look(refused=1000, latency_ns=TARGET_NS * 9) == NOMINAL
    assert device.control.busy_in_a_row == 0


def test_one_slow_sample_changes_nothing_the_second_takes_four_steps(device: Device) -> None:
    assert [device.slow() for _ in range(4)] == [1000, 900, 800, 700]


def test_starving_raises_by_one_step_from_the_second_sample_on(device: Device) -> None:
    assert [device.starving() for _ in range(4)] == [1000, 1025, 1050, 1075]


def test_samples_that_disagree_move_nothing(device: Device) -> None:
    assert {rate for _ in range(10) for rate in (device.slow(), device.starving())} == {NOMINAL}


def test_a_good_sample_between_two_slow_ones_starts_the_count_again(device: Device) -> None:
    assert [device.slow(), device.look(), device.slow()] == [NOMINAL] * 3


@pytest.mark.parametrize("latency_ns", [TARGET_NS, TARGET_NS * 3 // 4])
def test_between_75_percent_and_the_target_nothing_moves(device: Device, latency_ns: int) -> None:
    assert {device.look(latency_ns=latency_ns) for _ in range(5)} == {NOMINAL}


def test_nobody_waits_so_a_short_queue_is_no_reason_to_raise(device: Device) -> None:
    assert {device.look(latency_ns=0, waiters=False) for _ in range(5)} == {NOMINAL}


def test_slow_but_getting_shorter_is_left_to_get_shorter(device: Device) -> None:
    assert {device.look(latency_ns=TARGET_NS * 2, occupancy=60 - tick) for tick in range(5)} == {NOMINAL}
    assert device.look(latency_ns=TARGET_NS * 2, occupancy=56) == 900


def test_starved_but_getting_longer_is_left_to_get_longer(device: Device) -> None:
    assert {device.look(latency_ns=MS, occupancy=65 + tick) for tick in range(5)} == {NOMINAL}
    assert device.look(latency_ns=MS, occupancy=69) == 1025


def test_refusals_lower_it_though_the_queue_gets_shorter(device: Device) -> None:
    assert [device.look(refused=100, occupancy=60 - tick) for tick in range(3)] == [NOMINAL, 900, 800]


def test_refusals_of_more_than_one_in_a_thousand_lower_it(device: Device) -> None:
    assert [device.look(completed=9990, refused=10) for _ in range(2)] == [NOMINAL, NOMINAL]
    assert [device.look(completed=9989, refused=11) for _ in range(2)] == [NOMINAL, 900]


def test_refusals_outrank_starving(device: Device) -> None:
    assert [device.look(refused=100, latency_ns=0) for _ in range(2)] == [NOMINAL, 900]


def test_more_dispatched_than_completed_for_long_lowers_it(device: Device) -> None:
    rates = [device.look(completed=100, occupancy=64 + 20 * tick) for tick in range(1, 16)]
    assert rates[8] == NOMINAL
    assert rates[-1] < NOMINAL


def test_a_burst_is_no_trend(device: Device) -> None:
    assert {device.look(completed=100, occupancy=128) for _ in range(10)} == {NOMINAL}


def test_a_device_that_holds_work_and_completes_none_is_busy(device: Device) -> None:
    assert [device.look(completed=0) for _ in range(4)] == [NOMINAL, NOMINAL, 900, 800]


def test_the_latency_of_long_ago_says_nothing_of_an_idle_device(device: Device) -> None:
    rates = [device.look(completed=0, occupancy=0, latency_ns=TARGET_NS * 9) for _ in range(3)]
    assert rates == [NOMINAL, 1025, 1050]


def test_rate_is_frozen_while_the_device_is_down(device: Device) -> None:
    device.slow(), device.slow()
    device.control = device.control.closed()
    assert {device.slow() for _ in range(5)} == {900}
    device.control = device.control.opened()
    assert [device.slow() for _ in range(3)] == [900, 900, 800]


@pytest.mark.parametrize("counter", ["busy_ns", "completed", "refused"])
def test_a_counter_that_goes_back_starts_counting_again(device: Device, counter: str) -> None:
    device.look(refused=1)
    device.slow()
    device.last = replace(device.last, **{counter: 0})
    device.now_ns += TICK_NS
    device.control = device.control.sample(device.last, device.now_ns, True, TARGET_NS)
    assert (device.control.last, device.control.busy_in_a_row) == (device.last, 0)
    assert [device.slow(), device.slow()] == [NOMINAL, 900]


def test_samples_too_close_together_count_once(device: Device) -> None:
    assert {device.look(latency_ns=TARGET_NS * 2, after_ns=MS) for _ in range(4)} == {NOMINAL}


def test_a_sample_that_arrives_late_counts_for_nothing(device: Device) -> None:
    late = replace(CALM, latency_p99_ns=TARGET_NS * 2)
    assert device.control.sample(late, device.now_ns - 1, True, TARGET_NS) is device.control


def test_samples_a_second_apart_are_not_in_a_row(device: Device) -> None:
    assert {device.look(latency_ns=TARGET_NS * 2, after_ns=1001 * MS) for _ in range(4)} == {NOMINAL}


def test_target_is_a_full_queue_and_a_quarter() -> None:
    # 128 entries of 10 us in 8 engines: 160 us.
    assert target_latency_ns(128, 8, 10_000) == 200_000
    assert target_latency_ns(9, 8, 1000) == 2500


@st.composite
def looks(draw: st.DrawFn) -> dict[str, int]:
    return {
        "completed": draw(st.sampled_from([-50, 0, 1, 1000])),
        "refused": draw(st.sampled_from([0, 0, 1, 100])),
        "occupancy": draw(st.sampled_from([0, 64, 128, 10_000])),
        "latency_ns": draw(st.sampled_from([0, TARGET_NS * 3 // 4, TARGET_NS, TARGET_NS + 1, 10**12])),
        "waiters": draw(st.booleans()),
        "after_ns": draw(st.sampled_from([-TICK_NS, 0, 5 * MS, TICK_NS, 10**10])),
    }


@given(st.lists(looks(), max_size=80))
def test_rate_stays_in_bounds_and_moves_by_one_up_or_four_down(history: list[dict[str, int]]) -> None:
    device = Device()
    before = NOMINAL
    for look in history:
        rate = device.look(**look)
        assert LEAST <= rate <= MOST
        assert rate - before in {-100, -75, -50, -25, 0, 25}
        assert rate - before in {-100, 0, 25} or rate == LEAST
        before = rate


@given(st.lists(looks(), max_size=40), st.lists(looks(), max_size=10))
def test_whatever_a_dead_device_says_leaves_the_rate_alone(
    before: list[dict[str, int]], dead: list[dict[str, int]]
) -> None:
    device = Device()
    for look in before:
        device.look(**look)
    rate = device.control.vrate_permille
    device.control = device.control.closed()
    assert {device.look(**look) for look in dead} <= {rate}


@pytest.mark.parametrize(("extreme", "bound"), [(Device.slow, LEAST), (Device.starving, MOST)])
def test_rate_reaches_its_bound_and_stays(device: Device, extreme: Callable[[Device], int], bound: int) -> None:
    assert [extreme(device) for _ in range(40)][-20:] == [bound] * 20


class Plant:
    """A queue of 2000 entries, served 100 a ms at best; a lease of 20 ms keeps the rate it was granted at."""

    SLOTS, BEST, LEASE_MS, SAMPLE_MS = 2000, 100, 20, 5

    def __init__(self) -> None:
        self.control = Control()
        self.target_ns = target_latency_ns(self.SLOTS, 1, MS // self.BEST)
        self.now_ms = self.queue = self.completed = self.leased_rate = 0

    def run(self, ms: int, slowdown_permille: int) -> list[tuple[int, int]]:
        """Work done and latency in ns, ms by ms; the device takes slowdown/1000 as long as it should."""
        trace = []
        for _ in range(ms):
            if self.now_ms % self.LEASE_MS == 0:
                self.leased_rate = self.control.vrate_permille
            self.queue = min(self.SLOTS, self.queue + self.BEST * self.leased_rate // 1000)
            served = min(self.queue, self.BEST * 1000 // slowdown_permille)
            latency_ns = self.queue * slowdown_permille // 1000 * MS // self.BEST
            self.queue -= served
            self.completed += served
            self.now_ms += 1
            if self.now_ms % self.SAMPLE_MS == 0:
                sample = DeviceSample("p", self.now_ms * MS, self.completed, 0, self.queue, latency_ns)
                self.control = self.control.sample(sample, self.now_ms * MS, True, self.target_ns)
            trace.append((served, latency_ns))
        return trace


def test_17_overload_1_4x_step_is_over_after_20_ms_of_control_and_two_leases() -> None:
    plant = Plant()
    plant.run(2000, slowdown_permille=1000)
    plant.queue = plant.SLOTS
    overload = plant.run(2000, slowdown_permille=1400)
    bound_ms = 20 + 2 * Plant.LEASE_MS
    assert overload[0][1] > plant.target_ns
    assert any(latency <= plant.target_ns for _, latency in overload[:bound_ms])
    # Then it probes the target from below; the queue is never full again (1.12 times the target).
    assert max(latency for _, latency in overload[bound_ms:]) <= 1.1 * plant.target_ns
    assert sum(latency > plant.target_ns for _, latency in overload[bound_ms:]) <= 0.1 * len(overload)
    # No collapse: 71 a ms is all the device can do now.
    assert sum(served for served, _ in overload) >= 0.98 * 71 * 2000


def test_17_overload_rate_settles_about_what_the_device_can_do() -> None:
    plant = Plant()
    plant.run(1000, slowdown_permille=1400)
    rates = []
    for _ in range(5000):
        plant.run(1, slowdown_permille=1400)
        rates.append(plant.control.vrate_permille)
    assert sum(rates) / len(rates) == pytest.approx(1000 / 1.4, rel=0.03)


def test_17_overload_is_followed_by_a_way_back_up() -> None:
    plant = Plant()
    plant.run(1000, slowdown_permille=1400)
    assert plant.control.vrate_permille < 900
    after = plant.run(2000, slowdown_permille=1000)
    assert sum(served for served, _ in after[1000:]) >= 0.98 * 100 * 1000


def test_a_standing_queue_is_told_after_one_interval_and_forgotten_after_one() -> None:
    queue = QueueDelay(target_ns=40 * MS)
    told = []
    for now_ms in range(0, 400, 10):
        queue = queue.sample(50 * MS if now_ms < 150 else MS, now_ms * MS)
        told.append(queue.overloaded)
    assert told == [False] * 10 + [True] * 10 + [False] * 20


def test_one_short_wait_in_an_interval_is_enough() -> None:
    queue = QueueDelay(target_ns=40 * MS)
    for now_ms in range(0, 1000, 10):
        queue = queue.sample(0 if now_ms % 100 == 50 else 500 * MS, now_ms * MS)
        assert not queue.overloaded


def test_a_wait_of_just_the_target_is_no_overload() -> None:
    queue = QueueDelay(target_ns=40 * MS)
    for now_ms in range(0, 300, 10):
        queue = queue.sample(40 * MS, now_ms * MS)
        assert not queue.overloaded


@given(st.lists(st.tuples(st.integers(0, 100), st.sampled_from([0, 39, 40, 41, 500])), max_size=60))
def test_overloaded_means_every_wait_of_an_interval_was_above_the_target(history: list[tuple[int, int]]) -> None:
    queue, now_ms, seen = QueueDelay(target_ns=40 * MS), 0, []
    for step_ms, wait_ms in history:
        now_ms += step_ms
        seen.append((now_ms, wait_ms))
        was, queue = queue.overloaded, queue.sample(wait_ms * MS, now_ms * MS)
        if queue.overloaded and not was:
            assert all(wait > 40 for at, wait in seen if at >= now_ms - 100)


@pytest.mark.parametrize("setting", [{"target_ns": 0}, {"target_ns": 1, "interval_ns": 0}])
def test_a_queue_without_target_or_interval_is_refused(setting: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="target of"):
        QueueDelay(**setting)
