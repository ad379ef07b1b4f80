"""A resource that its users share evenly at every moment: the CPUs of a host, a link.

With n users and capacity C each is served at r = min(limit, C / n). In virtual time, which runs at rate r, a job of
size a that arrives at V ends at V + a, whoever comes or goes meanwhile: a heap of these ends and one timer are enough,
O(log n) an event.
"""

from heapq import heappop, heappush
from math import ceil, inf

import simpy


class FairShare:
    """Work is in units, capacity and limit in units per ns. An infinite capacity and limit make everything instant."""

    def __init__(self, env: simpy.Environment, capacity: float, limit: float = inf) -> None:
        self._env = env
        self.capacity = capacity
        self._limit = limit
        self._virtual = 0.0
        self._at_ns = 0
        self._rate = min(limit, capacity)
        self._occupants = 0
        self._ends: list[tuple[float, int, simpy.Event]] = []
        self._sequence = 0
        #: When the timer that counts fires; others are stale.
        self._timer_ns = -1
        self._used = 0.0

    @property
    def users(self) -> int:
        """Jobs and occupants, now."""
        return len(self._ends) + self._occupants

    @property
    def rate(self) -> float:
        """What each user gets now, units per ns."""
        return self._rate

    def used(self) -> float:
        """Units served so far."""
        self._advance()
        return self._used

    def work(self, amount: float) -> simpy.Event:
        """An event that fires when `amount` has been served."""
        event = self._env.event()
        if amount <= 0 or self._rate == inf:
            self._used += max(amount, 0.0)
            event.succeed()
            return event
        self._advance()
        self._sequence += 1
        heappush(self._ends, (self._virtual + amount, self._sequence, event))
        self._settle()
        return event

    def occupy(self) -> None:
        """Take a share until `vacate`: a thread that spins."""
        self._advance()
        self._occupants += 1
        self._settle()

    def vacate(self) -> None:
        """Give the share of `occupy` back."""
        self._advance()
        self._occupants -= 1
        self._settle()

    def _advance(self) -> None:
        elapsed_ns = self._env.now - self._at_ns
        if elapsed_ns:
            served = elapsed_ns * self._rate
            self._virtual += served
            self._used += served * self.users
            self._at_ns = int(self._env.now)

    def _settle(self) -> None:
        """After a change of users: the new rate, and a timer for the next end."""
        self._rate = min(self._limit, self.capacity / max(1, self.users))
        if not self._ends:
            self._timer_ns = -1
            return
        delay_ns = max(0, ceil((self._ends[0][0] - self._virtual) / self._rate))
        due_ns = int(self._env.now) + delay_ns
        if due_ns != self._timer_ns:
            self._timer_ns = due_ns
            timer = self._env.timeout(delay_ns, due_ns)
            timer.callbacks.append(self._fire)

    def _fire(self, timer: simpy.Event) -> None:
        if timer.value != self._timer_ns:
            return
        self._timer_ns = -1
        self._advance()
        # The timer is on whole ns: whatever ends within this one ends now.
        limit = self._virtual + self._rate * 1e-3
        while self._ends and self._ends[0][0] <= limit:
            heappop(self._ends)[2].succeed()
        self._settle()
