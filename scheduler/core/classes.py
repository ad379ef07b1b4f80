"""From phase and deadline to a class of service; what a user wants enters as weight, never here.

A guest that stands still, or waits for single pages at its destination, is CRITICAL. A guest that runs is BULK, an
image BACKGROUND. A deadline raises both when slack runs out, slack being what is left of the time after the remaining
work at the flow's own share of the pool:

    slack < horizon / 2: CRITICAL        slack < 2 horizons: URGENT

Being raised costs: it is paid from a bucket that holds `BOOST_HORIZONS` horizons of the flow's share and is filled at a
tenth of that share, so a tenant whose deadlines are always near gets what its weight gives it and a little on top.
Tickets are not paid for here: the reserve they come from admits them one by one.
"""

from scheduler.core.flow import Flow
from scheduler.core.units import NS_PER_S, Phase, ServiceClass

#: What the bucket holds, and what fills it: a part of the flow's share.
BOOST_HORIZONS = 4
_REFILL_PART = 10


def class_of(flow: Flow, share_ns_s: int, horizon_ns: int, now_ns: int) -> ServiceClass:
    """The class that a flow is served in now; `share_ns_s` is what its weight gives it of the pool, per second."""
    wanted = _wanted(flow, share_ns_s, horizon_ns, now_ns)
    if wanted >= flow.home_class:
        return flow.home_class
    return (
        wanted if flow.phase is Phase.POSTCOPY or boost_left(flow, share_ns_s, horizon_ns, now_ns) else flow.home_class
    )


def boost_left(flow: Flow, share_ns_s: int, horizon_ns: int, now_ns: int) -> bool:
    """Fill the flow's bucket up to now; whether anything is in it."""
    most = BOOST_HORIZONS * horizon_ns * share_ns_s // NS_PER_S
    filled = (now_ns - flow.boost_at_ns) * (share_ns_s // _REFILL_PART) // NS_PER_S
    flow.boost_ns = min(most, flow.boost_ns + filled)
    flow.boost_at_ns = now_ns
    return flow.boost_ns > 0


def _wanted(flow: Flow, share_ns_s: int, horizon_ns: int, now_ns: int) -> ServiceClass:
    if flow.phase in (Phase.STOPPED, Phase.POSTCOPY):
        return ServiceClass.CRITICAL
    if flow.deadline_ns is None:
        return flow.home_class
    needed_ns = flow.remaining_ns * NS_PER_S // max(1, share_ns_s)
    slack_ns = flow.deadline_ns - now_ns - needed_ns
    if slack_ns < horizon_ns // 2:
        return ServiceClass.CRITICAL
    if slack_ns < 2 * horizon_ns:
        return ServiceClass.URGENT
    return flow.home_class
