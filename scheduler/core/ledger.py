"""What flows were granted and have done: the work that is outstanding, which is what paces a pool's grants.

Who sits on what it was granted is not counted: others must not wait for it.
"""

from scheduler.core.counts import Counts
from scheduler.core.flow import Flow
from scheduler.core.tags import charge_cap
from scheduler.core.units import ServiceClass

_CRITICAL = ServiceClass.CRITICAL


class Ledger:
    """One pool's."""

    def __init__(self, counts: Counts) -> None:
        #: Granted and not done, by all flows and by those that are CRITICAL.
        self.outstanding_ns = 0
        self.critical_ns = 0
        self._counts = counts

    def grant(self, flow: Flow, cost_ns: int) -> None:
        """A flow may do so much more."""
        flow.granted_ns += cost_ns
        if not flow.stuck:
            self.outstanding_ns += cost_ns
            if flow.service_class is _CRITICAL:
                self.critical_ns += cost_ns

    def done(self, flow: Flow, used_ns: int, now_ns: int) -> None:
        """A flow says how far it has come; what nobody granted is paid for as if it had been."""
        more_ns = used_ns - flow.used_ns
        if not flow.heard:
            # Where its counter stands when it is first heard of is no work of ours.
            flow.granted_ns += more_ns
            flow.used_ns = used_ns
            return
        self._counts.used_ns += more_ns
        flow.tenant.used_ns += more_ns
        overrun_ns = used_ns - flow.granted_ns
        if overrun_ns <= 0:
            flow.used_ns = used_ns
            if not flow.stuck:
                self._add(flow, -more_ns)
            return
        self.withdraw(flow)
        flow.granted_ns = flow.used_ns = used_ns
        flow.queue.charge(flow, overrun_ns)
        if flow.cap_ns_s:
            charge_cap(flow, overrun_ns, now_ns)

    def withdraw(self, flow: Flow) -> None:
        """What a flow was granted and has not done it may not do any more."""
        unused_ns = flow.granted_ns - flow.used_ns
        if unused_ns:
            flow.granted_ns = flow.used_ns
            if not flow.stuck:
                self._add(flow, -unused_ns)

    def judge(self, flow: Flow, now_ns: int) -> None:
        """Who has not done half of its work since it was judged last must not keep others waiting for theirs."""
        unused_ns = flow.granted_ns - flow.used_ns
        stuck = flow.used_ns - flow.judged_used_ns < flow.judged_unused_ns // 2
        flow.judged_at_ns, flow.judged_used_ns, flow.judged_unused_ns = now_ns, flow.used_ns, unused_ns
        if stuck != flow.stuck:
            flow.stuck = stuck
            self._add(flow, -unused_ns if stuck else unused_ns)

    def set_class(self, flow: Flow, service_class: ServiceClass) -> None:
        """A flow is served in another class; only while it is in no queue."""
        if flow.service_class is not service_class:
            if flow.service_class is _CRITICAL:
                self.critical_ns -= flow.pending_ns
            if service_class is _CRITICAL:
                self.critical_ns += flow.pending_ns
            flow.service_class = service_class

    def _add(self, flow: Flow, change_ns: int) -> None:
        self.outstanding_ns += change_ns
        if flow.service_class is _CRITICAL:
            self.critical_ns += change_ns
