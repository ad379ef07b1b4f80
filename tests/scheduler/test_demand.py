"""Demand follows what workers ask for: at once upwards, by halves downwards, doubled while they are denied."""

import pytest

from scheduler.core.events import PoolSettings
from scheduler.core.units import AcceleratorKind
from scheduler.demand import Demand

MS = 1_000_000
POOL = PoolSettings("a/iaa/0", "a", AcceleratorKind.IAA, 128, 16, 8)


@pytest.mark.parametrize(
    ("asked_ms", "denied", "expected_ms"), [(100, 0, 312.5), (100, 3, 500), (1000, 1, 2000), (0, 0, 12.5)]
)
def test_what_was_asked_is_projected_to_the_horizon(asked_ms: int, denied: int, expected_ms: float) -> None:
    demand = Demand(POOL)
    assert demand.demand_ns == POOL.lease_ns
    demand.observe(asked_ms * MS, denied, 0, 100 * MS)
    assert demand.demand_ns == expected_ms * MS


def test_it_falls_by_half_and_not_below_what_is_under_way() -> None:
    demand = Demand(POOL)
    demand.observe(80 * MS, 0, 0, 100 * MS)
    seen = []
    for _ in range(4):
        demand.observe(0, 0, 30 * MS, 100 * MS)
        seen.append(demand.demand_ns // MS)
    assert seen == [125, 62, 31, 30]
