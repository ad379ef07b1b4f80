"""How a flow's work is shared between device, CPU and raw."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.core.split import (
    CPU_ONLY,
    DEVICE_ONLY,
    RAW_ONLY,
    Split,
    SplitInputs,
    SplitState,
    allowed,
    cheapest,
    choose,
    cost,
    cpu_price,
)

MB = 1_000_000
BATCH = 512 * 1024

#: An idle device of 1 GB/s beside a CPU of 250 MB/s, a fast link, CPU time for nothing.
PLAIN = SplitInputs(
    batch_bytes=MB,
    wait_ns=0,
    device_bytes_s=1000 * MB,
    cpu_bytes_s=250 * MB,
    link_bytes_s=10_000 * MB,
    ratio_device_permille=2000,
    ratio_cpu_permille=2000,
    device_cpu_ns=100_000,
    cpu_cpu_ns=4_000_000,
    cpu_price_permille=0,
    raw_allowed=False,
)


def times(longest_ns: int = 100_000_000) -> st.SearchStrategy[int]:
    return st.sampled_from([0, 1, 1000, 500_000, 2_000_000]) | st.integers(0, longest_ns)


def rates(least: int) -> st.SearchStrategy[int]:
    return st.sampled_from([least, MB, 250 * MB, 12_500 * MB]) | st.integers(least, 50_000 * MB)


@st.composite
def inputs(draw: st.DrawFn) -> SplitInputs:
    return SplitInputs(
        batch_bytes=draw(st.sampled_from([1, 4096, BATCH]) | st.integers(1, 4 << 20)),
        wait_ns=draw(times()),
        device_bytes_s=draw(rates(0)),
        cpu_bytes_s=draw(rates(1)),
        link_bytes_s=draw(rates(0)),
        ratio_device_permille=draw(st.integers(900, 20_000)),
        ratio_cpu_permille=draw(st.integers(900, 20_000)),
        device_cpu_ns=draw(times(5_000_000)),
        cpu_cpu_ns=draw(times(5_000_000)),
        cpu_price_permille=draw(st.integers(0, 4000)),
        raw_allowed=draw(st.booleans()),
    )


@st.composite
def splits(draw: st.DrawFn) -> Split:
    device = draw(st.sampled_from([0, 1, 999, 1000]) | st.integers(0, 1000))
    cpu = draw(st.integers(0, 1000 - device))
    return Split(device, cpu, 1000 - device - cpu)


def test_device_and_cpu_end_together() -> None:
    # b = 4 ms, a = 1 ms: x = 4/5.
    split, time = cheapest(PLAIN)
    assert split == Split(800, 200, 0)
    assert time == 800_000 * 1000


def test_a_wait_moves_work_to_the_cpu() -> None:
    # x = (4 - 2) / (1 + 4); both end after 2 + 0.4 ms.
    split, time = cheapest(replace(PLAIN, wait_ns=2_000_000))
    assert split == Split(400, 600, 0)
    assert time == 2_400_000 * 1000


def test_a_wait_beyond_what_the_cpu_takes_leaves_all_to_the_cpu() -> None:
    assert cheapest(replace(PLAIN, wait_ns=4_000_000))[0] == CPU_ONLY


def test_device_alone_when_cpu_time_is_dear() -> None:
    # lambda D = 3.9 ms > a = 1 ms.
    assert cheapest(replace(PLAIN, cpu_price_permille=1000))[0] == DEVICE_ONLY


def test_device_alone_when_the_link_hides_its_time() -> None:
    assert cheapest(replace(PLAIN, link_bytes_s=100 * MB, cpu_price_permille=1))[0] == DEVICE_ONLY


def test_raw_when_the_link_is_faster_than_any_work() -> None:
    assert cheapest(replace(PLAIN, raw_allowed=True))[0] == RAW_ONLY


def test_no_raw_over_a_slow_link() -> None:
    # 1 MB raw takes 10 ms, half of it 5 ms.
    assert cheapest(replace(PLAIN, raw_allowed=True, link_bytes_s=100 * MB))[0] == DEVICE_ONLY


def test_an_unlimited_link_costs_no_time() -> None:
    assert cost(replace(PLAIN, link_bytes_s=0), RAW_ONLY) == 0


def test_a_mixed_batch_is_judged_by_the_poorer_ratio() -> None:
    slow = replace(PLAIN, link_bytes_s=100 * MB, ratio_cpu_permille=1000)
    assert cost(slow, Split(999, 1, 0)) == 10_000_000 * 1000
    assert cost(slow, DEVICE_ONLY) == 5_000_000 * 1000


def test_a_flow_alone_gets_what_three_retries_gave_qemu() -> None:
    # Published for one VM: device alone 18381 ms, retries and fallback 14649 ms, so 3.36 and 4.22 GB/s.
    qemu = replace(PLAIN, batch_bytes=BATCH, device_bytes_s=3360 * MB, cpu_bytes_s=860 * MB, link_bytes_s=0)
    split, time = cheapest(qemu)
    assert split.device_permille == 796
    assert time / cost(qemu, DEVICE_ONLY) == pytest.approx(14649 / 18381, rel=0.002)


def test_cpu_costs_little_until_the_host_is_busy() -> None:
    assert [cpu_price(busy) for busy in (0, 800, 900, 1000, 1200)] == [100, 100, 2050, 4000, 4000]


@given(st.integers(-10, 1100), st.integers(-10, 1100))
def test_cpu_price_never_falls_with_load(one: int, other: int) -> None:
    assert cpu_price(min(one, other)) <= cpu_price(max(one, other))


@given(inputs())
def test_shares_sum_to_one_and_keep_the_rules(given_inputs: SplitInputs) -> None:
    split, _ = cheapest(given_inputs)
    assert split.device_permille + split.cpu_permille + split.raw_permille == 1000
    assert min(split.device_permille, split.cpu_permille, split.raw_permille) >= 0
    assert allowed(given_inputs, split)


@given(inputs())
def test_no_pure_way_is_cheaper(given_inputs: SplitInputs) -> None:
    _, best = cheapest(given_inputs)
    assert all(
        best <= cost(given_inputs, way) for way in (DEVICE_ONLY, CPU_ONLY, RAW_ONLY) if allowed(given_inputs, way)
    )


@given(inputs(), st.integers(0, 1000))
def test_no_mixture_of_device_and_cpu_is_faster_when_cpu_time_is_free(drawn: SplitInputs, permille: int) -> None:
    free = replace(drawn, cpu_price_permille=0, link_bytes_s=0, raw_allowed=False)
    mixture = Split(permille, 1000 - permille, 0)
    assert not allowed(free, mixture) or cheapest(free)[1] <= cost(free, mixture)


@given(inputs(), st.integers(0, 1000))
def test_a_path_dearer_in_cpu_than_the_work_itself_is_never_chosen(drawn: SplitInputs, excess_ns: int) -> None:
    dear = replace(drawn, device_cpu_ns=drawn.cpu_cpu_ns + excess_ns)
    assert cheapest(dear)[0].device_permille == 0
    assert choose(dear, SplitState(DEVICE_ONLY)).split.device_permille == 0


@given(inputs(), times())
def test_more_wait_never_means_more_device(drawn: SplitInputs, longer_ns: int) -> None:
    longer = replace(drawn, wait_ns=drawn.wait_ns + longer_ns)
    assert cheapest(longer)[0].device_permille <= cheapest(drawn)[0].device_permille


@given(inputs(), st.integers(0, 4000))
def test_dearer_cpu_never_means_less_device(drawn: SplitInputs, increase: int) -> None:
    cheap = replace(drawn, raw_allowed=False)
    dear = replace(cheap, cpu_price_permille=cheap.cpu_price_permille + increase)
    assert cheapest(dear)[0].device_permille >= cheapest(cheap)[0].device_permille


@given(inputs())
def test_a_flow_without_share_uses_no_device(drawn: SplitInputs) -> None:
    assert cheapest(replace(drawn, device_bytes_s=0))[0].device_permille == 0


@given(inputs())
def test_the_first_choice_is_the_best(drawn: SplitInputs) -> None:
    assert choose(drawn, None) == SplitState(cheapest(drawn)[0])


@given(inputs(), splits(), st.integers(0, 1))
def test_an_allowed_split_stays_unless_another_is_20_percent_better_twice(
    drawn: SplitInputs, kept: Split, ticks: int
) -> None:
    after = choose(drawn, SplitState(kept, ticks))
    best, best_cost = cheapest(drawn)
    if not allowed(drawn, kept):
        assert after == SplitState(best)
    elif best_cost * 10 >= cost(drawn, kept) * 8:
        assert after == SplitState(kept)
    elif ticks == 0:
        assert after == SplitState(kept, 1)
    else:
        assert after == SplitState(best)


def test_a_gain_that_comes_and_goes_switches_nothing() -> None:
    state = SplitState(CPU_ONLY)
    for _ in range(10):
        state = choose(PLAIN, state)
        state = choose(replace(PLAIN, wait_ns=4_000_000), state)
        assert state.split == CPU_ONLY


def test_a_gain_that_stays_switches_at_the_second_tick() -> None:
    first = choose(PLAIN, SplitState(CPU_ONLY))
    assert first.split == CPU_ONLY
    assert choose(PLAIN, first) == SplitState(Split(800, 200, 0))


def test_a_gain_of_20_percent_is_not_enough() -> None:
    # Device alone takes 1 ms, both 0.8 ms.
    assert choose(PLAIN, SplitState(DEVICE_ONLY, 1)) == SplitState(DEVICE_ONLY)


@pytest.mark.parametrize("field", ["batch_bytes", "cpu_bytes_s", "ratio_device_permille", "ratio_cpu_permille"])
def test_inputs_that_must_be_positive_are_refused_at_zero(field: str) -> None:
    with pytest.raises(ValueError, match="positive"):
        replace(PLAIN, **{field: 0})


@pytest.mark.parametrize("field", ["wait_ns", "device_bytes_s", "link_bytes_s", "device_cpu_ns", "cpu_price_permille"])
def test_negative_inputs_are_refused(field: str) -> None:
    with pytest.raises(ValueError, match="negative"):
        replace(PLAIN, **{field: -1})


@pytest.mark.parametrize("shares", [(500, 400, 0), (1001, -1, 0)])
def test_shares_that_are_not_parts_of_1000_are_refused(shares: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="parts of 1000"):
        Split(*shares)
