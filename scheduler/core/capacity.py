"""What a pool is worth: its settings, the rate that the controller has it at, and what follows from both.

Worked out when either changes and kept, because every grant needs it.
"""

from scheduler.core.events import PoolSettings
from scheduler.core.flow import Flow
from scheduler.core.leases import life_ns
from scheduler.core.tickets import reserve_permille
from scheduler.core.units import NS_PER_S, PERMILLE, ServiceClass

#: Of the capacity outside the critical reserve, what reservations may take.
_PROMISED_PERMILLE = 800
_PATIENCE_HORIZONS = 4
_CRITICAL = ServiceClass.CRITICAL


class Capacity:
    """One pool's."""

    def __init__(self, settings: PoolSettings, rate_permille: int) -> None:
        self.apply(settings, rate_permille)

    def apply(self, settings: PoolSettings, rate_permille: int) -> None:
        """The pool is there (again), with these settings."""
        self.settings = settings
        self.lease_ns = lease_ns(settings)
        #: The most that one grant is worth, and one of CRITICAL.
        self.lease_cost_ns = self.lease_ns * settings.engines
        self.critical_cost_ns = settings.critical_lease_ns * settings.engines
        #: How long a holder may take for half of what it was granted.
        self.patience_ns = _PATIENCE_HORIZONS * settings.horizon_ns
        #: Slots that are not the reserve's.
        self.usable_slots = settings.slots - settings.critical_slots
        self._life, self._critical_life = (
            (ttl_ns, life_ns(ttl_ns, settings.clock_ppm, settings.drain_ns))
            for ttl_ns in (settings.ttl_ns, settings.critical_ttl_ns)
        )
        self.set_rate(rate_permille)

    def set_rate(self, rate_permille: int) -> None:
        """Of what the engines can do, what is handed out from now on."""
        self.rate_permille = rate_permille
        #: Device-ns per second.
        self.rate_ns_s = self.settings.engines * NS_PER_S * rate_permille // PERMILLE
        #: The most that may be granted and not done, and of it what CRITICAL may have before all others.
        self.most_outstanding_ns = self.settings.horizon_ns * self.rate_ns_s // NS_PER_S
        self.most_critical_ns = self.settings.horizon_ns * reserve_permille(self.settings) // PERMILLE

    @property
    def promisable_ns_s(self) -> int:
        """What reservations may sum up to: most of what is not the critical reserve."""
        capacity_ns_s = self.settings.engines * NS_PER_S
        return capacity_ns_s * self.usable_slots * _PROMISED_PERMILLE // (self.settings.slots * PERMILLE)

    def life_of(self, flow: Flow) -> tuple[int, int]:
        """The time to live that the flow's holder is told, and how long after now its lease must be taken to be in use;
        see `leases`."""
        return self._critical_life if flow.service_class is _CRITICAL else self._life


def lease_ns(settings: PoolSettings) -> int:
    """What one grant is worth, in time of the whole pool.

    No more flows can hold a lease than windows fit. The work that may be granted ahead, and what is done until its
    holders have reported that it is (half as much again), must be spread over fewer than that: or all slots are held by
    flows that wait for their next grant, and the device runs dry (measured: 13 % idle with 100 flows, none after this).
    """
    holders = max(1, (settings.slots - settings.critical_slots) // settings.least_window)
    least_ns = settings.horizon_ns * 15 // (8 * holders)
    return min(settings.horizon_ns, max(settings.lease_ns, least_ns))
