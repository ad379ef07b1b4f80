"""Reservations and caps by tags in real time (mClock, Gulati, Merchant, Varman 2010).

    reservation r: after a grant of cost c the next one is due c / r later; due grants go before all shares.
                   A flow that is always backlogged gets at least r t minus one grant in every interval t.
    cap l:         after a grant of cost c at time t nothing is granted before max(t, tag) + c / l, so no interval
                   of length t sees more than l t and one grant.

A grant out of the flow's *share* does not count against its reservation: the reservation tag stays where it is, or a
flow would lose its guarantee for having had more before. The cap's tag always moves, or the cap would not hold (dmclock
issue 58 is what becomes of rolling back both). A flow that was not backlogged has no claim on the time before: its
reservation starts at the present.
"""

from scheduler.core.flow import Flow
from scheduler.core.units import NS_PER_S


def begin_reservation(flow: Flow, now_ns: int) -> None:
    """A reserved flow has become backlogged."""
    flow.reservation_tag_ns = max(flow.reservation_tag_ns, now_ns)


def charge_reservation(flow: Flow, cost_ns: int, *, due: bool) -> None:
    """A reserved flow was granted work, because it was `due` or out of its share."""
    if due:
        flow.reservation_tag_ns += cost_ns * NS_PER_S // flow.reservation_ns_s


def charge_cap(flow: Flow, cost_ns: int, now_ns: int) -> None:
    """A capped flow was granted work."""
    flow.cap_tag_ns = max(flow.cap_tag_ns, now_ns) + cost_ns * NS_PER_S // flow.cap_ns_s


def may_be_served(flow: Flow, now_ns: int) -> bool:
    """Whether its cap allows a grant now."""
    return not flow.cap_ns_s or flow.cap_tag_ns <= now_ns
