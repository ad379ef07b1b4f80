"""Which slots of a pool are whose: the windows of its leases.

`counted` is what may be in force at a flow's holder; its sum over all flows never exceeds the slots that are not the
reserve's, and a smaller window counts only once its holder has acknowledged the lease that it came with. A flow that
has no lease gets one with the window that its share of the weights is worth. Where there is no room for the least one
the windows of others shrink to their shares, and those end that nothing is left to be done with.
"""

from scheduler.core.capacity import Capacity
from scheduler.core.counts import LeaseNumbers
from scheduler.core.flow import Flow
from scheduler.core.shares import Shares
from scheduler.core.tickets import TicketBook
from scheduler.core.units import ServiceClass

#: Of a window, what may be missing or too much.
_SMALL_PART = 8
_CRITICAL = ServiceClass.CRITICAL


class Slots:
    """One pool's; tickets in `book` take slots of the reserve, too."""

    def __init__(self, capacity: Capacity, shares: Shares, book: TicketBook, numbers: LeaseNumbers) -> None:
        #: Sums over all flows, those that are closing included.
        self.general_counted = 0
        self.reserve_counted = 0
        self._capacity = capacity
        self._shares = shares
        self._book = book
        self._numbers = numbers
        #: Flows with slots, in the order they got them; not those that are closing.
        self._holders: dict[Flow, None] = {}

    @property
    def general_free(self) -> int:
        """Slots outside the reserve that nobody can be using."""
        return self._capacity.usable_slots - self.general_counted

    @property
    def leased(self) -> int:
        """Slots that somebody may be using, with a lease or a ticket."""
        return self.general_counted + self.reserve_counted + self._book.taken

    def reserve_free(self, *, learning: bool) -> int:
        """Slots of the reserve that nobody has."""
        return self._book.usable(learning=learning) - self._book.taken - self.reserve_counted

    def critical_has_room(self, flow: Flow, *, learning: bool) -> bool:
        """Whether a CRITICAL flow has slots or can get some now."""
        if flow.window or flow.reserve_window:
            return True
        return self.reserve_free(learning=learning) > 0 or (not learning and self.general_free > 0)

    def make_room(self, flow: Flow, *, learning: bool) -> bool:
        """Give slots to a flow that has none; False where it must wait for them."""
        critical, least = flow.service_class is _CRITICAL, self._capacity.settings.least_window
        if critical:
            reserve = min(least, self.reserve_free(learning=learning))
            if reserve > 0:
                self.set_window(flow, 0, reserve)
                # Its holder may not have heard yet that it has lost what it had.
                self.count(flow, flow.counted, max(flow.reserve_counted, reserve))
                return True
        window = min(self._shares.window(flow), self._room_for(flow))
        if window < (1 if critical else least):
            return False
        self.set_window(flow, window, 0)
        self.count(flow, max(flow.counted, window), flow.reserve_counted)
        return True

    def reclaim(self, waiting: Flow) -> list[Flow]:
        """`waiting` is next and has no room: windows shrink to shares, idle ones end; whose did."""
        promised = sum(flow.counted - flow.window for flow in self._holders)
        if self._room_for(waiting) + promised >= self._capacity.settings.least_window:
            return []
        shrunk = []
        for flow in self._holders:
            target = self._shares.window(flow) if flow.unused_ns else 0
            if target < flow.window:
                self.set_window(flow, target, flow.reserve_window)
                shrunk.append(flow)
        return shrunk

    def fit(self, flow: Flow) -> None:
        """Let a holder have what its share is worth, as far as there is room: who has more slots gets more done."""
        share = self._shares.window(flow)
        # Small steps are not worth a lease that must be acknowledged.
        if flow.window and share > flow.window + flow.window // _SMALL_PART:
            target = min(share, flow.counted + self._room_for(flow))
            if target > flow.window + flow.window // _SMALL_PART:
                self.set_window(flow, target, flow.reserve_window)
                self.count(flow, target, flow.reserve_counted)
        elif flow.window > share * (_SMALL_PART + 1) // _SMALL_PART:
            self.set_window(flow, share, flow.reserve_window)

    def set_window(self, flow: Flow, window: int, reserve_window: int) -> None:
        """A lease with another window."""
        if window != flow.window or reserve_window != flow.reserve_window:
            flow.window, flow.reserve_window = window, reserve_window
            # A new number, or an acknowledgement of the window before could be taken for one of this.
            flow.lease = self._numbers.next()

    def count(self, flow: Flow, counted: int, reserve_counted: int) -> None:
        """What must be taken to be in force at the flow's holder."""
        self.general_counted += counted - flow.counted
        self.reserve_counted += reserve_counted - flow.reserve_counted
        flow.counted, flow.reserve_counted = counted, reserve_counted
        if counted or reserve_counted:
            self._holders[flow] = None
        else:
            self._holders.pop(flow, None)

    def forget(self, flow: Flow) -> None:
        """A flow closes: what it has is counted, and not taken away."""
        self._holders.pop(flow, None)

    def _room_for(self, flow: Flow) -> int:
        """Slots that a flow may have: all that are free but those that others need for what they have reserved."""
        free = self._capacity.usable_slots - self.general_counted
        if not self._shares.reserved:
            return free
        window = self._shares.window
        return free - sum(max(0, window(other) - other.counted) for other in self._shares.reserved if other is not flow)
