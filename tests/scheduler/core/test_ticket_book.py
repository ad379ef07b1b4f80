"""How much one ticket can be for: exactly what the reserve gives out at once, and nothing where there is none."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from scheduler.core.events import PoolSettings
from scheduler.core.tickets import TicketBook
from scheduler.core.units import AcceleratorKind

POOL = PoolSettings("h/iaa/0", "h", AcceleratorKind.IAA, slots=128, critical_slots=16, engines=2)


@given(st.integers(2, 500), st.integers(0, 499), st.integers(1, 64), st.integers(1, 10**10))
def test_the_most_is_granted_and_any_more_is_not(slots: int, critical: int, engines: int, within_ns: int) -> None:
    critical = min(critical, slots - 1)
    settings = replace(POOL, slots=slots, critical_slots=critical, engines=engines, least_window=1)
    book = TicketBook.of(settings)
    usable, most_ns = book.usable(learning=False), book.most_cost_ns(within_ns)
    if usable and most_ns:
        assert book.slots_for(most_ns, within_ns) <= usable
    assert not usable or book.slots_for(most_ns + 1, within_ns) > usable
    assert usable or most_ns == 0


def test_the_reserve_promises_its_part_of_the_device_but_for_a_restart_and_a_fifth() -> None:
    # 16 of 128 slots, of which 4 are for a restart, of two engines: 150 ms of 0.8 s.
    assert TicketBook.of(POOL).most_cost_ns(10**9) == 12 * 2 * 800_000_000 // 128
