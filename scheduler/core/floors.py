"""Class floors: while BULK or BACKGROUND has demand it gets at least its share of what is granted, whoever is above.

A class k with floor rho has a credit. Every grant of cost c to anybody adds rho c while k has demand, a grant to k
takes c. At a credit of zero or more k is due, before URGENT and before the classes above it. Credit begins at zero, is
never above one grant (a class that could not be served saves nothing up) and never more than one grant below zero (nor
is it punished for having had the device to itself). So with grants of at most L on a pool of capacity C, a class with
demand waits for its next grant at most

    L / (rho C) + L / C.
"""

from scheduler.core.capacity import Capacity
from scheduler.core.units import PERMILLE, ServiceClass


class Floors:
    """The credits of one pool's classes with a floor."""

    def __init__(self, capacity: Capacity) -> None:
        self._credit = [0] * len(ServiceClass)
        self.apply(capacity)

    def apply(self, capacity: Capacity) -> None:
        """The floors are those of the pool's settings, permille; a floor of zero is none. Credits stay."""
        self._floors = [0] * len(ServiceClass)
        self._floors[ServiceClass.BULK] = capacity.settings.bulk_floor
        self._floors[ServiceClass.BACKGROUND] = capacity.settings.background_floor
        self._limit = capacity.lease_cost_ns * PERMILLE

    def begin(self, service_class: ServiceClass) -> None:
        """A class has demand that had none; what it had too much before is not forgotten."""
        self._credit[service_class] = min(0, self._credit[service_class])

    def due(self, service_class: ServiceClass) -> bool:
        """Whether a class with demand has had less than its floor."""
        return self._floors[service_class] > 0 and self._credit[service_class] >= 0

    def charge(self, demanding: ServiceClass, served: ServiceClass, cost_ns: int) -> None:
        """`served` was granted work while `demanding` had demand."""
        part = self._floors[demanding] - (PERMILLE if served is demanding else 0)
        credit, limit = self._credit[demanding] + cost_ns * part, self._limit
        self._credit[demanding] = limit if credit > limit else max(-limit, credit)
