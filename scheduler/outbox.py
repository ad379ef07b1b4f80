"""Effects that wait for their host's next tick, numbered, until the host has acknowledged them.

Bounded without a limit on its length: of what says the same thing of the same flow only the newest is kept, so there
are never more than kinds x flows of the host.

Leases are an exception, they do not wait: each report makes the core say anew what the host may do, and only that
holds. One that waited could be over meanwhile, by time or because the host, not knowing of it, has given it back. A
ticket is granted once and does wait; it is told with the life it has left, for its holder counts from when it sent the
tick, which is no later than when this answer is made.
"""

from collections.abc import Hashable
from dataclasses import replace

from scheduler.core.effects import (
    Alarm,
    Backpressure,
    Effect,
    EpochBegan,
    Fenced,
    Granted,
    Lease,
    Outlook,
    TicketDenied,
    TicketGranted,
)

#: Effects that are somebody's; the others are the service's own.
HostEffect = Granted | Outlook | Fenced | TicketGranted | TicketDenied | Backpressure


class Outbox:
    """One host's."""

    def __init__(self) -> None:
        #: Key to number, when it was put here, and the effect; oldest first.
        self._kept: dict[Hashable, tuple[int, int, HostEffect]] = {}
        self._last = 0

    def __len__(self) -> int:
        return len(self._kept)

    def put(self, effect: HostEffect, now_ns: int) -> None:
        """Keep it; what it makes out of date goes."""
        key = _key(effect)
        self._kept.pop(key, None)
        self._last += 1
        self._kept[key] = (self._last, now_ns, effect)

    def forget_leases(self) -> None:
        """The host reports: what it may do is said anew."""
        for key in [key for key, kept in self._kept.items() if isinstance(kept[2], Granted)]:
            del self._kept[key]

    def acknowledge(self, number: int) -> None:
        """The host knows everything up to this number."""
        for key in [key for key, kept in self._kept.items() if kept[0] <= number]:
            del self._kept[key]

    def tell(self, now_ns: int) -> tuple[tuple[int, HostEffect], ...]:
        """All that is kept, in order, with their numbers."""
        told = ((number, _aged(effect, now_ns - at_ns)) for number, at_ns, effect in self._kept.values())
        return tuple((number, effect) for number, effect in told if effect is not None)


def host_of(effect: Effect) -> HostEffect | None:
    """The effect if it is a host's."""
    return None if isinstance(effect, EpochBegan | Alarm) else effect


def _key(effect: HostEffect) -> Hashable:
    if isinstance(effect, Granted):
        return Granted, effect.lease.flow, effect.lease.pool
    if isinstance(effect, TicketGranted):
        return TicketGranted, effect.lease.flow, effect.lease.pool, effect.request
    if isinstance(effect, TicketDenied):
        return TicketDenied, effect.flow, effect.pool, effect.request
    if isinstance(effect, Backpressure):
        return Backpressure, effect.pool
    return type(effect), effect.flow, effect.pool


def _aged(effect: HostEffect, age_ns: int) -> HostEffect | None:
    if isinstance(effect, TicketGranted):
        left_ns = effect.lease.ttl_ns - age_ns
        return replace(effect, lease=_shorter(effect.lease, left_ns)) if left_ns > 0 else None
    return effect


def _shorter(lease: Lease, ttl_ns: int) -> Lease:
    return lease if lease.ttl_ns == ttl_ns else replace(lease, ttl_ns=ttl_ns)
