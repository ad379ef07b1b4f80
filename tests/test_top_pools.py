"""The pools of the live view: bars of leased slots, the fullest first, what their devices say."""

from dataclasses import replace

from rich.console import Console

from pipeline.top import view
from pipeline.top_pools import pools_table
from scheduler.core.control import ControlState
from scheduler.core.events import DeviceSample, HostReported, PoolOpened, PoolSettings
from scheduler.core.machine import Scheduler
from scheduler.core.statistics import PoolStatistics
from scheduler.core.units import AcceleratorKind

BAR = "\N{BOX DRAWINGS HEAVY HORIZONTAL}"


def pool(name: str, leased_slots: int, *, up: bool = True, learning: bool = False) -> PoolStatistics:
    scheduler = Scheduler(1, 0, learning=False)
    settings = PoolSettings(f"run/{name}", f"run/{name.partition('/')[0]}", AcceleratorKind.IAA, 128, 16, 8)
    scheduler.handle(PoolOpened(settings), 0)
    sample = DeviceSample(settings.pool, 0, 0, 0, occupancy=17, latency_p99_ns=0)
    scheduler.handle(HostReported(settings.host, 1, 1, (), (sample,)), 1)
    (found,) = scheduler.statistics().pools
    return replace(found, leased_slots=leased_slots, up=up, learning=learning)


def shown(*pools: PoolStatistics, most_rows: int = 10) -> list[list[str]]:
    console = Console(width=160, color_system=None)
    with console.capture() as capture:
        console.print(pools_table(pools, most_rows))
    return [line.split() for line in capture.get().splitlines() if line.strip()]


def test_the_fullest_pool_comes_first_with_a_bar_as_long_as_it_is_full() -> None:
    _heading, _line, full, half, empty = shown(pool("a/iaa/0", 0), pool("b/iaa/1", 112), pool("b/iaa/0", 56))
    # 112 of 128 slots may be leased: the rest is the reserve.
    assert full == ["b/iaa/1", 20 * BAR, "112/112", "17", "0", "0", "0", "steady"]
    assert half == ["b/iaa/0", 10 * BAR, "56/112", "17", "0", "0", "0", "steady"]
    assert empty == ["a/iaa/0", "0/112", "17", "0", "0", "0", "steady"]


def test_a_device_that_is_down_or_whose_scheduler_learns_says_so() -> None:
    rows = shown(pool("a/iaa/0", 3, up=False), pool("b/iaa/0", 2, learning=True), pool("c/iaa/0", 1))
    assert [row[-1] for row in rows[2:]] == ["down", "learning", "steady"]
    busy = pool("a/iaa/0", 1)
    assert shown(replace(busy, control=replace(busy.control, state=ControlState.BUSY)))[2][-1] == "busy"


def test_only_so_many_pools_are_shown_and_the_rest_is_counted() -> None:
    rows = shown(*(pool(f"h{number}/iaa/0", number) for number in range(5)), most_rows=2)
    assert [row[0] for row in rows[2:]] == ["h4/iaa/0", "h3/iaa/0", "and"]
    assert rows[-1] == ["and", "3", "more"]


def test_a_view_without_pools_has_no_section_for_them() -> None:
    console = Console(width=160, color_system=None)
    with console.capture() as capture:
        console.print(view([], {}, 10))
        console.print(view([], {}, 10, [pool("a/iaa/0", 1)]))
    assert capture.get().count("in device") == 1
