"""What is seen of a pool's device, held against what holders say and what was leased.

More device time than all flows together have reported was somebody's: whoever gives a grant back undone is believed
only as far as the device bears it out. More descriptors than slots were leased are those of somebody without a lease.
"""

from scheduler.core.capacity import Capacity
from scheduler.core.control import Control, target_latency_ns
from scheduler.core.events import DeviceSample

#: Descriptors that may be on their way out while their leases are counted as over.
_SLACK_SLOTS = 4
_OVER_OCCUPIED_SAMPLES = 2


class DeviceWatch:
    """One pool's."""

    def __init__(self) -> None:
        self.control = Control()
        #: More device time than anybody reports.
        self.unexplained_ns = 0
        self._busy_base_ns = self._used_base_ns = 0
        self._over_occupied = 0

    @property
    def over_occupied(self) -> bool:
        """Whether more was seen in the device than was leased, twice in a row: somebody submits without a lease."""
        return self._over_occupied >= _OVER_OCCUPIED_SAMPLES

    def opened(self) -> None:
        """The device is back."""
        self.control = self.control.opened()

    def closed(self) -> None:
        """It has gone."""
        self.control = self.control.closed()

    def sample(
        self, sample: DeviceSample, now_ns: int, capacity: Capacity, *, used_ns: int, leased: int, waiters: bool
    ) -> None:
        """A look at the device: what its flows have reported and what is leased to them is held against it."""
        last = self.control.last
        if last is None or sample.busy_ns < last.busy_ns:
            # The device counts anew: so does the comparison.
            self._busy_base_ns, self._used_base_ns = sample.busy_ns, used_ns
        else:
            more_ns = (sample.busy_ns - self._busy_base_ns) - (used_ns - self._used_base_ns)
            # One grant's worth may be in the device and not reported yet.
            self.unexplained_ns = max(0, more_ns - capacity.lease_cost_ns)
        service_ns = max(1, sample.busy_ns // max(1, sample.completed))
        target_ns = target_latency_ns(capacity.settings.slots, capacity.settings.engines, service_ns)
        self.control = self.control.sample(sample, now_ns, waiters, target_ns)
        self._over_occupied = self._over_occupied + 1 if sample.occupancy > leased + _SLACK_SLOTS else 0
